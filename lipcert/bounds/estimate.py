"""The training-time estimate: the calculus of the bounds, on norms from one step of power iteration a call.

A vector per linear operator persists from step to step; its image is never longer than the operator's norm, so that an
estimate comes from below: it trains, it proves nothing (Tsuzuku et al., NeurIPS 2018, Algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipcert.bounds.calculus import Walk, rule_of
from lipcert.bounds.modules import linear
from lipcert.bounds.operators import Operator, normalised
from lipcert.contracts import Norm, Signal

STEPS = 10  # of power iteration before training: cheap, and the first losses are then about the right norms


class Estimate(nn.Module):
    """How fast differences of `model`'s logits move, differentiable in its weights: `estimate(model)` is (K, K), in l2.

    With `last_layer`, of a classifier head(features(x)) with a linear head, L·‖w_i − w_j‖ (Prop. 2), L the estimate
    before the head; otherwise √2·L (Prop. 1), or L_i + L_j where each logit has its own. Around the training step's
    `model(x)`, `watching` takes the batch's variances, by which batch normalisation divides. The vectors are buffers.
    ValueError, naming the module, where the calculus has no rule.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], last_layer: bool = True):
        super().__init__()
        if Norm(getattr(model, "norm", Norm.L2)) is not Norm.L2:
            raise ValueError(f"{type(model).__name__} is certified in l_inf: power iteration estimates l2 norms")
        self.shape = tuple(shape)
        self.last_layer = last_layer and rule_of(getattr(model, "head", None)) is linear
        self.walk = _Estimating(self)
        with torch.no_grad():
            for _ in range(STEPS):
                self.forward(model)

    def forward(self, model: Any) -> Tensor:
        self.walk.seen.clear()
        device = next(model.parameters()).device
        one = torch.ones((), device=device)
        with torch.autocast(device.type, enabled=False):
            trunk = model.features if self.last_layer else model
            lipschitz = self.walk(
                trunk, Signal(self.shape, one, 0.0, 0.0, 0.0), "features" if self.last_layer else ""
            ).lipschitz
            if self.last_layer:
                rows = model.head.weight
                return lipschitz * torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
            if lipschitz.dim():
                pairs = lipschitz[:, None] + lipschitz
            else:
                classes = self.walk.classes
                pairs = lipschitz * 2**0.5 * torch.ones(classes, classes, device=device)
            return pairs - pairs.diag().diag()

    def with_logits(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """(model(x), the estimate), as a training step needs them: with the batch's own variances. Without any, the
        estimate comes first: its gradients then come last, which is faster by a tenth of a small network's step."""
        if not any(isinstance(m, _BatchNorm) for m in model.modules()):
            pairs = self(model)
            return model(x).float(), pairs
        with self.watching(model):
            logits = model(x).float()
        return logits, self(model)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """In here, batch normalisation counts with the variance of the batch that runs through it."""
        watched = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
        handles = [m.register_forward_pre_hook(self.walk.before) for m in watched]
        handles += [m.register_forward_hook(self.walk.after) for m in watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Estimating(Walk):
    """The walk of an estimate: it steps on the vectors of `estimate`, which it makes where there are none."""

    def __init__(self, estimate: Estimate):
        super().__init__()
        self.vectors = estimate._buffers
        self.register = estimate.register_buffer
        self.seen: set[str] = set()
        self.variances: dict[nn.Module, Tensor] = {}
        self.running: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.classes = 0

    def check(self, module: nn.Module, name: str) -> None:
        pass  # hooks are our own here, and nothing is claimed

    def linear(
        self,
        name: str,
        module: Any,
        signal: Signal,
        operator: Operator,
        shape: tuple[int, ...],
        normalisation: nn.Module | None = None,
    ) -> Signal:
        if normalisation is not None:
            operator = operator.scaled(self.factor(normalisation, name))
        key = f"vector/{name.replace('.', '/')}"
        while key in self.seen:  # a layer that is used twice
            key += "'"
        self.seen.add(key)
        vector = self.vectors.get(key)
        if vector is None:
            start = torch.randn(
                operator.groups, math.prod(operator.domain) // operator.groups, device=operator.weight.device
            ).to(operator.weight)
            self.register(key, normalised(start).view(operator.domain))
            vector = self.vectors[key]
        sigma, following = operator.power_step(vector)  # type: ignore[arg-type]
        vector.copy_(following)  # type: ignore[union-attr]
        self.classes = shape[0]
        gain = sigma if signal.lipschitz.dim() else sigma.squeeze(0) if len(sigma) == 1 else sigma.amax()
        return signal.after(shape, gain=gain)

    def factor(self, normalisation: Any, name: str) -> Tensor:
        variance = self.variances.pop(normalisation, None)
        if variance is None:
            super().factor(normalisation, name)  # refuses one without
            variance = normalisation.running_var
        factor = (variance + normalisation.eps).rsqrt()
        return factor if normalisation.weight is None else factor * normalisation.weight

    def before(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.running[module] = (module.running_mean.clone(), module.running_var.clone())

    def after(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """The batch's mean and variance, from what they did to the running ones: no second pass over the images."""
        mean, variance = self.running.pop(module)
        momentum, (x,) = module.momentum, inputs
        if not momentum:  # they then average over all batches, or none
            self.variances[module] = x.transpose(0, 1).flatten(1).var(1, unbiased=False)
            return
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            mean = (module.running_mean - (1 - momentum) * mean) / momentum
            variance = (module.running_var - (1 - momentum) * variance) / momentum
            variance = (variance * ((count - 1) / count)).clamp_min(0)
        self.variances[module] = _BatchVariance.apply(x, mean, variance)


class _BatchVariance(torch.autograd.Function):
    """`variance`, known already, as a differentiable function of the (B, C, ...) that it is the variance of."""

    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean)
        return variance.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Any:
        x, mean = ctx.saved_tensors
        slope = grad * (2 * x.shape[1] / x.numel())
        wide = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul((-mean * slope).view(wide), x, slope.view(wide)).to(x.dtype), None, None
