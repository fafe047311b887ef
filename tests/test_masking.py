"""Networks that only stop attacks are told from those that are robust, and from those that hide nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.analyses.audit.masking import Diagnosis, diagnose
from lipcert.analyses.audit.masking_signs import sentences, signs
from lipcert.contracts import Norm
from lipcert.frozen import Network
from lipcert.frozen.ops import OPERATIONS

SHAPE, N, CLASSES, EPS = (1, 4, 4), 40, 3, 0.09
STAIRS, STEEP = 8, 1e7


def linear(weight: Tensor, bias: Tensor) -> dict:
    return {"kind": "linear", "weight": weight, "bias": bias, "shape": (len(weight),)}


def network(scale: float = 1.0, stairs: bool = False) -> Network:
    """Planes around the middle of the box, of logits times `scale`; with `stairs`, of pixels that are rounded
    to eighths by ramps so steep that nearly all gradients are 0."""
    weight = torch.randn(CLASSES, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = [{"kind": "reshape", "shape": (16,)}]
    bias = -scale * weight.sum(1) / 2
    if stairs:
        at = (torch.arange(STAIRS, dtype=torch.float64) + 0.5) / STAIRS
        steps += [
            linear(STEEP * torch.eye(16, dtype=torch.float64).repeat(STAIRS, 1), -STEEP * at.repeat_interleave(16)),
            {"kind": "pointwise", "function": "clamp", "parameters": (0.0, 1.0), "shape": (16 * STAIRS,)},
        ]
        weight = weight.repeat(1, STAIRS) / STAIRS
    steps.append(linear(scale * weight, bias))
    return Network(SHAPE, tuple(OPERATIONS[s.pop("kind")](inputs=(i,), **s) for i, s in enumerate(steps)))


def diagnosed(net: Network, norm: Norm = Norm.LINF, eps: float = EPS) -> Diagnosis:
    """Of images of which `net` is sure, with its own answers as labels."""
    x = 0.3 + 0.4 * torch.rand(N, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return diagnose(net, x, net(x).argmax(1), norm=norm, eps=eps, seed=0, queries=100)


@pytest.fixture(scope="module")
def plain() -> Diagnosis:
    return diagnosed(network())


def test_a_network_that_hides_nothing_has_no_sign(plain):
    assert not plain.masked and plain.findings[0].startswith("No sign of gradient masking")
    assert plain.numbers["clean"] == 1 and plain.reported < 0.1


def test_logits_that_saturate_float32_are_found(plain):
    """The same decisions, so the same truth; but PGD in float32 does not move."""
    huge = diagnosed(network(scale=1e6))
    assert huge.masked and huge.reported > 0.75
    assert huge.robust_accuracy <= plain.robust_accuracy + 0.02
    assert huge.numbers["flat"] > 0.9 and huge.numbers["saturated"] > 0.9 and huge.numbers["rescaled"] < 0.6
    text = " ".join(huge.findings)
    assert "0 or not finite" in text and "rescaled logits" in text and "Square" in text and "More steps" in text


def test_logits_with_tiny_gaps_are_found(plain):
    """A step in l2 divides by the gradient's length, or by 1e-12 where it is shorter."""
    tiny = diagnosed(network(scale=1e-20), Norm.L2, 4 * EPS)
    assert tiny.masked and tiny.reported > tiny.robust_accuracy + 0.3
    assert tiny.numbers["gap"] < 1e-19 and tiny.numbers["flat"] == 0
    assert any("rescaled" in sentence for sentence in tiny.findings)


def test_stairs_are_found_by_attacks_without_gradients():
    rounded = diagnosed(network(stairs=True))
    numbers = rounded.numbers
    assert rounded.masked and numbers["rescaled_float64"] > numbers["square"] + 0.1
    assert numbers["transfer"] < rounded.reported - 0.1
    later = ["pgd-200", "float64", "rescaled", "rescaled_float64", "square", "transfer"]
    assert all(rounded.robust_accuracy <= numbers[name] <= rounded.reported for name in later)


def test_l1_has_a_diagnosis():
    assert not diagnosed(network(), Norm.L1, 16 * EPS).masked


HEALTHY = {
    **{"clean": 0.99, "fgsm": 0.9, "pgd-10": 0.9, "pgd-40": 0.89, "pgd-200": 0.88, "float64": 0.89, "rescaled": 0.88},
    **{"rescaled_float64": 0.88, "square": 0.88, "transfer": 0.89, "apgd": 0.86, "flat": 0.0, "saturated": 0.3},
    **{"images": 1000.0, "float32_differs": 0.0, "gap": 9.0, "gradient": 0.1},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"flat": 0.05}, "0 or not finite at 5.00 %"),
        ({"float32_differs": 0.05}, "another label than float64"),
        ({"fgsm": 0.75}, "FGSM, a single step, leaves 75.00 %"),
        ({"float64": 0.75}, "in float64 leaves 75.00 %"),
        ({"rescaled": 0.75}, "probability 1 at 30.00 %"),
        ({"square": 0.75}, "Square"),
        ({"transfer": 0.75}, "another network"),
        ({"apgd": 0.75, "pgd-10": 0.9}, "More steps do not help"),
    ],
)
def test_every_sign_has_its_sentence(changed, said):
    assert signs(HEALTHY) == []
    found = sentences(HEALTHY | changed)
    assert found[0].startswith("Gradients are masked") and any(said in sentence for sentence in found)


def test_a_weak_attack_is_not_called_masking():
    (only,) = sentences(HEALTHY | {"pgd-10": 0.95, "pgd-200": 0.8, "apgd": 0.79})
    assert only.startswith("No sign") and "too weak" in only
