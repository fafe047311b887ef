"""How steep a network is at given images: never more than its Lipschitz constants, which nothing here bounds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.frozen.network import Network


class Steepness(NamedTuple):
    """Of each image, (B,): its cross-entropy, ‖∇ of that‖₂, ‖J‖₂ and ‖J‖_{2,∞}, J the Jacobian of the logits."""

    loss: Tensor
    loss_gradient: Tensor
    jacobian: Tensor
    jacobian_rows: Tensor


def jacobians(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, K) and their Jacobian (B, K, n) at each image: K backward passes."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = network(x)
        rows = [torch.autograd.grad(logit, x, retain_graph=True)[0].flatten(1) for logit in logits.sum(0)]
    return logits.detach(), torch.stack(rows, 1)


def sign_cosines(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """The cosine of the angle between the cross-entropy's gradient g and sign(g), ‖g‖₁/(√n·‖g‖₂), of each image (B,).

    x  images (B, *shape) in [0, 1], of n pixels and channels each
    y  labels (B,)

    Finlay, Oberman & Abbasi (2018, section 2). It lies between 1/√n and 1, and is NaN where g is 0. One backward pass;
    g is computed up to a positive factor, so that it does not vanish where the network is certain of the label.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = network(x)
        others = logits.detach().scatter(1, y[:, None], -torch.inf)
        slopes = (others - others.amax(1, keepdim=True)).exp()  # in proportion to the softmax
        slopes.scatter_(1, y[:, None], -slopes.sum(1, keepdim=True))
        (gradient,) = torch.autograd.grad((slopes * logits).sum(), x)
    gradient = gradient.flatten(1)
    return gradient.abs().sum(1) / gradient.norm(dim=1) / gradient.shape[1] ** 0.5


def steepness(network: Network, x: Tensor, y: Tensor) -> Steepness:
    """At images x with labels y. The gradient of the cross-entropy is Jᵀ(softmax − onehot), ‖J‖₂² the largest
    eigenvalue of JJᵀ, (K, K), and ‖J‖_{2,∞} the length of J's longest row. ValueError where J is not finite."""
    logits, jacobian = jacobians(network, x)
    if not jacobian.isfinite().all():
        raise ValueError("the network has gradients that are not finite: there is no steepest one")
    loss = F.cross_entropy(logits, y, reduction="none")
    slope = logits.softmax(1) - F.one_hot(y, logits.shape[1])
    gradient = (slope[:, None] @ jacobian)[:, 0]
    gram = jacobian @ jacobian.mT
    spectral = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()
    return Steepness(loss, gradient.norm(dim=1), spectral, gram.diagonal(dim1=1, dim2=2).amax(1).sqrt())
