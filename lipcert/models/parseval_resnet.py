"""`lmt_resnet` as a Parseval network (Cissé et al., ICML 2017): LMT's baseline."""

from __future__ import annotations

from lipcert.layers import ConvexSum, ParsevalConv2d
from lipcert.models.lmt_resnet import LMTResNet


class ParsevalResNet(LMTResNet):
    """Training moves the rows of convolutions, divided by √(kernel area), towards orthonormal ones; sums are convex."""

    conv, join = ParsevalConv2d, ConvexSum
