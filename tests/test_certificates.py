"""A certified radius never exceeds a real distance: against exact distances, and brute force on tiny networks."""

import math

import pytest
import torch
from torch import nn

from lipcert.certificates.last_layer import LastLayer
from lipcert.certificates.margin import Margin
from lipcert.layers import fold
from lipcert.models.convnet import ConvNet
from lipcert.models.headed import Headed
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_cifar import L2NNNCifar
from lipcert.models.nearest_neighbour import NearestNeighbour

PLANE = (1, 1, 2)


def plane_network(multi: bool) -> nn.Module:
    """An image of two pixels, so that the nearest other answer can be found by looking everywhere."""
    model = L2NNN(input_shape=PLANE, num_classes=3, channels=[], depth=2, width=6, multi=multi)
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.4
    return fold(model.double().eval())


@pytest.mark.parametrize("certificate", [Margin(), LastLayer()], ids=["margin", "last_layer"])
@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_point_within_the_radius_has_another_answer(certificate, multi, seed):
    torch.manual_seed(seed)
    model = plane_network(multi)
    axis = torch.linspace(-1, 2, 301, dtype=torch.float64)
    everywhere = torch.cartesian_prod(axis, axis)
    answers = model(everywhere.view(-1, *PLANE)).argmax(1)
    x = torch.rand(100, *PLANE, dtype=torch.float64)
    labels = model(x).argmax(1)
    radius = certificate(model, PLANE).judge(x, labels).radius
    distance = torch.cdist(x.flatten(1), everywhere)
    distance[answers[None] == labels[:, None]] = torch.inf
    assert (radius <= distance.amin(1)).all()
    assert (radius > 0).any()


def test_the_last_layer_certificate_is_exact_for_a_linear_classifier():
    head = nn.Linear(2, 4).double().requires_grad_(False)
    model = Headed(nn.Flatten(), head).eval()
    x = torch.rand(200, *PLANE, dtype=torch.float64)
    y = model(x)
    labels = y.argmax(1)
    gaps = y.gather(1, labels[:, None]) - y
    lengths = (head.weight[labels][:, None] - head.weight[None]).norm(dim=2)
    exact = torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)
    radius = LastLayer()(model, PLANE).judge(x, labels).radius
    assert (radius <= exact).all()
    torch.testing.assert_close(radius, exact, rtol=1e-9, atol=1e-9)
    assert (Margin()(model, PLANE).judge(x, labels).radius <= radius).all()


def test_the_constants_are_root_two_and_two():
    x = torch.rand(50, *PLANE, dtype=torch.float64)
    for multi, constant in ((False, math.sqrt(2)), (True, 2.0)):
        model = plane_network(multi)
        labels = model(x).argmax(1)
        bound = Margin()(model, PLANE)
        verdict = bound.judge(x, labels)
        expected = verdict.margin / (constant * bound.report["lipschitz_bound"])
        torch.testing.assert_close(verdict.radius, expected, rtol=1e-6, atol=1e-9)
        assert (verdict.radius <= expected).all()


def test_wrong_answers_ties_and_nonfinite_logits_have_radius_zero():
    model = plane_network(True)
    x = torch.rand(50, *PLANE, dtype=torch.float64)
    answers = model(x).argmax(1)
    bound = LastLayer()(model, PLANE)
    wrong = bound.judge(x, (answers + 1) % 3)
    assert (wrong.radius == 0).all() and (wrong.margin < 0).all() and (wrong.prediction == answers).all()
    x[0] = torch.nan
    assert bound.judge(x, answers).radius[0] == 0
    tied = Headed(nn.Flatten(), nn.Linear(2, 3).double().requires_grad_(False)).eval()
    tied.head.weight.zero_()
    tied.head.bias.zero_()
    assert (LastLayer()(tied, PLANE).judge(x[1:], answers[1:]).radius == 0).all()


def test_equal_rows_with_a_wider_gap_can_never_be_told_apart():
    model = Headed(nn.Flatten(), nn.Linear(2, 2).double().requires_grad_(False)).eval()
    model.head.weight.fill_(0.5)
    model.head.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(3, *PLANE, dtype=torch.float64)
    assert LastLayer()(model, PLANE).judge(x, torch.zeros(3, dtype=torch.int64)).radius.isinf().all()


def test_rounding_error_is_subtracted():
    model = plane_network(True)
    x = torch.rand(20, *PLANE, dtype=torch.float64)
    labels = model(x).argmax(1)
    from lipcert.certificates.margin import logit_pairs
    from lipcert.certificates.pairwise import pairwise_judge

    pairs = logit_pairs(torch.ones(3, dtype=torch.float64), 3)
    sharp, blunt = (pairwise_judge(model, pairs, e)(x, labels).radius for e in (0.0, 0.01))
    torch.testing.assert_close(blunt, (sharp - 0.01).clamp_min(0), rtol=1e-9, atol=1e-12)


def test_measured_norms_enlarge_what_construction_promises():
    model = L2NNN(input_shape=(1, 8, 8), num_classes=4, channels=[3], kernel_size=3, depth=1, width=8)
    report = LastLayer()(fold(model.double().eval()), (1, 8, 8)).report
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
    report = Margin()(fold(model.double().eval()), PLANE).report
    assert report["lipschitz_bound"] == pytest.approx(9, rel=1e-3)  # 3 of the hidden layer, 3 of each row
    assert report["lipschitz_by_construction"] >= report["lipschitz_bound"] * (1 - 1e-9)


def test_the_last_layer_needs_one():
    branched = fold(
        L2NNNCifar(input_shape=(1, 4, 4), num_classes=2, channels=[2, 2], kernel_size=3, depth=1, width=4)
        .double()
        .eval()
    )
    with pytest.raises(ValueError, match="certificate=margin"):
        LastLayer()(branched, (1, 4, 4))
    Margin()(branched, (1, 4, 4))
    with pytest.raises(ValueError, match="certificate=margin"):
        LastLayer()(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double(), PLANE)


class Louder(Headed):
    """What `features`, `head` and the inherited `bound` say of it is not what it answers."""

    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize("certificate", [Margin(), LastLayer()], ids=["margin", "last_layer"])
def test_what_a_parent_computes_is_not_certified(certificate):
    model = Louder(nn.Flatten(), nn.Linear(2, 3)).double().eval().requires_grad_(False)
    with pytest.raises(ValueError, match="needs its own `bound`|not what this model answers"):
        certificate(model, PLANE)


def test_an_ordinary_network_gets_a_small_but_true_radius():
    model = ConvNet(input_shape=(1, 8, 8), num_classes=4, channels=[4], hidden=16).double().eval()
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    labels = model(x).argmax(1)
    radius = LastLayer()(model, (1, 8, 8)).judge(x, labels).radius
    direction = torch.randn_like(x)
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (model(x + direction * radius.view(-1, 1, 1, 1)).argmax(1) == labels).all()


def test_nearest_neighbour_is_certified_by_half_its_gap():
    model = NearestNeighbour(input_shape=(1, 2, 2), num_classes=3)
    images = torch.randint(0, 256, (40, 1, 2, 2), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    model.memorise(images, labels)
    x = torch.rand(30, 1, 2, 2, dtype=torch.float64)
    points = images.double().flatten(1) / 255
    distances = torch.stack([torch.cdist(x.flatten(1), points[labels == k]).amin(1) for k in range(3)], 1)
    torch.testing.assert_close(model.double()(x), -distances)
    ordered = distances.sort(1)
    radius = Margin()(model, (1, 2, 2)).judge(x, ordered.indices[:, 0]).radius
    half = (ordered.values[:, 1] - ordered.values[:, 0]) / 2
    assert (radius <= half + 1e-15).all()
    torch.testing.assert_close(radius, half, atol=1e-4, rtol=0)
    on_a_point = points[:1].view(1, 1, 2, 2).requires_grad_()
    model(on_a_point).sum().backward()
    assert on_a_point.grad.isfinite().all()
