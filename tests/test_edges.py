"""Cases at the edge of the arithmetic, of the images' range and of the logits, found by reading to break the code."""

import math

import numpy as np
import pytest
import torch
from frozen_builder import Builder
from torch import nn

import lipcert
from lipcert.attacks.judge import judge
from lipcert.certificates.interval import Interval
from lipcert.frozen import freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding
from lipcert.models.nearest_neighbour import NearestNeighbour


def nearly_tied(n, margin, slope):
    """Two logits of n pixels, about their sum: the first leads by `margin` at 0 and loses `slope` a unit of l_inf."""
    layer = nn.Linear(n, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 1e6 / n, (1e6 + slope) / n
        layer.bias.copy_(torch.tensor([margin, 0.0]))
    return nn.Sequential(nn.Flatten(), layer)


def test_an_interval_is_carried_no_further_than_rounding_leaves_of_its_margin():
    shape = (1, 100, 200)
    network = freeze(nearly_tied(20_000, 1e-4, 1e-4), shape, "linf")
    lost = float(rounding(network, Walk(network, network.norm)).sum())
    margin = lost * (1 + 2e-5)
    network = freeze(nearly_tied(20_000, margin, margin / 0.9), shape, "linf")
    x = torch.zeros(1, *shape, dtype=torch.float64)
    radius = float(Interval()(network).judge(x, torch.tensor([0])).radius)
    assert 0.9 * (margin - lost) / margin < radius < 0.8  # real arithmetic alone would allow 0.9
    generator = torch.Generator().manual_seed(0)
    for inside in radius * (1 - 10 ** (-2 - 4 * torch.rand(60, generator=generator, dtype=torch.float64))):
        assert int(network(x + inside).argmax(1)) == 0


def test_a_class_without_images_is_no_misclassification():
    model = NearestNeighbour(input_shape=(1, 2, 2), num_classes=3)
    model.memorise(
        torch.tensor([[[[0, 0], [0, 0]]], [[[255, 255], [255, 255]]]], dtype=torch.uint8), torch.tensor([0, 2])
    )
    net = lipcert.freeze(model, (1, 2, 2))
    x = np.array([0.1, 0.8]).reshape(2, 1, 1, 1) * np.ones((2, 1, 2, 2))
    verdict = net.certify(x)
    assert verdict.prediction.tolist() == [0, 2] and (verdict.radius > 0).all()
    clean = torch.from_numpy(x)
    of_no_image = net.certify(x, np.array([1, 1]))  # the label of a class without images
    assert (of_no_image.margin == -np.inf).all() and (of_no_image.radius == 0).all()
    assert not judge(net.network, clean, torch.tensor([0, 2]), clean, net.norm).success.any()
    found = net.attack(x, verdict.prediction, "pgd_l2", eps=0.9 * verdict.radius)
    assert not found.success.any()


def test_a_network_without_any_image_is_frozen_and_proves_nothing():
    net = lipcert.freeze(NearestNeighbour(input_shape=(1, 2, 2), num_classes=3), (1, 2, 2))
    assert net.certify(np.zeros((1, 1, 2, 2))).radius.tolist() == [0.0]


def test_a_chain_of_two_thousand_operations_has_a_bound():
    builder, value = Builder(0, (2,)), 0
    for _ in range(2000):
        value = builder.add("pointwise", value, function="tanh", parameters=())
    network = builder.network(value)
    walk = Walk(network, network.norm)
    assert 1 <= walk.constant(value) < 1 + 1e-6
    assert bool(pair_bounds(walk).smallest().isfinite().all())


def test_a_padding_of_billions_is_refused_before_anything_is_padded():
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="billions of entries"):
        Builder(0, (1, 2, 2)).add("distance_convolution", 0, weight=weight, stride=10**9, padding=10**9, groups=1)


def small():
    torch.manual_seed(0)
    return lipcert.freeze(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2))


@pytest.mark.parametrize("eps", [math.inf, 1e300])
def test_an_attack_without_limits_tries_the_whole_range(eps):
    net, x = small(), np.random.default_rng(0).random((8, 1, 2, 2))
    labels = net(x).argmax(1)
    found = net.attack(x, labels, "pgd_l2", eps=eps)
    assert (found.success == net.attack(x, labels, "pgd_l2", eps=4.0).success).all()


def test_inference_mode_and_negative_strides():
    net, x = small(), np.random.default_rng(0).random((4, 1, 2, 2))
    plain = net.certify(x[:, :, ::-1].copy())
    with torch.inference_mode():
        again = lipcert.CertifiedClassifier(net.network).certify(x[:, :, ::-1])
    assert again.radius.tolist() == plain.radius.tolist()
