"""Distances between filters and the patches of images, which are unfolded for a few images at a time.

Unfolding costs n copies per patch, and the distances n operations per patch and filter, so that avoiding it would save
no time. Holding all patches at once would cost memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.kernels.lp_distance import linf_bounds, lp_distance
from lipcert.kernels.whole import kept_whole

ENTRIES = 2**23  # entries of unfolded patches that are held at a time: 32 MiB in float32


def _shape(x: Tensor, w: Tensor, p: float, stride: int, padding: int, groups: int) -> Tensor:
    sides = ((n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True))
    return x.new_empty(x.shape[0], w.shape[0], *sides)


@kept_whole(
    "lp_distance_conv2d(Tensor x, Tensor w, float p, int stride, int padding, int groups) -> Tensor", shape=_shape
)
def lp_distance_conv2d(x: Tensor, w: Tensor, p: float, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """y[b, o] = ‖patch − w_o‖_p at every position: x (B, C, H, W) and w (C', C/groups, k, k) to (B, C', H', W').

    x is padded with zeros. Differentiable in x and w. Raises ValueError where the shapes do not fit.
    """
    return _Convolution.apply(x, w, p, stride, padding, groups)


def linf_bounds_conv2d(
    low: Tensor, high: Tensor, w: Tensor, stride: int = 1, padding: int = 0, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """The range (lower, upper), each (B, C', H', W'), of the distances at p = ∞ over images low ≤ x ≤ high."""
    plan = _Plan(low, w, stride, padding, groups)
    lower, upper = low.new_empty(plan.shape), low.new_empty(plan.shape)
    for images in plan.chunks():
        for g, rows in enumerate(w.flatten(1).chunk(groups)):
            ends = linf_bounds(plan.patches(low[images], g), plan.patches(high[images], g), rows)
            for out, end in zip((lower, upper), ends, strict=True):
                plan.place(out[images], end, g)
    return lower, upper


class _Plan:
    """The positions of a convolution's patches, and the number of images that are unfolded together."""

    def __init__(self, x: Tensor, w: Tensor, stride: int, padding: int, groups: int):
        out, per_group, k, k2 = w.shape
        if k != k2 or x.dim() != 4 or x.shape[1] != per_group * groups or out % groups:
            raise ValueError(f"filters {tuple(w.shape)} in {groups} groups do not fit images {tuple(x.shape)}")
        sides = [(n + 2 * padding - k) // stride + 1 for n in x.shape[2:]]
        if min(sides) < 1:
            raise ValueError(f"a {k}×{k} filter does not fit images {tuple(x.shape)} padded by {padding}")
        self.window = {"kernel_size": k, "stride": stride, "padding": padding}
        self.groups, self.images, self.size = groups, len(x), x.shape[2:]
        self.shape = (len(x), out, *sides)
        self.together = max(1, ENTRIES // (sides[0] * sides[1] * w[0].numel()))

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.images, self.together):
            yield slice(start, min(start + self.together, self.images))

    def patches(self, x: Tensor, group: int) -> Tensor:
        """The patches of a group, (images·positions, C/G·k·k)."""
        unfolded = F.unfold(x.chunk(self.groups, 1)[group], **self.window)
        return unfolded.transpose(1, 2).flatten(0, 1)

    def back(self, patches: Tensor, images: int) -> Tensor:
        """The adjoint of `patches`: sums the copies of each entry."""
        return F.fold(patches.unflatten(0, (images, -1)).transpose(1, 2), self.size, **self.window)

    def rows(self, y: Tensor, group: int) -> Tensor:
        """(images, C', H', W') to (images·positions, C'/G), the layout of `patches`."""
        return y.chunk(self.groups, 1)[group].flatten(2).transpose(1, 2).flatten(0, 1)

    def place(self, y: Tensor, rows: Tensor, group: int) -> None:
        view = y.chunk(self.groups, 1)[group]
        view.copy_(rows.unflatten(0, (len(y), -1)).transpose(1, 2).view_as(view))


class _Convolution(torch.autograd.Function):
    """Unfolds again in the backward pass, so that only x and w are kept for it."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, p: float, stride: int, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.call = (p, stride, padding, groups)
        plan = _Plan(x, w, stride, padding, groups)
        y = x.new_empty(plan.shape)
        for images in plan.chunks():
            for g, rows in enumerate(w.flatten(1).chunk(groups)):
                plan.place(y[images], lp_distance(plan.patches(x[images], g), rows, p), g)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor):
        (grad,) = grads
        x, w = ctx.saved_tensors
        p, stride, padding, groups = ctx.call
        need_x, need_w, *_ = ctx.needs_input_grad
        plan = _Plan(x, w, stride, padding, groups)
        gx, gw = (torch.zeros_like(t) if need else None for t, need in ((x, need_x), (w, need_w)))
        for images in plan.chunks():
            for g, rows in enumerate(w.flatten(1).chunk(groups)):
                with torch.enable_grad():
                    patches = plan.patches(x[images], g).detach().requires_grad_(need_x)
                    rows = rows.detach().requires_grad_(need_w)
                    y = lp_distance(patches, rows, p)
                wanted = [t for t in (patches, rows) if t.requires_grad]
                found = list(torch.autograd.grad(y, wanted, plan.rows(grad[images], g)))
                if gx is not None:
                    gx[images].chunk(groups, 1)[g].copy_(plan.back(found.pop(0), len(gx[images])))
                if gw is not None:
                    gw.chunk(groups)[g].add_(found.pop(0).view_as(gw.chunk(groups)[g]))
        return gx, gw, None, None, None, None
