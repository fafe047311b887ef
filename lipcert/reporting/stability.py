"""How steep a network is at each test image: rows, their maxima, and the table of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table


class StabilityRow(NamedTuple):
    """One line of stability.csv: one test image. l2 norms, per pixel of [0, 1]; none of them bounds anything.

    `loss` is the cross-entropy, `loss_gradient` the norm of its gradient, `jacobian` the spectral norm of the logits'
    Jacobian, `jacobian_rows` its longest row: the steepest logit.
    """

    index: int  # type: ignore[assignment]
    loss: float
    loss_gradient: float
    jacobian: float
    jacobian_rows: float


# The largest of a column among the test images: key of summary.json, and what it is called elsewhere.
MAXIMA = {
    "max_loss_gradient": ("loss_gradient", "steepest loss gradient"),
    "max_jacobian": ("jacobian", "largest Jacobian norm"),
    "max_jacobian_rows": ("jacobian_rows", "steepest logit gradient"),
}
PRODUCTS = {
    "product_of_norms": "product of the layers' norms, joined as the layers are (proved)",
    "norm_of_product": "norm of the product of the layers without activations (no bound)",
}


def maxima(rows: Sequence[StabilityRow]) -> dict[str, float]:
    """Lower bounds of the Lipschitz constants of the loss, of the logits and of one logit: the steepest seen."""
    return {key: max(getattr(row, column) for row in rows) for key, (column, _) in MAXIMA.items()} if rows else {}


def stability_table(content: Mapping[str, Any]) -> Table:
    """stability.json on the terminal: the maxima, and what products of weights make of the same network."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for key, (_, name) in MAXIMA.items():
        table.add_row(f"{name} on {content['images']:,} images, l2", f"{content[key]:.6g}")
    for key, name in PRODUCTS.items():
        value = content[key]
        table.add_row(name, value if isinstance(value, str) else f"{value:.6g}")
    return table
