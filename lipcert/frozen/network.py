"""The frozen network: one and the same object is bounded, evaluated, attacked and exported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.operation import Operation, Shape
from lipcert.frozen.softened import softened

MOST_ENTRIES = 1 << 29  # of one value: 4 GiB for one image; more is a mistake, or an attack on a reader


@dataclass(frozen=True, eq=False)
class Network:
    """A plain list of known operations with constant tensors: from images in [0, 1] to logits (K,).

    shape       of an image, (C, H, W) as a rule; there is no axis for the batch
    operations  in the order of evaluation; the last one's value is the logits
    norm        the norm that the network is certified in

    Nothing of the module that it was captured from is reachable from it.

    Raises ValueError where operations, constants and shapes do not fit together, or a constant is not finite.
    """

    shape: Shape
    operations: tuple[Operation, ...]
    norm: Norm = Norm.L2

    def __post_init__(self) -> None:
        shapes: list[Shape] = [self.shape]
        for number, operation in enumerate(self.operations, 1):
            where = f"operation {number}, `{operation.name or operation.kind}`"
            if any(not 0 <= i < number for i in operation.inputs):
                raise ValueError(f"{where} reads a value that is not computed before it")
            count = len(operation.inputs)
            if count != operation.arity if operation.arity is not None else count == 0:
                raise ValueError(f"{where} has {count} inputs, not {operation.arity or 'one or more'}")
            for name, constant in operation.constants().items():
                if not bool(constant.isfinite().all()):
                    raise ValueError(f"{where}: its {name} is not finite")
            try:
                shape = operation.result_shape(*(shapes[i] for i in operation.inputs))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if shape != operation.shape or not 0 < math.prod(shape) < MOST_ENTRIES:
                raise ValueError(f"{where} has the shape {shape}, not {operation.shape}")
            shapes.append(shape)
        if not self.operations or len(shapes[-1]) != 1:
            raise ValueError(f"a network returns one vector of logits for each image, not {shapes[-1]}")

    @property
    def classes(self) -> int:
        """The number of logits, K."""
        return self.operations[-1].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it is evaluated in."""
        constants = (c for operation in self.operations for c in operation.constants().values())
        return next((c.dtype for c in constants if c.is_floating_point()), torch.float64)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, *shape), in the precision of the constants: float64, or another after `to`."""
        for value in self._run(images):  # one at a time, so that values which nothing reads any more are freed
            logits = value
        return logits

    def values(self, images: Tensor) -> list[Tensor]:
        """The images, and the value of every operation, with the batch axis first."""
        return list(self._run(images, keep=True))

    def _run(self, images: Tensor, keep: bool = False) -> Iterator[Tensor]:
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the network takes images of shape {self.shape}, not {tuple(images.shape[1:])}")
        last = {i: number for number, operation in enumerate(self.operations, 1) for i in operation.inputs}
        values: dict[int, Tensor] = {0: images}
        yield images
        for number, operation in enumerate(self.operations, 1):
            value = operation.evaluate(*(values[i] for i in operation.inputs))
            if value.shape != (len(images), *operation.shape):
                raise ValueError(
                    f"operation {number}, `{operation.name or operation.kind}`, has the shape {tuple(value.shape)}"
                )
            values[number] = value
            if not keep:
                for i in set(operation.inputs):
                    if last[i] == number:
                        del values[i]
            yield value

    def softened(self, p: float) -> Callable[[Tensor], Tensor]:
        """The same function of images, with the gradients of l_p wherever it takes a distance in l∞: for attacks."""
        return softened(self.operations, p)

    def on(self, device: torch.device | str) -> Network:
        """The network on a device, to which it is copied once."""
        copies: dict[str, Network] = self.__dict__.setdefault("_copies", {})
        if torch.device(device) == torch.device("cpu"):
            return self
        if str(device) not in copies:
            copies[str(device)] = self.to(device=device)
        return copies[str(device)]

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Network:
        """The same network with its constants in `dtype` (None: in their own) on `device`."""
        operations = (operation.to(dtype=dtype or self.dtype, device=device) for operation in self.operations)
        return replace(self, operations=tuple(operations))


def required(network: object) -> Network:
    """The argument, if it is a frozen network; otherwise raises TypeError, which says how to make one."""
    if not isinstance(network, Network):
        raise TypeError(f"a frozen network is due (`lipcert.freeze` makes one), got {type(network).__name__}")
    return network
