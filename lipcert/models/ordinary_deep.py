"""The ordinary 22-layer network: the topology of `l2nnn_deep` without constraints (L2NNN, Tables 3 and 8)."""

from __future__ import annotations

from torch import nn

from lipcert.layers import BranchLinear, NonexpansiveConv2d, NonexpansiveLinear
from lipcert.models.l2nnn_deep import L2NNNDeep


class OrdinaryDeep(L2NNNDeep):
    """No layer is constrained, and the certificate uses the norms that training led to."""

    def __init__(self, **config):
        super().__init__(divide=False, **config)
        for layer in self.modules():
            if isinstance(layer, NonexpansiveLinear | NonexpansiveConv2d | BranchLinear):
                layer.strict = 0.0
                if layer.weight.dim() == 4:
                    nn.init.kaiming_normal_(layer.weight)
