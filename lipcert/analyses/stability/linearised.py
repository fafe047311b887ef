"""The norm of the product of a network's weight matrices, which Lemma 3.3 of TULIP takes for a bound."""

from __future__ import annotations

import torch

from lipcert.frozen.gradients import jacobians
from lipcert.frozen.linearised import linearised
from lipcert.frozen.network import Network


def linearised_norm(network: Network) -> float:
    """The spectral norm of `linearised(network)`, a float64 network, on one image.

    Finlay, Oberman & Abbasi (2018, Lemma 3.3) take it to bound ‖J‖₂ of the network. It does not: [1, −1]·[1; 1] is 0,
    and with a ReLU between them the slope is 1 wherever just one of the two units is on. ValueError where what is left
    is not linear: max-pooling, say.
    """
    plain = linearised(network)
    images = torch.rand(2, *network.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here, there = jacobians(plain, images)[1]
    if not torch.allclose(here, there, rtol=1e-9, atol=1e-12):
        raise ValueError("the network is not linear without its activations: it has no product of weights")
    return float(torch.linalg.matrix_norm(here, 2))
