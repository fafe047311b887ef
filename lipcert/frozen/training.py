"""The rules of a frozen network applied to parameters that are trained: differentiable estimates and boxes.

A module is captured once. Each step computes the constants again from its parameters; in training mode, normalisations
use the statistics of the clean batch. Nothing here is a proof, and none of these types is a `Network`: whatever needs a
proof refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lipcert.contracts import Norm
from lipcert.frozen.capture import capture
from lipcert.frozen.freeze import double_copy
from lipcert.frozen.lipschitz import Walk, proved
from lipcert.frozen.operation import Operation, Shape
from lipcert.frozen.ops.linear import Linear
from lipcert.norms import Operator, normalised

STEPS = 10  # of power iteration before training, so that the first losses use about the right norms


@dataclass(frozen=True)
class LiveNetwork:
    """Operations whose constants depend on parameters in training. It is deliberately not a `frozen.Network`."""

    shape: Shape
    operations: tuple[Operation, ...]


class Captured:
    """What a module computes on images of `shape`, as a function of its parameters, which `captured(module)` reads.

    Raises Refused, which names the layer, where the module computes what is not in the table of operations.
    """

    def __init__(self, module: nn.Module, shape: Shape):
        self.shape = tuple(shape)
        self.program = capture(double_copy(module), self.shape, torch.float64)
        self.statistics: dict[str, Tensor] = {}  # of the batch that `watching` saw, by the names of buffers

    def __call__(self, module: nn.Module) -> LiveNetwork:
        """The operations with the present parameters of `module`, in its own precision. Statistics that `watching` has
        found are used in place of the running ones, once."""
        state: dict[str, Tensor] = {name: tensor_of(module, name) for name in self.program.sources} | self.statistics
        self.statistics = {}
        precision = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
        return LiveNetwork(self.shape, self.program.operations(state, precision))

    @contextmanager
    def watching(self, module: nn.Module, means: bool = False) -> Iterator[None]:
        """Records, for the next call, the statistics of the batch that runs through `module` in training mode inside of
        this context: the variances of batch normalisations, and with `means` the means of all normalisations."""
        found = [(name, module.get_submodule(name)) for name in sorted(self.program.normalisations)]
        watched = [_Watched(self.statistics, name, layer, means) for name, layer in found if layer.training]
        handles = [handle for layer in watched for handle in layer.register()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def tensor_of(module: nn.Module, name: str) -> Any:
    """A parameter or buffer by its full name."""
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


class _Watched:
    """The hooks on one normalisation, which record the statistics of a batch. Where possible these are computed from
    the change of the running statistics, which saves a second pass over the batch."""

    def __init__(self, statistics: dict[str, Tensor], name: str, layer: nn.Module, means: bool):
        self.statistics, self.layer, self.means = statistics, layer, means
        self.prefix = f"{name}." if name else ""
        self.running: tuple[Tensor, Tensor] | None = None

    def register(self) -> list[Any]:
        return [self.layer.register_forward_pre_hook(self.before), self.layer.register_forward_hook(self.after)]

    def before(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            self.running = (layer.running_mean.clone(), layer.running_var.clone())

    def after(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        axes = [axis for axis in range(x.dim()) if axis != 1]
        if self.means:
            self.statistics[f"{self.prefix}running_mean"] = x.mean(axes)
        if isinstance(layer, _BatchNorm):
            self.statistics[f"{self.prefix}running_var"] = self.variance(layer, x, axes)

    def variance(self, layer: Any, x: Tensor, axes: list[int]) -> Tensor:
        running, self.running, momentum = self.running, None, layer.momentum
        if not momentum or running is None:  # running statistics are then an average of all batches, or constant
            return x.var(axes, unbiased=False)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            mean = (layer.running_mean - (1 - momentum) * running[0]) / momentum
            variance = (layer.running_var - (1 - momentum) * running[1]) / momentum
            variance = (variance * ((count - 1) / count)).clamp_min(0)
        return _BatchVariance.apply(x, mean, variance)


class _BatchVariance(torch.autograd.Function):
    """The variance of x (B, C, …) for each channel, whose value is known, as a differentiable function of x."""

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


class TensorWalk(Walk):
    """The walk in differentiable tensors, without rounding. Its constants are not proved."""

    def checked(self, value: int, constant: Any, part: Tensor | None) -> Any:
        return constant

    def support(self, weight: Tensor) -> Tensor | None:
        return None

    def restricted(self, part: Tensor | None, kept: Tensor, shape: Shape) -> Tensor | None:
        return part

    def steepest(self, slopes: Tensor, shape: Shape, part: Tensor | None) -> Any:
        slopes = slopes.abs()
        return slopes.amax() if part is None else slopes.expand(shape)[part.to(slopes.device)].amax()

    def lengths(self, factors: Tensor) -> Tensor:
        if self.norm is Norm.L2:
            return torch.linalg.vector_norm(factors, dim=0)
        return factors.amax(0) if self.norm is Norm.LINF else factors.sum(0)

    def product(self, *factors: Any) -> Any:
        result = factors[0]
        for factor in factors[1:]:
            result = result * factor
        return result

    def total(self, constants: Sequence[Any]) -> Any:
        return sum(constants)

    def most(self, constants: Sequence[Any]) -> Any:
        return self._chosen(constants, torch.amax, max)

    def least(self, constants: Sequence[Any]) -> Any:
        return self._chosen(constants, torch.amin, min)

    def merged(self, constants: Sequence[Any]) -> Any:
        if len(constants) < 2:
            return constants[0] if constants else 0.0
        if self.norm is Norm.LINF:
            return self.most(constants)
        if self.norm is Norm.L1:
            return self.total(constants)
        squares = self.total([constant * constant for constant in constants])
        return squares.sqrt() if isinstance(squares, Tensor) else math.sqrt(squares)

    def _chosen(self, constants: Sequence[Any], of_tensors: Callable, of_numbers: Callable) -> Any:
        if len(constants) == 1:
            return constants[0]
        like = next((c for c in constants if isinstance(c, Tensor)), None)
        if like is None:
            return of_numbers(constants)
        return of_tensors(torch.stack([torch.as_tensor(c, dtype=like.dtype, device=like.device) for c in constants]))


class Estimate(nn.Module):
    """Estimates (K, K) of the l2 Lipschitz constants of differences of logits: `estimate(module)`, differentiable.

    Norms are estimated from below by one step of power iteration for each call, on vectors that persist as buffers
    (Tsuzuku et al., NeurIPS 2018, Algorithm 2). With `last_layer`, if the last operation is linear, an entry is
    L·‖w_i − w_j‖, L being the constant of its input (Proposition 2); otherwise it is √2·L, L being the constant of the
    logits (Proposition 1), or L_i + L_j for a network with branches.

    Raises Refused where the module computes what is not in the table of operations, and ValueError where it is to be
    certified in another norm.
    """

    def __init__(self, module: nn.Module, shape: Shape, last_layer: bool = True):
        super().__init__()
        if Norm(getattr(module, "norm", Norm.L2)) is not Norm.L2:
            name = type(module).__name__
            raise ValueError(f"{name} is certified in {module.norm}, but power iteration estimates l2 norms")
        self.captured, self.last_layer = Captured(module, shape), last_layer
        with torch.no_grad():
            for _ in range(STEPS):
                self.forward(module)

    def forward(self, module: Any) -> Tensor:
        device = next(module.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return self.pairs(_PowerWalk(self.captured(module), Norm.L2, self))

    def pairs(self, walk: _PowerWalk) -> Tensor:
        last = len(walk.network.operations)
        head = walk.network.operations[-1]
        if self.last_layer and isinstance(head, Linear) and head.weight.dim() == 2:
            steep = walk.constant(head.inputs[0])
            return steep * torch.cdist(head.weight, head.weight, compute_mode="donot_use_mm_for_euclid_dist")
        classes = walk.shape(last)[0]
        masks = torch.eye(classes, dtype=torch.bool)
        if branched(walk.network):
            steep = torch.stack([walk.constant(last, mask) for mask in masks])
            pairs = steep[:, None] + steep
        else:
            pairs = walk.constant(last) * 2**0.5 * torch.ones(classes, classes, device=head_device(walk))
        return pairs - pairs.diag().diag()

    def with_logits(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """(module(x), the estimate with the variances of this batch), as a training step needs them.

        Without batch normalisation the estimate is computed first; its gradients are then computed last, which saves a
        tenth of the time of a step of a small network.
        """
        if not self.captured.program.normalisations:
            pairs = self(module)
            return module(x).float(), pairs
        with self.captured.watching(module):
            logits = module(x).float()
        return logits, self(module)


def branched(network: Any) -> bool:
    """Whether some linear operation has a separate matrix for each of several branches."""
    return any(isinstance(o, Linear) and o.weight.dim() == 3 for o in network.operations)


def head_device(walk: Walk) -> torch.device:
    constants = (c for o in walk.network.operations for c in o.constants().values() if c.is_floating_point())
    return next(constants, torch.zeros(())).device


class _PowerWalk(TensorWalk):
    """Measures norms by one step of power iteration on the vectors of an Estimate, which it creates where missing."""

    def __init__(self, network: LiveNetwork, norm: Norm, estimate: Estimate):
        super().__init__(network, norm)
        self.vectors, self.register, self.count = estimate._buffers, estimate.register_buffer, 0

    def computed(self, key: tuple, operator: Callable[[], Operator]) -> Tensor:
        return self.step(operator())

    def step(self, operator: Operator) -> Tensor:
        name, self.count = f"vector{self.count}", self.count + 1
        vector = self.vectors.get(name)
        if vector is None:
            start = torch.randn(operator.groups, math.prod(operator.domain) // operator.groups).to(operator.weight)
            self.register(name, normalised(start).view(operator.domain))
            vector = self.vectors[name]
        sigma, following = operator.power_step(vector)  # type: ignore[arg-type]
        vector.copy_(following)  # type: ignore[union-attr]
        return sigma.squeeze(0) if len(sigma) == 1 else sigma.amax()

    def fixed(self, value: int, operator: Callable[[], Operator]) -> Any:
        return float(proved(operator(), self.norm).max())
