"""Training on interval bounds (Gowal et al., ICCV 2019): ordinary networks, and the heads of l_inf-distance nets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.frozen.arithmetic import EXACT
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.training import Captured
from lipcert.losses.accuracy import accuracy
from lipcert.losses.adversary import evaluating


class IBP(nn.Module):
    """kappa·CE(g, y) + (1 − kappa)·CE(M, y), with M_t = 0 and M_j the largest g_j − g_t that interval propagation
    allows within `eps` (l_inf, in pixel units); the last linear layer and that difference are propagated as one.

    `kappa` is the weight of the natural loss, as in Zhang et al., ICML 2021 (their code's `--kappa` is 1 − kappa). A
    schedule may drive `eps` and `kappa`. In training mode, normalisations use the clean batch's statistics for the
    boxes too. Raises ValueError for a model without an `enclosure`, or that cannot be captured.
    """

    def __init__(self, *, num_classes: int, eps: float, kappa: float = 0.5):
        super().__init__()
        if eps < 0 or not 0 <= kappa <= 1:
            raise ValueError(f"`loss.eps` must be at least 0 and `loss.kappa` in [0, 1], got {eps} and {kappa}")
        self.eps, self.kappa = eps, kappa

    def prepare(self, model: Any, input_shape: tuple[int, ...]) -> None:
        if not hasattr(model, "enclosure"):
            raise ValueError(
                "`loss=ibp` needs a model that can be propagated through, such as linf_dist_mlp or ibp_convnet; "
                f"{type(model).__name__} has no `enclosure`"
            )
        parameter = next(model.parameters())
        images = torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device)
        with evaluating(model):
            z, _, _ = model.enclosure(images, 0.0)
        try:
            self.captured = Captured(model.enclosed, tuple(z.shape[1:]))
        except ValueError as error:
            raise ValueError(f"`loss=ibp` can't train {type(model).__name__}, take another loss: {error}") from None

    def forward(self, model: Any, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        z, low, high = model.enclosure(x, self.eps)
        enclosed = model.enclosed
        with self.captured.watching(enclosed, means=True):
            logits = enclosed(z)
        natural = F.cross_entropy(logits, y)
        robust = F.cross_entropy(-worst_margins(self.captured(enclosed), low, high, y, EXACT), y)
        loss = self.kappa * natural + (1 - self.kappa) * robust
        return {"loss": loss, "natural": natural, "robust": robust, "accuracy": accuracy(logits, y)}
