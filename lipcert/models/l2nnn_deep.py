"""The 22-layer MNIST network of L2NNN (appendix C): two convolutions, a shared trunk, one branch per class.

The topology is that of the authors' inference script. Their widths are not public; ours are the defaults below.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lipcert.layers import BranchLinear, JoinBranches, NonexpansiveConv2d, NonexpansiveLinear, nonlinearity, pass_on
from lipcert.layers import pooling as pooling_layer
from lipcert.models.headed import Headed, check_halvings


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
        pooling: str = "norm",
        divide: bool = True,
        gram: str = "smaller",
        dropout: float = 0.0,
    ):
        check_halvings(input_shape, len(channels))
        width, height, breadth = input_shape
        trunk: list[nn.Module] = []
        for out in channels:
            trunk.append(
                NonexpansiveConv2d(width, out, kernel_size, padding=kernel_size // 2, gram=gram, divide=divide)
            )
            step, width = nonlinearity(activation, out)
            trunk += [step, pooling_layer(pooling, 2)]
            height, breadth = height // 2, breadth // 2
        trunk.append(nn.Flatten())
        width *= height * breadth
        for _ in range(shared):
            trunk.append(NonexpansiveLinear(width, shared_width, gram=gram))
            step, width = nonlinearity(activation, shared_width)
            trunk += [step, *([nn.Dropout(dropout)] if dropout else [])]
        head: list[nn.Module] = []
        for _ in range(branch):
            head.append(BranchLinear(num_classes, width, branch_width, gram=gram))
            step, width = nonlinearity(activation, branch_width, dim=2)
            head.append(step)
        head += [BranchLinear(num_classes, width, 1, gram=gram), JoinBranches()]
        super().__init__(nn.Sequential(*trunk), nn.Sequential(*head))
        pass_on(self)
