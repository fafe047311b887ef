"""Networks with one branch per class (multi-L2NNN): each logit is 1-Lipschitz by itself; branches run as one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.kernels.whole import kept_whole
from lipcert.layers.nonexpansive import _Constrained


class BranchLinear(_Constrained):
    """One linear map per branch, each nonexpansive by itself: (B, in) or (B, K, in) to (B, K, out)."""

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


@kept_whole("branch_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def branch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, in) or (B, K, in) by `weight` (K, out, in), plus `bias` (K, 1, out): (B, K, out)."""
    if x.dim() == 2:
        out = torch.einsum("bi,koi->kbo", x, weight)
        out = out if bias is None else out + bias
    elif bias is None:
        out = x.transpose(0, 1) @ weight.mT
    else:
        out = torch.baddbmm(bias, x.transpose(0, 1), weight.mT)
    return out.transpose(0, 1)


class Replicate(nn.Module):
    """Gives the whole image to each of K separate networks: (B, C, H, W) to (B, K·C, H, W), ordered by branch."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.branches, 1, 1)


class FlattenBranches(nn.Module):
    """(B, K·C, H, W) to (B, K, C·H·W)."""

    def __init__(self, branches: int):
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.branches, -1)


class JoinBranches(nn.Module):
    """(B, K, 1), one number per branch, to the logits (B, K)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)
