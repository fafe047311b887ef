"""TULIP's Lemma 3.3 held against the Jacobians of a network: is the norm of the weights' product a bound of them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def lemma(jacobians: Sequence[float], norm_of_product: float | str) -> dict[str, Any]:
    """What the images say of ‖J‖₂ ≤ ‖product of the weight matrices‖₂, Lemma 3.3 of Finlay, Oberman & Abbasi (2018).

    jacobians        ‖J‖₂ at each image
    norm_of_product  the spectral norm of the network without its activations, or why there is none

    The lemma is false: with the weights [1, −1] and [1; 1] and a ReLU between them, the product is 0 and the slope 1.

    Returns `largest_ratio`, the largest ‖J‖₂ divided by that norm (infinite, and null in JSON, if that norm is 0), and
    `images_above`, how many Jacobians are larger than it. {} where there is no such norm.
    """
    if isinstance(norm_of_product, str) or not jacobians:
        return {}
    largest = max(jacobians)
    ratio = largest / norm_of_product if norm_of_product else float("inf") if largest else 0.0
    return {"largest_ratio": ratio, "images_above": sum(size > norm_of_product for size in jacobians)}


def in_words(content: dict[str, Any]) -> str:
    """What stability.json says of the lemma, in one sentence; "" where the lemma says nothing of the network."""
    if "images_above" not in content:
        return ""
    bound, largest = f"{content['norm_of_product']:.6g}", f"{content['max_jacobian']:.6g}"
    if above := content["images_above"]:
        return (
            f"Lemma 3.3 of TULIP is false here: its bound {bound} is below the Jacobian of {above:,} of "
            f"{content['images']:,} images, of which the largest is {largest}."
        )
    return (
        f"Lemma 3.3 of TULIP is not contradicted here: its bound {bound} is above the largest Jacobian {largest}. "
        "It is false all the same, and proves nothing."
    )
