"""Two estimates of how steep a network can be that its weights alone decide, differentiable, for a penalty in training.

Finlay, Oberman & Abbasi (2018) regularise by both and find it ineffective (section 4.3). Neither is proved here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.frozen.linearised import evaluated, linearised
from lipcert.frozen.operation import Shape
from lipcert.frozen.training import STEPS, Captured, Estimate, TensorWalk

LINEAR = 1e-3  # of a step, by which float32 may miss that a network is linear


class ProductOfNorms(Estimate):
    """The product of the layers' l2 norms, joined as the layers are, each by one step of power iteration a call.

    `estimate(module)` is a number, a scalar tensor. Raises ValueError as `Estimate` does.
    """

    def pairs(self, walk: TensorWalk) -> Tensor:
        return torch.as_tensor(walk.constant(len(walk.network.operations)))


class NormOfProduct(nn.Module):
    """The spectral norm of the network without its activations and biases, by one step of power iteration a call.

    Lemma 3.3 of the paper takes it to bound the norm of the Jacobian, which it does not (`analyses.stability`).
    `estimate(module)` is a number, a scalar tensor; the image (1, *shape) that is stretched most is kept as a buffer.
    Raises ValueError for a module that cannot be captured, or that is not linear without its activations.
    """

    vector: Tensor

    def __init__(self, module: nn.Module, shape: Shape):
        super().__init__()
        self.captured = Captured(module, shape)
        weight = next(module.parameters())
        start = torch.randn(3, *self.captured.shape).to(weight)
        self.register_buffer("vector", start[:1] / start[0].norm())
        with torch.no_grad():
            network = linearised(self.captured(module))
            there = evaluated(network.operations, torch.cat([start[1:], start[1:] + self.vector]))
            steps = there[2:] - there[:2]  # of the same length, from two places
            if not (steps[0] - steps[1]).norm() <= LINEAR * there.norm(dim=1).amax():
                raise ValueError("the network is not linear without its activations: it has no product of weights")
            for _ in range(STEPS):
                self.forward(module)

    def forward(self, module: Any) -> Tensor:
        with torch.autocast(self.vector.device.type, enabled=False):
            operations = linearised(self.captured(module)).operations
            with torch.enable_grad():
                vector = self.vector.clone().requires_grad_()
                moved, origin = evaluated(operations, torch.cat([vector, torch.zeros_like(vector)]))
                sigma = (moved - origin).norm()
                (uphill,) = torch.autograd.grad(sigma, vector, retain_graph=True)
        if bool((uphill != 0).any()):
            self.vector.copy_(F.normalize(uphill.flatten(), dim=0, eps=1e-20).view_as(uphill))
        return sigma
