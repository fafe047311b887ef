"""The three-term loss of L2-nonexpansive networks (Qian & Wegman, ICLR 2019, §2.5, eq. 3–6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.losses.accuracy import accuracy
from lipcert.losses.adversary import evaluating


class L2NNNLoss(nn.Module):
    """The loss alpha·L_a + gamma·L_b + omega·L_c + lambda_w·Σ L_W of logits y (alpha is 1 in the paper).

    L_a  the cross-entropy of the logits u_k·y_k, with one factor u_k per class, trainable if `u_trainable`.
    L_b  the cross-entropy of the logits v·y, with one number v, trainable if `v_trainable`. Either v is given or a
         `radius` (l2, in pixel units): v = 2.4/radius spreads the softmax of an image over the classes that a
         perturbation of that size can reach.
    L_c  the mean of log(1 − softmax(z·y)_label)/z, which rewards a wide gap where the answer is right, and is flat
         where it is wrong.
    L_W  the weight penalty of the soft scheme (eq. 7), from every layer that has one.

    An `adversary` (an attack) replaces the images of L_a (`adversarial_terms` "a"), or of L_a and L_b ("ab"); L_c is
    always computed on the clean images. u and v are not part of the classifier.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: float = 1.0,
        gamma: float = 1.0,
        omega: float = 1.0,
        z: float = 1.0,
        v: float | None = 1.0,
        radius: float | None = None,
        v_trainable: bool = True,
        u_trainable: bool = True,
        lambda_w: float = 1.0,
        adversary: Callable[..., Tensor] | None = None,
        adversarial_terms: str = "a",
    ):
        super().__init__()
        if (v is None) == (radius is None):
            raise ValueError(f"give one of `loss.v` and `loss.radius`, the other null; got {v} and {radius}")
        for name, value in {"z": z, "v": v, "radius": radius}.items():
            if value is not None and value <= 0:
                raise ValueError(f"`loss.{name}` must be positive, got {value}")
        for name, value in {"alpha": alpha, "gamma": gamma, "omega": omega, "lambda_w": lambda_w}.items():
            if value < 0:
                raise ValueError(f"`loss.{name}` must be at least 0, got {value}")
        if adversarial_terms not in ("a", "ab"):
            raise ValueError(f"`loss.adversarial_terms` must be a or ab, got {adversarial_terms!r}")
        self.alpha, self.gamma, self.omega, self.z, self.lambda_w = alpha, gamma, omega, z, lambda_w
        self.adversary, self.adversarial_terms = adversary, adversarial_terms
        self.u = nn.Parameter(torch.ones(num_classes), requires_grad=u_trainable)
        self.v = nn.Parameter(torch.tensor(2.4 / radius if radius else float(v or 0)), requires_grad=v_trainable)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        clean = model(x).float()
        distorted = clean
        if self.adversary is not None:
            with evaluating(model) as answer:
                adversarial = self.adversary(answer, x, y, None)
            distorted = model(adversarial).float()
        terms = {
            "a": F.cross_entropy(self.u * distorted, y),
            "b": F.cross_entropy(self.v * (distorted if self.adversarial_terms == "ab" else clean), y),
            "c": log_complement(self.z * clean, y).mean() / self.z,
            "w": sum(weight_penalties(model), clean.new_zeros(())),
        }
        total = self.alpha * terms["a"] + self.gamma * terms["b"] + self.omega * terms["c"] + self.lambda_w * terms["w"]
        return {"loss": total, **terms, "accuracy": accuracy(clean, y)}


def log_complement(logits: Tensor, y: Tensor) -> Tensor:
    """log(1 − softmax(logits)_y), (B,), of `logits` (B, K) and labels `y` (B,).

    It is the logsumexp over the other classes minus that over all, which is accurate for any gap between the logits.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.logsumexp(1)


def weight_penalties(model: nn.Module) -> list[Tensor]:
    """The penalty L_W (eq. 7), a scalar, of every layer of `model` that has one."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "weight_penalty")]
    return [layer.weight_penalty() for layer in layers]
