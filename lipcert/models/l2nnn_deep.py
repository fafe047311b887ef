"""The 22-layer MNIST network of L2NNN (appendix C): two convolutions, a shared trunk, one branch per class.

The topology is that of the authors' inference script. Their widths are not public; ours are the defaults below.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import BranchLinear, JoinBranches, NonexpansiveConv2d, NonexpansiveLinear, pass_on
from lipcert.models.headed import Headed
from lipcert.models.l2nnn_steps import Steps, convolved
from lipcert.models.sizes import check_sizes


class L2NNNDeep(Headed):
    """2 convolutions and `shared` linear layers; then for each class `branch` linear layers and a linear map to its
    logit.

    The defaults give 22 weight layers. Each logit is 1-Lipschitz by itself (certified radius: gap/2), and the branches
    run as one batched product. A linear layer after a two-sided ReLU starts as [I, 0] plus noise, which passes its
    input on, so that gaps do not shrink with depth.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        shared: int = 10,
        shared_width: int = 512,
        branch: int = 9,
        branch_width: int = 64,
        activation: str = "two_sided_relu",
        activation_t: str = "channel",
        subtract_mean: bool = False,
        pooling: str = "norm",
        pool_size: int = 2,
        pool_stride: int | None = None,
        divide: bool = True,
        gram: str = "smaller",
        dropout: float = 0.0,
    ):
        check_sizes(channels=channels, kernel_size=kernel_size, shared_width=shared_width, branch_width=branch_width)
        check_sizes(0, shared=shared, branch=branch)
        steps = Steps(
            activation=activation,
            activation_t=activation_t,
            subtract_mean=subtract_mean,
            pooling=pooling,
            pool_size=pool_size,
            pool_stride=pool_stride,
        )
        steps.check(input_shape, len(channels))
        width, height, breadth = input_shape
        trunk: list[nn.Module] = []
        for out in channels:
            padding = kernel_size // 2
            trunk.append(
                NonexpansiveConv2d(width, out, kernel_size, padding=padding, bias=steps.bias, gram=gram, divide=divide)
            )
            height, breadth = convolved(kernel_size, height, breadth)
            step, width = steps.behind(out, height, breadth)
            trunk += [*step, steps.pool()]
            height, breadth = steps.pooled(height, breadth)
        trunk.append(nn.Flatten())
        width *= height * breadth
        for _ in range(shared):
            trunk.append(NonexpansiveLinear(width, shared_width, steps.bias, gram))
            step, width = steps.behind(shared_width)
            trunk += [*step, *([nn.Dropout(dropout)] if dropout else [])]
        head: list[nn.Module] = []
        for _ in range(branch):
            head.append(BranchLinear(num_classes, width, branch_width, steps.bias, gram))
            step, width = steps.behind(num_classes, branch_width)
            head += step
        head += [BranchLinear(num_classes, width, 1, gram=gram), JoinBranches()]
        super().__init__(nn.Sequential(*trunk), nn.Sequential(*head))
        pass_on(self)
