"""What the tests of capturing share: a user's module in one line, and what it takes to agree with its network."""

import torch
from torch import nn

from lipcert.frozen.freeze import double_copy, freeze

VECTOR, SERIES, IMAGE, VOLUME = (6,), (4, 10), (4, 6, 5), (2, 4, 5, 4)


class Own(nn.Module):
    """A user's module: `forward` is `function` of the image and of the parts by name."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function, self.names = function, list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(x, **{name: getattr(self, name) for name in self.names})


class Side(nn.Module):
    """Several modules of the same image, their values side by side."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x):
        return torch.cat([torch.flatten(part(x), 1) for part in self.parts], 1)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


@torch.no_grad()
def scattered(module):
    """Weights like no initialisation's, and running statistics that have moved."""
    for p in module.parameters():
        if p.is_floating_point():
            p.add_(torch.randn_like(p) * 0.3)
    for layer in module.modules():
        if getattr(layer, "running_var", None) is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 3)
    return module


def batches(shape):
    return torch.rand(1, *shape).double(), torch.randn(5, *shape).double() * 3, (torch.rand(7, *shape) > 0.5).double()


@torch.no_grad()
def agrees(module, shape, norm="l2"):
    """The frozen network of a module, which agrees with it on batches of any size."""
    network, exact = freeze(module, shape, norm), double_copy(module)
    for images in batches(shape):
        ours, theirs = network(images), exact(images)
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()
    return network
