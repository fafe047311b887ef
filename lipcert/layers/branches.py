"""Networks with one branch a class (multi-L2NNN): every logit is 1-Lipschitz by itself; branches run as one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.contracts import Signal
from lipcert.layers.nonexpansive import _Constrained


class BranchLinear(_Constrained):
    """One linear map a branch, each nonexpansive by itself: (B, in) or (B, K, in) to (B, K, out)."""

    def __init__(self, branches: int, in_features: int, out_features: int, bias: bool = True, gram: str = "smaller"):
        super().__init__()
        self.gram, self.strict = gram, 1.0
        self.weight = nn.Parameter(torch.empty(branches, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(branches, 1, out_features)) if bias else None
        for branch in self.weight.data:
            nn.init.orthogonal_(branch)

    def matrices(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return branch_linear(x, self.constrained_weight(), self.bias)

    def fold(self) -> PlainBranchLinear:
        with torch.no_grad():
            bias = None if self.bias is None else self.bias.clone()
            return PlainBranchLinear(self.constrained_weight(), bias, self.claim().tolist())


class PlainBranchLinear(nn.Module):
    """`BranchLinear` with its constraint folded into the weight, and the norms it claims."""

    def __init__(self, weight: Tensor, bias: Tensor | None, claim: list[float]):
        super().__init__()
        self.claim = claim
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return branch_linear(x, self.weight, self.bias)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        branches, outputs, inputs = self.weight.shape
        if signal.shape not in ((inputs,), (branches, inputs)):
            raise ValueError(f"`{name}`: {inputs} features expected, {signal.shape} found")
        if signal.shape == (inputs,):
            signal = signal.merged()  # every branch sees all of it
        if signal.lipschitz.dim() == 0:  # the fork: every branch sees the whole trunk, no splitting needed (A.3)
            signal = Signal((inputs,), signal.lipschitz.expand(branches), *_rest(signal))
        shape = (branches,) if outputs == 1 else (branches, outputs)
        return walk.matrices(name, self, signal, self.weight, shape)


def branch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dim() == 2:
        out = torch.einsum("bi,koi->kbo", x, weight)
        out = out if bias is None else out + bias
    elif bias is None:
        out = x.transpose(0, 1) @ weight.mT
    else:
        out = torch.baddbmm(bias, x.transpose(0, 1), weight.mT)
    return out.transpose(0, 1)


def _rest(signal: Signal) -> tuple[float, float, float]:
    return signal.magnitude, signal.error, signal.unit


class Replicate(nn.Module):
    """Hands the whole image to each of K separate networks: (B, C, H, W) to (B, K·C, H, W), the branches first."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.branches, 1, 1)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        c, h, w = signal.shape
        return Signal((self.branches * c, h, w), signal.lipschitz.expand(self.branches), *_rest(signal))


class FlattenBranches(nn.Module):
    """(B, K·C, H, W) to (B, K, C·H·W)."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.branches, -1)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        c, h, w = signal.shape
        return signal.after((self.branches, c // self.branches * h * w))


class JoinBranches(nn.Module):
    """(B, K, 1), one number a branch, to the logits (B, K)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)

    def bound(self, signal: Signal, walk, name: str) -> Signal:
        return signal
