"""From a module to the network that is certified in its place."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from lipcert.contracts import Norm
from lipcert.frozen.capture import Program, Refused, capture
from lipcert.frozen.capture.refusals import first_line
from lipcert.frozen.network import Network
from lipcert.frozen.operation import Operation, Shape
from lipcert.frozen.ops.convolution import Convolution
from lipcert.frozen.ops.linear import Linear

TOLERANCE = 1e-9  # of the largest logit: two orders of summation differ by far less, another function by far more


def freeze(module: nn.Module, shape: Shape, norm: Norm | str = Norm.L2, program: Program | None = None) -> Network:
    """The network that `module` computes in evaluation mode on images of `shape`, to be certified in `norm`.

    Its constants are in float64. The module stays as it is, and nothing of it is reachable from the network: hooks,
    counters and buffers of the module can no longer change what the network computes. A `program` that was captured of
    the module before, when it had other weights, saves most of the time.

    Raises Refused (a ValueError), which names the layer and the way out, where the module computes what is not in the
    table of operations; ValueError where the network and the module do not agree on random images.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"`freeze` takes a torch.nn.Module, not {type(module).__name__}")
    exact = double_copy(getattr(module, "_orig_mod", module))  # what torch.compile has wrapped
    program = program or capture(exact, tuple(shape), torch.float64)
    network = Network(tuple(shape), with_claims(program, exact), Norm(norm))
    compare(network, exact)
    return network


def double_copy(module: nn.Module) -> nn.Module:
    """A copy in float64, in evaluation mode, on the CPU. Raises Refused where the module cannot be copied."""
    computed = (t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf)
    try:
        copied = copy.deepcopy(module, {id(t): t.detach().clone() for t in computed})
        if any(a is b for a, b in zip(copied.modules(), module.modules(), strict=False)):
            raise ValueError("its copy is itself")
        return copied.requires_grad_(False).cpu().double().eval()
    except Exception as error:  # whatever a user's module raises when it is copied
        raise Refused(f"{type(module).__name__} can't be copied: {first_line(error)}") from None


def with_claims(program: Program, module: nn.Module) -> tuple[Operation, ...]:
    """The program's operations in float64. Those that come from layers with a `claim()` have its value."""
    operations = [owned(operation) for operation in program.operations(state_of(module))]
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
    """The operation with its own copies of all constants, in float64."""
    constants = {name: value.detach().clone() for name, value in operation.constants().items()}
    return replace(operation, **constants).to(dtype=torch.float64, device="cpu")  # type: ignore[arg-type]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name; one that has several names appears under each."""
    state: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    state |= dict(module.named_buffers(remove_duplicate=False))
    return state


def compare(network: Network, module: nn.Module) -> None:
    """Raises ValueError where network and module differ on random images, which the module sees twice: it then keeps
    state or draws random numbers, or was captured wrongly. Either way, only the network is certified."""
    generator = torch.Generator().manual_seed(0)
    for images in _batches(network.shape, generator):
        ours = network(images)
        try:
            with torch.no_grad():
                theirs = [module(images.clone()) for _ in range(2)]
        except Exception as error:  # whatever a user's forward raises
            raise ValueError(f"{type(module).__name__} fails on {tuple(images.shape)}: {first_line(error)}") from None
        for logits in theirs:
            if not isinstance(logits, Tensor):
                raise Refused(f"a network returns one tensor of logits, but this module a {type(logits).__name__}")
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
