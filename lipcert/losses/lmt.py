"""Lipschitz-margin training (Tsuzuku, Sato & Sugiyama, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.frozen.training import Estimate
from lipcert.losses.accuracy import accuracy


class LMT(nn.Module):
    """Cross-entropy of y_i + a·r_i, where y_i − y_t can rise by at most r_i while the image moves by `c` (l2, in pixel
    units): r_i = c·L·‖w_i − w_t‖ (`proposition` 2) or c·√2·L (`proposition` 1), and r_t = 0.

    L is the estimate of `frozen.training.Estimate`, through which gradients flow. a = min_i clip((y_t − y_i)/r_i, 0, 1)
    is a constant for each image (appendix E, as in the authors' code): nothing is added where the label's logit is not
    the largest, and never enough to make it smaller than another. A schedule may drive `c`; 0 is plain cross-entropy.
    Raises ValueError for a model that cannot be captured.
    """

    def __init__(self, *, num_classes: int, c: float, proposition: int = 2):
        super().__init__()
        if not 0 <= c < float("inf") or proposition not in (1, 2):
            raise ValueError(f"`loss.c` must be at least 0 and `loss.proposition` 1 or 2, got {c} and {proposition}")
        self.c, self.proposition = c, proposition

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        try:
            self.estimate = Estimate(model, input_shape, last_layer=self.proposition == 2)
        except ValueError as error:
            raise ValueError(f"`loss=lmt` can't train {type(model).__name__}, take another loss: {error}") from None

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        logits, pairs = self.estimate.with_logits(model, x)
        ahead = self.c * pairs.index_select(0, y)
        with torch.no_grad():
            margins = logits.gather(1, y[:, None]) - logits
            share = (margins / ahead).nan_to_num_(1.0).amin(1).clamp_(0, 1)  # the label's own ratio is 0/0
        loss = F.cross_entropy(logits + share[:, None] * ahead, y)
        right = accuracy(logits, y)
        return {"loss": loss, "steepness": pairs.detach().amax(), "share": share.mean(), "accuracy": right}
