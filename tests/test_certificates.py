"""A certified radius never exceeds a real distance: against exact distances, and brute force on tiny networks."""

import math

import pytest
import torch
from torch import nn

from lipcert.certificates.pairwise import Pairwise, pairwise_judge
from lipcert.frozen import Network, freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import BOUNDS, pair_bounds
from lipcert.models.convnet import ConvNet
from lipcert.models.headed import Headed
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_cifar import L2NNNCifar
from lipcert.models.nearest_neighbour import NearestNeighbour

MARGIN = ("vector", "logits")  # what conf/certificate/margin.yaml takes
CHOICES = [(bound,) for bound in BOUNDS] + [MARGIN, BOUNDS]

PLANE = (1, 1, 2)


def plane_network(multi: bool) -> Network:
    """An image of two pixels, so that the nearest other answer can be found by looking everywhere."""
    model = L2NNN(input_shape=PLANE, num_classes=3, channels=[], depth=2, width=6, multi=multi)
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.4
    return freeze(model, PLANE)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> Network:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.weight.data, head.bias.data = weight.clone(), bias.clone()
    return freeze(nn.Sequential(nn.Flatten(), head), PLANE)


@pytest.mark.parametrize("bounds", CHOICES, ids="+".join)
@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_point_within_the_radius_has_another_answer(bounds, multi, seed):
    torch.manual_seed(seed)
    network = plane_network(multi)
    axis = torch.linspace(-1, 2, 301, dtype=torch.float64)
    everywhere = torch.cartesian_prod(axis, axis)
    answers = network(everywhere.view(-1, *PLANE)).argmax(1)
    x = torch.rand(100, *PLANE, dtype=torch.float64)
    labels = network(x).argmax(1)
    radius = Pairwise(bounds)(network).judge(x, labels).radius
    distance = torch.cdist(x.flatten(1), everywhere)
    distance[answers[None] == labels[:, None]] = torch.inf
    assert (radius <= distance.amin(1)).all()
    assert (radius > 0).any()


def test_rows_are_exact_for_a_linear_classifier_and_no_bound_is_below_them():
    weight, bias = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64) / 4
    network = linear(weight, bias)
    x = torch.rand(200, *PLANE, dtype=torch.float64)
    y = x.flatten(1) @ weight.T + bias
    labels = y.argmax(1)
    gaps = y.gather(1, labels[:, None]) - y
    lengths = (weight[labels][:, None] - weight[None]).norm(dim=2)
    exact = torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)
    radius = Pairwise()(network).judge(x, labels).radius
    assert (radius <= exact).all()
    torch.testing.assert_close(radius, exact, rtol=1e-9, atol=1e-9)
    for bounds in CHOICES:
        assert (Pairwise(bounds)(network).judge(x, labels).radius <= radius).all()


def test_more_bounds_never_make_a_radius_smaller_and_the_report_says_which_counts():
    network = plane_network(True)
    x = torch.rand(100, *PLANE, dtype=torch.float64)
    labels = network(x).argmax(1)
    found = pair_bounds(Walk(network, network.norm))
    for bounds in CHOICES:
        bound = Pairwise(bounds)(network)
        assert torch.equal(bound.pairs, torch.stack([found.matrices[name] for name in bounds]).amin(0))
        assert bound.report["smallest_bound"].keys() == set(bounds)
        assert sum(bound.report["smallest_bound"].values()) == 3  # pairs of 3 logits
        radius = bound.judge(x, labels).radius
        for name in bounds:
            assert (Pairwise([name])(network).judge(x, labels).radius <= radius).all()


@pytest.mark.parametrize("bounds", [[], ["matrix"], ["vector", "columns"]])
def test_bounds_that_there_are_not(bounds):
    with pytest.raises(ValueError, match="`certificate.bounds` must be some of vector, logits, rows, got"):
        Pairwise(bounds)


@pytest.mark.parametrize(("multi", "bound", "constant"), [(False, "vector", math.sqrt(2)), (True, "logits", 2.0)])
def test_the_constants_are_root_two_and_two(multi, bound, constant):
    x = torch.rand(50, *PLANE, dtype=torch.float64)
    network = plane_network(multi)
    certificate = Pairwise([bound])(network)
    verdict = certificate.judge(x, network(x).argmax(1))
    key = {"vector": "lipschitz_bound", "logits": "lipschitz_of_logits"}[bound]
    largest = verdict.margin / (constant * certificate.report[key])
    if bound == "vector":
        torch.testing.assert_close(verdict.radius, largest, rtol=1e-6, atol=1e-9)
        assert (verdict.radius <= largest).all()
    assert (verdict.radius >= largest * (1 - 1e-6)).all()  # other logits may move less
    off = ~torch.eye(3, dtype=torch.bool)
    own = pair_bounds(Walk(network, network.norm)).of_logits
    own = own if bound == "logits" else torch.full_like(own, certificate.report[key] / math.sqrt(2))
    due = own[:, None] + own
    torch.testing.assert_close(certificate.pairs[off], due[off], rtol=1e-9, atol=0)


def test_wrong_answers_ties_and_nonfinite_logits_have_radius_zero():
    network = plane_network(True)
    x = torch.rand(50, *PLANE, dtype=torch.float64)
    answers = network(x).argmax(1)
    bound = Pairwise()(network)
    wrong = bound.judge(x, (answers + 1) % 3)
    assert (wrong.radius == 0).all() and (wrong.margin < 0).all() and (wrong.prediction == answers).all()
    x[0] = torch.nan
    assert bound.judge(x, answers).radius[0] == 0
    tied = linear(torch.zeros(3, 2), torch.zeros(3))
    assert (Pairwise()(tied).judge(x[1:], answers[1:]).radius == 0).all()


def test_equal_rows_with_a_wider_gap_can_never_be_told_apart():
    """Nowhere among the images, and up to rounding nowhere at all."""
    network = linear(torch.full((2, 2), 0.5), torch.tensor([1.0, 0.0]))
    x = torch.rand(3, *PLANE, dtype=torch.float64)
    assert Pairwise()(network).judge(x, torch.zeros(3, dtype=torch.int64)).radius.min() > 1e12


def test_rounding_error_is_subtracted():
    """Of both logits, each its own."""
    network = plane_network(True)
    x = torch.rand(20, *PLANE, dtype=torch.float64)
    labels = network(x).argmax(1)
    pairs = 2 * (1 - torch.eye(3, dtype=torch.float64))
    none, some = torch.zeros(3, dtype=torch.float64), torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    sharp, blunt = (pairwise_judge(network, pairs, errors)(x, labels).radius for errors in (none, some))
    y = network(x)
    margins = y.gather(1, labels[:, None]) - y - some[labels][:, None] - some
    due = (margins / 2).scatter(1, labels[:, None], torch.inf).amin(1).clamp_min(0)
    torch.testing.assert_close(blunt, due, rtol=1e-9, atol=1e-12)
    assert (blunt <= due).all() and (blunt <= (sharp - 0.015).clamp_min(0)).all() and (blunt > 0).any()
    endless = pairwise_judge(network, pairs, torch.full((3,), torch.inf, dtype=torch.float64))(x, labels).radius
    assert (endless == 0).all()


def test_measured_norms_enlarge_what_construction_promises():
    model = L2NNN(input_shape=(1, 8, 8), num_classes=4, channels=[3], kernel_size=3, depth=1, width=8, multi=False)
    report = Pairwise()(freeze(model, (1, 8, 8))).report
    assert report["lipschitz_by_construction"] == pytest.approx(1)
    assert report["lipschitz_bound"] < 1
    assert report["enlargement"] == pytest.approx(1 / report["lipschitz_bound"])
    product = math.prod(row["gram_slack"] * row["tiling_slack"] for row in report["layers"])
    assert product == pytest.approx(report["enlargement"], rel=1e-6)


def test_a_soft_network_is_certified_by_its_real_norms():
    model = L2NNN(input_shape=PLANE, num_classes=3, channels=[], depth=1, width=6)
    for layer in model.modules():
        if hasattr(layer, "strict"):
            layer.strict = 0.0
            layer.weight.data *= 3
    report = Pairwise(MARGIN)(freeze(model, PLANE)).report
    assert report["lipschitz_of_logits"] == pytest.approx(9, rel=1e-3)  # 3 of the hidden layer, 3 of each row
    assert report["lipschitz_by_construction"] >= report["lipschitz_bound"] * (1 - 1e-9)


def test_a_branched_network_has_every_bound_and_its_logits_count():
    model = L2NNNCifar(input_shape=(1, 4, 4), num_classes=2, channels=[2, 2], kernel_size=3, depth=1, width=4)
    network = freeze(model, (1, 4, 4))
    x = torch.rand(40, 1, 4, 4, dtype=torch.float64)
    labels = network(x).argmax(1)
    radii = {bounds: Pairwise(bounds)(network).judge(x, labels).radius for bounds in CHOICES}
    assert (radii[MARGIN] >= radii["vector",]).all() and (radii[BOUNDS] >= radii[MARGIN]).all()
    assert (radii[BOUNDS] > 0).any()


class Louder(Headed):
    """What `features` and `head` say of it is not what it answers."""

    def forward(self, x):
        return 3 * super().forward(x)


def test_what_is_answered_is_certified_whatever_the_parts_say():
    plain = Headed(nn.Flatten(), nn.Linear(2, 3))
    louder = Louder(plain.features, plain.head)
    one, three = (Pairwise()(freeze(model, PLANE)) for model in (plain, louder))
    torch.testing.assert_close(three.pairs, 3 * one.pairs, rtol=1e-9, atol=0)


@pytest.mark.parametrize("bounds", CHOICES, ids="+".join)
def test_an_ordinary_network_gets_a_small_but_true_radius(bounds):
    network = freeze(ConvNet(input_shape=(1, 8, 8), num_classes=4, channels=[4], hidden=16), (1, 8, 8))
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    labels = network(x).argmax(1)
    radius = Pairwise(bounds)(network).judge(x, labels).radius
    assert (radius > 0).any()
    direction = torch.randn_like(x)
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (network(x + direction * radius.view(-1, 1, 1, 1)).argmax(1) == labels).all()


def test_nearest_neighbour_is_certified_by_half_its_gap():
    model = NearestNeighbour(input_shape=(1, 2, 2), num_classes=3)
    images = torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    model.memorise(images, labels)
    network = freeze(model, (1, 2, 2))
    x = torch.rand(30, 1, 2, 2, dtype=torch.float64)
    points = images.double().flatten(1) / 255
    distances = torch.stack([torch.cdist(x.flatten(1), points[labels == k]).amin(1) for k in range(3)], 1)
    torch.testing.assert_close(network(x), -distances)
    ordered = distances.sort(1)
    for bounds in (MARGIN, BOUNDS):
        radius = Pairwise(bounds)(network).judge(x, ordered.indices[:, 0]).radius
        half = (ordered.values[:, 1] - ordered.values[:, 0]) / 2
        assert (radius <= half + 1e-15).all()
        torch.testing.assert_close(radius, half, atol=1e-4, rtol=0)
    on_a_point = points[:1].view(1, 1, 2, 2).requires_grad_()
    network(on_a_point).sum().backward()
    assert on_a_point.grad.isfinite().all()
