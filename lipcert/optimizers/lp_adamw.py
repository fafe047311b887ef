"""Adam with weight decay in the norm of a distance layer (Zhang et al., ICML 2021, eq. 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class LpAdamW(torch.optim.Adam):
    """Adam after a decoupled decay: the weights w of each neuron lose lr·weight_decay times the gradient of ‖w‖_p²/2.

    p is `weight.p`, which a distance layer keeps equal to its present p. It is 2, the ordinary decay, for a weight
    without that attribute, and for all weights if `follow_p` is false. A row of a weight is a neuron; the entries of a
    vector decay independently.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-10,
        weight_decay: float = 0.005,
        follow_p: bool = True,
    ):
        if weight_decay < 0:
            raise ValueError(f"`optimizer.weight_decay` must be at least 0, got {weight_decay}")
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps, fused=True)  # type: ignore[arg-type]
        for group in self.param_groups:
            group["decay"] = weight_decay  # Adam's own `weight_decay` would join the gradient
        self.follow_p = follow_p

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            rate = group["lr"] * group["decay"]
            for weight in group["params"] if rate else ():
                if weight.grad is not None:
                    p = getattr(weight, "p", 2.0) if self.follow_p else 2.0
                    weight.sub_(rate * norm_gradient(weight, p))
        super().step()
        return loss


def norm_gradient(weight: Tensor, p: float) -> Tensor:
    """The gradient of ‖w‖_p²/2 by each row w: (|w_j|/‖w‖_p)^(p−2)·w_j; at p = ∞ the largest entry, and 0 elsewhere.

    All is computed relative to the row's largest square, so that it neither over- nor underflows at any p.
    """
    if p == 2 or weight.dim() < 2:
        return weight
    rows = weight.flatten(1)
    squares = rows.square().add_(1e-10)
    squares /= squares.amax(1, keepdim=True)
    if p == torch.inf:
        at = squares.argmax(1, keepdim=True)
        return torch.zeros_like(rows).scatter(1, at, rows.gather(1, at)).view_as(weight)
    powers = squares.log2().mul_(p / 2 - 1).clamp_(min=-100).exp2_()  # below 2⁻¹⁰⁰ it is slow, and negligible
    factor = (squares * powers).sum(1, keepdim=True).pow_(2 / p - 1)
    return powers.mul_(factor).mul_(rows).view_as(weight)
