"""Globally-robust training (Leino, Wang & Fredrikson, ICML 2021): one more class, for images near a boundary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.frozen.training import Estimate
from lipcert.losses.accuracy import accuracy


class GloRo(nn.Module):
    """CE(y) + weight·log(1 + exp(y_⊥ − logsumexp(y))), with y_⊥ = max_{i≠j} (y_i + eps·K_ij) and j the predicted class.

    y_⊥ is the largest logit that another class can reach within `eps` (l2, in pixel units) relative to y_j, where K_ij
    is the estimate by `frozen.training.Estimate` of the Lipschitz constant of y_i − y_j. With `weight` 1 this is the
    paper's cross-entropy over y and y_⊥ together. Other weights are its TRADES form, because that logarithm is the KL
    divergence from the softmax without ⊥ to the softmax with it. A schedule may drive `eps` and `weight`.
    """

    def __init__(self, *, num_classes: int, eps: float, weight: float = 1.0):
        super().__init__()
        if not (0 <= eps < float("inf") and 0 <= weight < float("inf")):
            raise ValueError(f"`loss.eps` and `loss.weight` must be at least 0, got {eps} and {weight}")
        self.eps, self.weight = eps, weight

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        try:
            self.estimate = Estimate(model, input_shape)
        except ValueError as error:
            raise ValueError(f"`loss=gloro` can't train {type(model).__name__}, take another loss: {error}") from None

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        logits, pairs = self.estimate.with_logits(model, x)
        first = logits.argmax(1, keepdim=True)
        bottom = (logits + self.eps * pairs.index_select(0, first[:, 0])).scatter(1, first, -torch.inf).amax(1)
        natural = F.cross_entropy(logits, y)
        robust = F.softplus(bottom - logits.logsumexp(1)).mean()
        loss = natural + self.weight * robust
        terms = {"natural": natural, "robust": robust, "steepness": pairs.detach().amax()}
        return {"loss": loss, **terms, "accuracy": accuracy(logits, y)}
