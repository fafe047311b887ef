"""Muon (Jordan et al., 2024): steps of momentum in which all singular values are made equal.

Under a constraint ‖W‖₂ ≤ 1, such near-orthogonal steps use all directions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)  # Newton–Schulz coefficients that send singular values of (0, 1] to about 1


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for weights of two dimensions or more, Adam with `adam_factor`·lr for vectors.

    A weight (K, m, n) is K matrices, which torch.optim.Muon rejects; a weight of four dimensions is the matrix of its
    rows. `retract` asks the trainer to call the `retract()` of every layer that has one after each step.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.05,
        momentum: float = 0.9,
        iterations: int = 5,
        adam_factor: float = 0.3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        retract: bool = True,
    ):
        if lr < 0 or not 0 <= momentum < 1:
            raise ValueError(f"`optimizer.lr` must be at least 0 and `momentum` in [0, 1), got {lr} and {momentum}")
        defaults = {"lr": lr, "momentum": momentum, "iterations": iterations, "adam_factor": adam_factor}
        super().__init__(params, {**defaults, "betas": tuple(betas), "eps": eps})
        self.retract = retract

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (self._matrix if p.dim() > 1 else self._vector)(p, group)
        return loss

    def _matrix(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        momentum = state.setdefault("momentum", torch.zeros_like(p)).mul_(group["momentum"]).add_(p.grad)
        update = torch.add(p.grad, momentum, alpha=group["momentum"])  # type: ignore[arg-type]
        flat = update if p.dim() == 3 else update.flatten(1)
        p.sub_(orthogonalise(flat, group["iterations"]).view_as(p), alpha=group["lr"])

    def _vector(self, p: Tensor, group: dict) -> None:
        state, grad, (b1, b2) = self.state[p], p.grad, group["betas"]
        assert grad is not None
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(grad, 1 - b1)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(grad * grad, 1 - b2)
        state["step"] = step = state.get("step", 0) + 1
        scale = (square / (1 - b2**step)).sqrt() + group["eps"]
        p.sub_(mean / (1 - b1**step) / scale, alpha=group["adam_factor"] * group["lr"])


def orthogonalise(g: Tensor, iterations: int) -> Tensor:
    """Approximates the orthogonal factor of (..., m, n) by `iterations` quintic steps of Newton and Schulz."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-9)
    a, b, c = QUINTIC
    multiply_add = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(iterations):
        gram = x @ x.mT
        polynomial = multiply_add(gram, gram, gram, beta=b, alpha=c)
        x = multiply_add(x, polynomial, x, beta=a)
    return x.mT if tall else x
