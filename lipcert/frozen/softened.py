"""The gradients of l∞ distances, spread over more pixels than one: for attacks alone, no certificate takes this."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.distances import Distance, DistanceConvolution
from lipcert.kernels import lp_distance
from lipcert.kernels.convolution import lp_distance_conv2d


def softened(operations: Sequence[Operation], p: float) -> Callable[[Tensor], Tensor]:
    """The function that `operations` compute, with other gradients: wherever they take a distance in l∞, whose gradient
    is that of one pixel, the gradient is that of the distance in l_p, at the same point.
    """

    def answer(images: Tensor) -> Tensor:
        values = [images]
        for operation in operations:
            read = [values[i] for i in operation.inputs]
            near = _near(operation, read[0], p)
            if near is None:
                values.append(operation.evaluate(*read))
            else:
                exact = operation.evaluate(read[0].detach())
                values.append(exact + (near - near.detach()))
        return values[-1]

    return answer


def _near(operation: Operation, x: Tensor, p: float) -> Tensor | None:
    """What an operation computes, with l_p in place of l∞; None where it takes no distance in l∞."""
    if isinstance(operation, Distance) and operation.p == math.inf:
        return lp_distance(x, operation.weight, p)
    if isinstance(operation, DistanceConvolution):
        return lp_distance_conv2d(x, operation.weight, p, operation.stride, operation.padding, operation.groups)
    return None
