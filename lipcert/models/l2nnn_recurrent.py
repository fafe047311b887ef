"""A recurrent L2NNN, which reads an image row by row (Qian & Wegman, ICLR 2019, appendix A.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipcert.layers import NonexpansiveRNN, UnitRowsLinear
from lipcert.models.headed import Headed
from lipcert.models.sizes import check_sizes


class Rows(nn.Module):
    """An image as the sequence of its rows, from the top: (B, C, H, W) to (B, H, C·W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class LastState(nn.Module):
    """(B, T + 1, n), the outputs of all steps and the last state, to that state alone, (B, n)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


class L2NNNRecurrent(Headed):
    """A recurrent cell with `hidden` two-sided ReLUs reads one row of the image per step; a linear layer with rows of
    norm 1 reads the last state, or with readout="all" the outputs of all steps too.

    At each step the values of the ReLUs are split: t times them is the output, and √(1 − t²) times them is the next
    state. The whole is nonexpansive for any number of rows, and each logit is 1-Lipschitz by itself (radius: gap/2).
    Raises ValueError where an option is out of its range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: int = 128,
        t: float = 0.5,
        readout: str = "all",
        gram: str = "smaller",
    ):
        check_sizes(hidden=hidden)
        if not 0 <= t <= 1:
            raise ValueError(f"`model.t` must lie in [0, 1], got {t}")
        if readout not in ("all", "last"):
            raise ValueError(f"`model.readout` must be all or last, got {readout!r}")
        channels, rows, breadth = input_shape
        cell = NonexpansiveRNN(channels * breadth, hidden, t, gram)
        read: nn.Module = nn.Flatten() if readout == "all" else LastState()
        width = 2 * hidden * (rows + 1 if readout == "all" else 1)
        super().__init__(nn.Sequential(Rows(), cell, read), UnitRowsLinear(width, num_classes, gram=gram))
        remember_rows(cell.cell.linear.weight, channels * breadth)


@torch.no_grad()
def remember_rows(weight: Tensor, inputs: int, noise: float = 1e-2) -> None:
    """Initialises a cell's weight (hidden, inputs + 2·hidden) as a shift register with N(0, noise²/columns) added.

    The row of the image is copied to the first `inputs` units, and the row before moves from there to the next ones.
    Pixels are not negative, so that a two-sided ReLU passes them on, and the state holds the last hidden/inputs rows,
    each times √(1 − t²) for every step since. A cell with no more units than inputs stays as it is.
    """
    hidden = len(weight)
    if hidden <= inputs:
        return
    weight.normal_(std=noise / math.sqrt(inputs + 2 * hidden))
    weight[:inputs, :inputs] += torch.eye(inputs)
    weight[inputs:, inputs:hidden] += torch.eye(hidden - inputs)
