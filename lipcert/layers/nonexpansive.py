"""Linear maps that never expand an l2 distance (Qian & Wegman, ICLR 2019, §2.2 and appendix A.1).

b(W) = min( r(WᵀW), r(WWᵀ) ) with r(M) = max_i Σ_j |M_ij| bounds the squared spectral norm of W (eq. 2).
The strict scheme computes with W/√b(W); the soft scheme with W itself, while the penalty of eq. 7 keeps b(W) near 1.
A layer is strict at first; a schedule may drive its `strict`, 0 for the soft scheme and 1 for the strict one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.kernels.whole import kept_whole


class _RowSum(torch.autograd.Function):
    """r(WWᵀ) of (..., m, n) matrices. One row of the Gram matrix attains the maximum, so that the gradient is one outer
    product, where autograd would compute two matrix products at three times the cost."""

    @staticmethod
    def forward(ctx, w: Tensor) -> Tensor:
        gram = w @ w.mT
        sums, row = gram.abs().sum(-1).max(-1)
        signs = gram.take_along_dim(row[..., None, None], -2).sign()
        ctx.save_for_backward(w, row, signs)
        return sums

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        w, row, signs = ctx.saved_tensors  # signs (..., 1, m)
        at = row[..., None, None]
        top = w.take_along_dim(at, -2)
        signs = signs * grad[..., None, None]
        return (signs.mT * top).scatter_add_(-2, at.expand(top.shape), signs @ w)


@kept_whole('gram_bound(Tensor w, str gram="smaller") -> Tensor')
def gram_bound(w: Tensor, gram: str = "smaller") -> Tensor:
    """b(W) ≥ ‖W‖₂² for (..., m, n) matrices, one number each (eq. 2).

    `gram` chooses the Gram matrix: "rows" (WWᵀ), "cols" (WᵀW), "min" (the better bound of the two), or "smaller", whose
    cost is negligible where the larger one may cost more than the layer itself. Each is sound. ValueError for another
    word.
    """
    return _of_gram(w, gram, _RowSum.apply)


def gram_penalty(w: Tensor, gram: str = "smaller") -> Tensor:
    """L_W of eq. 7: Σ_i max(Σ_j |M_ij| − 1, 0) of the Gram matrix M that `gram` chooses, summed over all matrices."""

    def excess(v: Tensor) -> Tensor:
        return ((v @ v.mT).abs().sum(-1) - 1).clamp_min(0).sum(-1)

    return _of_gram(w, gram, excess).sum()


def _of_gram(w: Tensor, gram: str, of_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """`of_rows`, a function of the rows of W, for W or Wᵀ as `gram` says; in the precision of W, whatever mixed
    precision would make of it."""
    if gram not in ("smaller", "rows", "cols", "min"):
        raise ValueError(f"`gram` must be smaller, rows, cols or min, got {gram!r}")
    with torch.autocast(w.device.type, enabled=False):
        if gram == "min":
            return torch.minimum(of_rows(w), of_rows(w.mT))
        rows = w.shape[-2] <= w.shape[-1] if gram == "smaller" else gram == "rows"
        return of_rows(w if rows else w.mT)


def copies(kernel: int, stride: int) -> int:
    """The largest number of windows in which one entry appears along one axis: ⌈K/S⌉, rounded up to be a bound."""
    return math.ceil(kernel / stride)


class _Constrained(nn.Module):
    """What the layers below share. Subclasses give the weight as `matrices()`, (G, m, n), each with its own b(W)."""

    weight: Tensor
    gram: str
    strict: float

    def matrices(self) -> Tensor:
        raise NotImplementedError

    def copy_factor(self) -> float:
        return 1.0

    def scale(self) -> Tensor:
        """√b(W) of every matrix, (G,), at least 1e-12."""
        return gram_bound(self.matrices(), self.gram).clamp_min(1e-24).sqrt()

    def weight_penalty(self) -> Tensor:
        """The penalty of eq. 7, a scalar; 0 under the strict scheme."""
        return self.weight.new_zeros(()) if self.strict else gram_penalty(self.matrices(), self.gram)

    @torch.no_grad()
    def retract(self) -> None:
        """A step towards orthogonal rows or columns, W ← (3W − WWᵀW)/2 (Björck & Bowie, 1971), which changes no claim.

        After the steps of an optimizer that asks for it, b(W) ≈ ‖W‖₂² ≈ 1, so that dividing by √b(W) changes little.
        """
        w = self.matrices()
        w = w.mT if w.shape[-2] > w.shape[-1] else w
        w.copy_(torch.baddbmm(w, w @ w.mT, w, beta=1.5, alpha=-0.5))

    def constrained_weight(self) -> Tensor:
        """The weight of the equivalent plain layer."""
        if not self.strict:
            return self.weight / self.copy_factor()
        factor = 1 / (self.scale() * self.copy_factor())
        return self.weight * factor.repeat_interleave(len(self.weight) // len(factor)).view(
            -1, *[1] * (self.weight.dim() - 1)
        )

    def claim(self) -> Tensor:
        """The bound (G,) that the scheme promises for the norm of each matrix's map: 1 if strict, √b(W) if soft."""
        return torch.ones_like(self.scale()) if self.strict else self.scale()


class NonexpansiveLinear(nn.Linear, _Constrained):
    """x ↦ Ŵx + bias with ‖Ŵ‖₂ ≤ 1 under the strict scheme; (B, in) to (B, out)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, gram: str = "smaller"):
        super().__init__(in_features, out_features, bias)
        self.gram, self.strict = gram, 1.0
        nn.init.orthogonal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)

    def matrices(self) -> Tensor:
        return self.weight[None]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.constrained_weight(), self.bias)


class UnitRowsLinear(NonexpansiveLinear):
    """The last layer of a multi-L2NNN: its rows have norm 1, each logit is 1-Lipschitz by itself (radius: gap/2)."""

    def matrices(self) -> Tensor:
        return self.weight[:, None]

    def scale(self) -> Tensor:
        return self.weight.norm(dim=1).clamp_min(1e-12)

    @torch.no_grad()
    def retract(self) -> None:
        self.weight.div_(self.scale()[:, None])

    def weight_penalty(self) -> Tensor:
        return self.weight.new_zeros(()) if self.strict else (self.weight.square().sum(1) - 1).clamp_min(0).sum()


class NonexpansiveConv2d(nn.Conv2d, _Constrained):
    """Zero-padded convolution whose operator norm is ≤ 1 under the strict scheme; (B, C, H, W) to (B, C', H', W').

    Cutting the image into windows has norm c(K, S) = √(⌈K₁/S₁⌉⌈K₂/S₂⌉), by which the map is divided. With
    `divide=False` it is not divided, and the layer claims c(K, S) instead. A convolution of G groups has G matrices.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        gram: str = "smaller",
        divide: bool = True,
    ):
        if min(in_channels, out_channels, kernel_size, stride) < 1:
            given = (in_channels, out_channels, kernel_size, stride)
            raise ValueError(f"a convolution needs channels, kernel and stride of at least 1, got {given}")
        self.geometry = (kernel_size, stride, padding)
        super().__init__(in_channels, out_channels, *self.geometry, groups=groups, bias=bias)
        self.gram, self.strict, self.divide = gram, 1.0, divide
        for group in self.weight.data.chunk(groups):
            nn.init.orthogonal_(group)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def matrices(self) -> Tensor:
        return self.weight.view(self.groups, self.out_channels // self.groups, -1)

    def tiling_norm(self) -> float:
        """c(K, S), the norm of the operator that copies an image into windows."""
        (k1, k2), (s1, s2) = self.kernel_size, self.stride
        return math.sqrt(copies(k1, s1) * copies(k2, s2))

    def copy_factor(self) -> float:
        return self.tiling_norm() if self.divide else 1.0

    def claim(self) -> Tensor:
        return super().claim() * (1.0 if self.divide else self.tiling_norm())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.constrained_weight(), self.bias, self.stride, self.padding, groups=self.groups)
