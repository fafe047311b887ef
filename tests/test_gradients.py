"""Steepness at given images against torch's own Jacobian; and radii that rest on it, which are no proof."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.nominal import Nominal
from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Kind, Norm
from lipcert.frozen import Network, freeze
from lipcert.frozen.gradients import jacobians, steepness
from lipcert.models.linf_dist import LinfDist

SHAPE, CLASSES = (2, 4, 4), 5


def network(last: float = 4.0) -> Network:
    """With batch normalisation in evaluation."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)
    )
    model[1].running_mean.normal_()
    model[-1].weight.data *= last
    return freeze(model, SHAPE)


def narrow() -> Network:
    """Of rank 1, so that all but one eigenvalue is 0."""
    return freeze(nn.Sequential(nn.Flatten(), nn.Linear(32, 1), nn.Linear(1, 4)), SHAPE)


def images(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Far apart, so that a network is unsure of some and sure of others."""
    return torch.randn(count, *SHAPE, dtype=torch.float64), torch.arange(count) % CLASSES


def exact(model: Network, x: torch.Tensor) -> torch.Tensor:
    """(B, K, n), an image at a time."""
    found = [torch.autograd.functional.jacobian(model, image[None]) for image in x]
    return torch.stack([j.view(j.shape[1], -1) for j in found])


def test_the_jacobian_is_torchs_and_costs_neither_constants_nor_image_a_gradient():
    model, (x, _) = network(), images()
    for gradients in (torch.enable_grad, torch.no_grad):
        with gradients():
            logits, found = jacobians(model, x)
        torch.testing.assert_close(found, exact(model, x))
        assert torch.equal(logits, model(x))
        assert not logits.requires_grad and not found.requires_grad and not x.requires_grad
    constants = [c for operation in model.operations for c in operation.constants().values()]
    assert x.grad is None and not any(c.requires_grad for c in constants)


@pytest.mark.parametrize("make", [network, narrow])
def test_steepness_is_the_norms_of_that_jacobian(make):
    model, (x, y) = make(), images()
    y = y % 4
    seen, jacobian = steepness(model, x, y), exact(model, x)
    torch.testing.assert_close(seen.jacobian, torch.linalg.matrix_norm(jacobian, 2))
    torch.testing.assert_close(seen.jacobian_rows, torch.linalg.vector_norm(jacobian, dim=2).amax(1))
    x = x.requires_grad_()
    losses = F.cross_entropy(model(x), y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    torch.testing.assert_close(seen.loss, losses.detach())
    torch.testing.assert_close(seen.loss_gradient, gradient.flatten(1).norm(dim=1))
    assert all(column.shape == (len(x),) and not column.requires_grad for column in seen)


def test_an_images_steepness_is_its_own_whatever_it_is_seen_with():
    model, (x, y) = network(), images()
    together = steepness(model, x, y)
    for i in range(len(x)):
        alone = steepness(model, x[i : i + 1], y[i : i + 1])
        for ours, theirs in zip(alone, together, strict=True):
            assert ours.item() == pytest.approx(theirs[i].item(), rel=1e-12)


def observed(model: Network, by: str, *batches):
    bound = Nominal(by)(model)
    for x, y in batches:
        bound.observe(x, y)
    return bound


def test_its_kind_is_nominal_and_nothing_else():
    bound = Nominal()(network())
    assert Nominal.kind is bound.kind is Kind.NOMINAL and bound.norm is Norm.L2
    assert bound.report == {} and bound.pairs is None


def test_every_radius_is_its_formula():
    model, (x, _) = network(), images(40)
    logits, jacobian = model(x).detach(), exact(model, x)
    y = torch.where(torch.arange(40) % 4 == 0, (logits.argmax(1) + 1) % CLASSES, logits.argmax(1))
    losses = [float(-torch.log_softmax(g, 0)[t]) for g, t in zip(logits, y, strict=True)]
    slopes = [(g.softmax(0) - F.one_hot(t, CLASSES)) @ j for g, t, j in zip(logits, y, jacobian, strict=True)]
    margins = [float(g[t] - max(v for i, v in enumerate(g) if i != t)) for g, t in zip(logits, y, strict=True)]
    steepest = {
        "loss": max(float(s.norm()) for s in slopes),
        "jacobian": max(float(torch.linalg.matrix_norm(j, 2)) for j in jacobian),
        "rows": max(float(row.norm()) for j in jacobian for row in j),
    }
    due = {
        "loss": [max(0.0, math.log(2) - c) / steepest["loss"] for c in losses],
        "jacobian": [max(0.0, m) / (math.sqrt(2) * steepest["jacobian"]) for m in margins],
        "rows": [max(0.0, m) / (2 * steepest["rows"]) for m in margins],
    }
    for by, radii in due.items():
        verdict = observed(model, by, (x, y)).judge(x, y)
        assert verdict.radius.tolist() == pytest.approx(radii, rel=1e-9)
        assert verdict.margin.tolist() == pytest.approx(margins, rel=1e-9)
        assert torch.equal(verdict.prediction, logits.argmax(1)) and verdict.lipschitz_radius is None
        assert (verdict.radius[logits.argmax(1) != y] == 0).all()
        assert (verdict.radius > 0).sum() >= 10
    unsure = [m > 0 and c >= math.log(2) for m, c in zip(margins, losses, strict=True)]
    assert any(unsure)  # right, but so unsure that its cross-entropy says nothing
    assert all(due["loss"][i] == 0 < due["jacobian"][i] for i in range(40) if unsure[i])


@pytest.mark.parametrize("by", ["loss", "jacobian", "rows"])
def test_the_steepest_image_of_all_batches_scales_every_radius_in_whatever_order_they_come(by):
    model, (x, _) = network(), images(30)
    y = model(x).argmax(1)
    radius = observed(model, by, (x, y)).judge(x, y).radius
    parts = list(zip(x.split(10), y.split(10), strict=True))
    for order in itertools.permutations(parts):
        assert torch.allclose(observed(model, by, *order).judge(x, y).radius, radius, rtol=1e-12)
    fewer = [observed(model, by, *pair).judge(x, y).radius.max() for pair in itertools.combinations(parts, 2)]
    assert max(fewer) > radius.max() * (1 + 1e-6)  # one of the three holds the steepest image


def test_what_it_observes_comes_back_as_columns():
    model, (x, y) = network(), images()
    columns = Nominal()(model).observe(x, y)
    for ours, theirs in zip(columns, steepness(model, x, y), strict=True):
        assert torch.equal(ours, theirs)


def test_two_networks_do_not_share_what_was_observed():
    certificate, (x, y) = Nominal(), images()
    one, two = certificate(network()), certificate(network())
    one.observe(x, y)
    with pytest.raises(ValueError, match="none has been observed"):
        two.judge(x, y)
    one.judge(x, y)


def test_where_nothing_moves_nothing_is_claimed():
    x, y = images()
    bound = Nominal()(network(last=0.0))
    bound.observe(x, y)
    verdict = bound.judge(x, verdict_labels := bound.judge(x, y).prediction)
    assert (verdict.prediction == verdict_labels).all() and (verdict.radius == 0).all()


def test_a_gradient_that_is_no_number_is_an_error():
    """Constants are finite; what they are multiplied to need not be."""
    model, (x, y) = narrow(), images()
    model.operations[1].weight.fill_(1e300), model.operations[2].weight.fill_(1e300)
    with pytest.raises(ValueError, match="the network has gradients that are not finite"):
        Nominal()(model).observe(x, y % 4)


def test_a_network_certified_in_linf_is_refused():
    model = LinfDist(input_shape=(1, 4, 4), num_classes=3, depth=2, width=8)
    with pytest.raises(ValueError, match="`certificate=nominal`.*linf"):
        Nominal()(freeze(model, (1, 4, 4), model.norm))


@pytest.mark.parametrize("by", ["loss", "jacobian", "rows"])
def test_it_is_no_proof(by):
    """A network that is steep only where no image lies: its answer changes well within the nominal radius, and not
    within the certified one."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 2))
    for parameter, value in zip(module.parameters(), ([[20.0]], [-10.0], [[-2.0], [2.0]], [0.0, 0.0]), strict=True):
        parameter.data.copy_(torch.tensor(value))
    model = freeze(module, (1, 1, 1))
    x = torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], dtype=torch.float64).view(-1, 1, 1, 1)
    y = (x > 0.5).long().view(-1)
    bound = Nominal(by)(model)
    bound.observe(x, y)
    radius = bound.judge(x, y).radius
    nearest = (x.view(-1) - 0.5).abs()  # the answer changes at 1/2, and nowhere else
    proved = Pairwise()(model).judge(x, y).radius
    assert (radius > nearest + 0.01).all() and (proved <= nearest).all() and (proved > 0).all()
    away = x + (nearest + 0.01).view(-1, 1, 1, 1) * torch.where(x < 0.5, 1.0, -1.0)
    assert ((away - x).flatten(1).norm(dim=1) < radius).all() and (model(away).argmax(1) != y).all()
    assert bound.kind is not Kind.PROOF
