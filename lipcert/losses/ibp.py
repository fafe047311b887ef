"""Training on interval bounds (Gowal et al., ICCV 2019): ordinary networks, and the heads of l_inf-distance nets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lipcert.bounds import worst_margins


class IBP(nn.Module):
    """kappa·CE(g, y) + (1 − kappa)·CE(M, y), M_j the largest g_j − g_t that interval propagation allows within `eps`
    (l_inf, pixels), M_t = 0, the last linear layer joined with that difference.

    `kappa` weights the natural loss, as in Zhang et al., ICML 2021 (their code's `--kappa` is 1 − kappa). A schedule
    may drive `eps` and `kappa`. ValueError where the model has no `enclosure` to propagate from.
    """

    def __init__(self, *, num_classes: int, eps: float, kappa: float = 0.5):
        super().__init__()
        if eps < 0 or not 0 <= kappa <= 1:
            raise ValueError(f"`loss.eps` must be at least 0 and `loss.kappa` in [0, 1], got {eps} and {kappa}")
        self.eps, self.kappa = eps, kappa

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        if not hasattr(model, "enclosure"):
            raise ValueError(
                "`loss=ibp` needs a model that can be propagated through, such as linf_dist_mlp or ibp_convnet; "
                f"{type(model).__name__} has no `enclosure`"
            )

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        parts: Any = model
        z, low, high, rest = parts.enclosure(x, self.eps)
        natural = F.cross_entropy(parts.head(rest(z)), y)
        robust = F.cross_entropy(-worst_margins(rest, parts.head, low, high, y), y)
        return {"loss": self.kappa * natural + (1 - self.kappa) * robust, "natural": natural, "robust": robust}
