"""From a module to the network that is certified in its place."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm
from lipcert.frozen.capture import Program, Refused, capture
from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation, Shape
from lipcert.frozen.ops.convolution import Convolution
from lipcert.frozen.ops.linear import Linear

TOLERANCE = 1e-9  # of the largest logit: two orders of summation differ by far less, another function by far more


def freeze(module: nn.Module, shape: Shape, norm: Norm | str = Norm.L2) -> Network:
    """The float64 network that `module` computes in evaluation mode on images of `shape`, certified in `norm`.

    The module itself is left as it is, and nothing of it is reachable from the network: what the module does later, by
    hooks, counters or changed buffers, concerns it alone.

    Raises Refused (a ValueError), naming the layer and the way out, where it computes something that is not in the
    table of operations, and ValueError where the network does not agree with it on random images.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"`freeze` takes a torch.nn.Module, got {type(module).__name__}")
    exact = double_copy(getattr(module, "_orig_mod", module))  # what torch.compile has wrapped
    program = capture(exact, tuple(shape), torch.float64)
    network = Network(tuple(shape), with_claims(program, exact), Norm(norm))
    compare(network, exact)
    return network


def double_copy(module: nn.Module) -> nn.Module:
    """A copy in float64, in evaluation mode, on the CPU; Refused where it can't be copied."""
    computed = (t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf)
    try:
        copied = copy.deepcopy(module, {id(t): t.detach().clone() for t in computed})
        if any(a is b for a, b in zip(copied.modules(), module.modules(), strict=False)):
            raise ValueError("its copy is itself")
        return copied.requires_grad_(False).cpu().double().eval()
    except Exception as error:  # whatever a user's module makes of being copied
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(f"{type(module).__name__} can't be copied: {reason}") from None


def with_claims(program: Program, module: nn.Module) -> tuple[Any, ...]:
    """The program's operations in float64, those of layers with a `claim()` with what it says."""
    operations = program.operations(state_of(module))
    operations = tuple(owned(operation) for operation in operations)
    claims: dict[str, tuple[float, ...]] = {
        name: tuple(layer.claim().tolist()) for name, layer in module.named_modules() if hasattr(layer, "claim")
    }
    return tuple(
        replace(operation, claim=claims[operation.name])
        if operation.name in claims and isinstance(operation, Linear | Convolution)
        else operation
        for operation in operations
    )


def owned(operation: Operation) -> Operation:
    """The operation with constants of its own, in float64."""
    constants = {name: value.detach().clone() for name, value in operation.constants().items()}
    return replace(operation, **constants).to(dtype=torch.float64, device="cpu")  # type: ignore[arg-type]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by all of their names, and tensors that are plain attributes of modules."""
    state: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    state |= dict(module.named_buffers(remove_duplicate=False))
    return state


def compare(network: Network, module: nn.Module) -> None:
    """ValueError where the two differ on random images, asked twice: a sign of state, of random numbers, or of a
    mistake in capturing. What is certified is the network, whether or not these images show a difference."""
    generator = torch.Generator().manual_seed(0)
    for images in _batches(network.shape, generator):
        ours = network(images)
        try:
            with torch.no_grad():
                theirs = [module(images.clone()) for _ in range(2)]
        except Exception as error:  # of a user's forward
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{type(module).__name__} fails on {tuple(images.shape)}: {reason}") from None
        for logits in theirs:
            if not isinstance(logits, Tensor):
                raise Refused(f"a network gives one tensor of logits, this module gives a {type(logits).__name__}")
            scale = float(ours[ours.isfinite()].abs().max()) if bool(ours.isfinite().any()) else 0.0
            close = logits.shape == ours.shape and torch.allclose(
                logits.double(), ours, rtol=0.0, atol=TOLERANCE * scale + math.ulp(0.0), equal_nan=True
            )
            if not close:
                raise ValueError(
                    f"what {type(module).__name__} computes is not what was captured of it: its `forward` keeps state, "
                    "draws random numbers, or chooses by the image or by the size of the batch"
                )


def _batches(shape: Shape, generator: torch.Generator) -> Iterator[Tensor]:
    for size in (1, 4):
        yield torch.rand(size, *shape, dtype=torch.float64, generator=generator)
    yield torch.rand(2, *shape, dtype=torch.float64, generator=generator).round()
