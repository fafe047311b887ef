"""The table of `analysis=stability` on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lipcert.runs.numbers import MAXIMA

if TYPE_CHECKING:
    from rich.table import Table


ANGLES = {
    "smallest_cosine": "smallest cosine of the loss's gradient and its sign",
    "mean_cosine": "their mean cosine",
}
PRODUCTS = {
    "product_of_norms": "product of the layers' norms, joined as the layers are (proved)",
    "norm_of_product": "norm of the product of the layers without activations (no bound)",
}


def stability_table(content: Mapping[str, Any]) -> Table:
    """stability.json on the terminal: the maxima, and what products of weights make of the same network."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for key, (_, name) in MAXIMA.items():
        table.add_row(f"{name} on {content['images']:,} images, l2", f"{content[key]:.6g}")
    for key, name in (ANGLES | PRODUCTS).items():
        value = content.get(key)
        table.add_row(name, value if isinstance(value, str) else "none" if value is None else f"{value:.6g}")
    if "images_above" in content:
        ratio = content["largest_ratio"]
        table.add_row("largest Jacobian divided by the latter", "infinite" if ratio is None else f"{ratio:.6g}")
    return table
