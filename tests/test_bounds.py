"""Every bound is at least the exact operator norm, not much above it, and knows how far rounding can carry it."""

import math

import pytest
import torch
from torch import nn

from lipcert.bounds import Walk, convolution_norm, image_signal, matrix_norm
from lipcert.bounds.operator_norm import convolution_matrix, fft_norm
from lipcert.layers import NonexpansiveLinear, NonexpansiveRNN, TwoSidedReLU, fold
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_deep import L2NNNDeep
from lipcert.models.l2nnn_resnet import L2NNNResNet

GRID = [
    (c_out, c_in, k, s, p, n)
    for c_out, c_in in ((1, 1), (3, 2), (2, 5))
    for k in (1, 2, 3, 5)
    for s in (1, 2, 3)
    for p in (0, k // 2)
    for n in (5, 9, 12)
]


@pytest.mark.parametrize(("c_out", "c_in", "k", "s", "p", "n"), GRID)
def test_convolution_bounds_are_bounds(c_out, c_in, k, s, p, n):
    weight = torch.randn(c_out, c_in, k, k, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(convolution_matrix(weight, s, p, (n, n)), 2)
    assert exact <= fft_norm(weight, s, p, (n, n))
    assert exact <= convolution_norm(weight, s, p, (n, n)) <= exact * (1 + 1e-6)  # small: measured exactly
    tiled = torch.linalg.matrix_norm(weight.flatten(1), 2) * math.ceil(k / s)
    assert exact <= tiled * (1 + 1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_fft_bound_is_tight_where_it_is_used(stride, monkeypatch):
    monkeypatch.setattr("lipcert.bounds.operator_norm.DENSE_ENTRIES", 0)
    weight = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(convolution_matrix(weight, stride, 2, (16, 16)), 2)
    assert exact <= convolution_norm(weight, stride, 2, (16, 16)) <= 1.06 * exact


def test_a_convolution_matrix_is_the_convolution():
    weight, x = torch.randn(3, 2, 3, 3), torch.randn(1, 2, 7, 5)
    out = nn.functional.conv2d(x, weight, stride=2, padding=1)
    torch.testing.assert_close(convolution_matrix(weight, 2, 1, (7, 5)) @ x.flatten(), out.flatten())


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (5, 5), (3, 40), (40, 3), (2, 6, 4), (2, 2, 1, 5), (0, 4)])
def test_matrix_norm_bounds_the_singular_value(shape):
    w = torch.randn(shape, dtype=torch.float64)
    exact = torch.linalg.svdvals(w)[..., 0] if 0 not in shape else torch.zeros(())
    assert (matrix_norm(w) >= exact).all()
    assert (matrix_norm(w) <= exact * (1 + 1e-8)).all()


@pytest.mark.parametrize("condition", [1.0, 1e-8, 1e-300, 1e150])
def test_matrix_norm_at_all_scales(condition):
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert matrix_norm(q * condition) >= torch.linalg.svdvals(q * condition)[0]


MODELS = {
    "l2nnn": lambda: L2NNN(input_shape=(1, 8, 8), num_classes=4, channels=[3, 5], kernel_size=3, depth=2, width=12),
    "l2nnn, single": lambda: L2NNN(input_shape=(1, 8, 8), num_classes=4, channels=[3], depth=1, width=8, multi=False),
    "l2nnn, one-sided, max": lambda: L2NNN(
        input_shape=(1, 8, 8), num_classes=4, channels=[3], depth=1, width=8, activation="relu", pooling="max"
    ),
    "l2nnn, sigmoid": lambda: L2NNN(
        input_shape=(1, 8, 8), num_classes=4, channels=[3], depth=1, width=8, activation="two_sided_sigmoid"
    ),
    "deep": lambda: L2NNNDeep(
        input_shape=(1, 8, 8), num_classes=4, channels=[2, 3], shared=2, shared_width=12, branch=2, branch_width=6
    ),
    "resnet": lambda: L2NNNResNet(input_shape=(1, 8, 8), num_classes=4, channels=[3, 4, 5], blocks=[1, 2, 1]),
    "resnet, per channel": lambda: L2NNNResNet(
        input_shape=(1, 8, 8), num_classes=4, channels=[3, 4], blocks=[1, 2], per_channel=True
    ),
}


def wild(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.5
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_no_network_moves_faster_than_its_bound(name):
    """Against the largest gradient that a search over points and directions of logits finds."""
    model = fold(wild(MODELS[name]()).double())
    lipschitz = Walk()(model, image_signal((1, 8, 8))).lipschitz
    x = torch.rand(64, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    for logit in range(4):
        steepest = torch.autograd.grad(model(x)[:, logit].sum(), x)[0].flatten(1).norm(dim=1).max()
        assert steepest <= (lipschitz if lipschitz.dim() == 0 else lipschitz[logit]) * (1 + 1e-12)
    y = torch.rand(64, 1, 8, 8, dtype=torch.float64)
    moved = (model(x) - model(y)).abs() / (x - y).flatten(1).norm(dim=1, keepdim=True)
    assert (moved <= lipschitz * (1 + 1e-12)).all()


def test_rounding_of_a_recurrent_network_stays_within_its_bound(monkeypatch):
    monkeypatch.setattr("lipcert.bounds.calculus.TOLERANCE", 1e-5)
    single = fold(wild(NonexpansiveRNN(4, 6)))
    double = fold(single).double()
    signal = Walk()(double, image_signal((9, 4), unit=2.0**-24))
    x = (torch.rand(100, 9, 4) * 255).round() / 256
    gap = (single(x).double() - double(x.double())).flatten(1).norm(dim=1).max()
    assert 0 < float(gap) <= signal.error
    assert double(x.double()).flatten(1).norm(dim=1).max() <= signal.magnitude


@pytest.mark.parametrize("name", MODELS)
def test_rounding_stays_within_its_bound(name, monkeypatch):
    """Evaluated in float32, the logits differ from float64's by no more than the rule says of unit 2⁻²⁴."""
    single = fold(wild(MODELS[name]()))
    double = fold(single).double()  # the same numbers: what is rounded is the evaluation alone
    monkeypatch.setattr("lipcert.bounds.calculus.TOLERANCE", 1e-5)  # folded in float32, a claim of 1 is one of 1 + 1e-7
    error = Walk()(double, image_signal((1, 8, 8), unit=2.0**-24)).error
    x = (torch.rand(200, 1, 8, 8) * 255).round() / 256  # exact in float32
    gap = (single(x).double() - double(x.double())).abs().max()
    assert 0 < float(gap) <= error
    assert error < 1e6 * float(gap)  # and says something


def test_an_unknown_module_is_named():
    for module, name in ((nn.GELU(), "GELU"), (nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), "LSTM")):
        with pytest.raises(ValueError, match=f"no Lipschitz rule for {name}"):
            Walk()(module, image_signal((2,)))


def test_a_subclass_is_not_its_parent():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="no Lipschitz rule for Twice"):
        Walk()(Twice(2, 2), image_signal((2,)))
    with pytest.raises(ValueError, match="fold the network first"):
        Walk()(NonexpansiveLinear(2, 2), image_signal((2,)))


def test_a_layer_above_its_claim_stops_everything():
    net = fold(nn.Sequential(NonexpansiveLinear(4, 4), TwoSidedReLU(), NonexpansiveLinear(8, 4)).double())
    Walk()(net, image_signal((4,)))
    net[2].weight.data *= 1 + 1e-6
    net[2].weight.data /= torch.linalg.matrix_norm(net[2].weight.data, 2) / (1 + 1e-6)
    with pytest.raises(ValueError, match=r"layer `2` has operator norm 1\.00000"):
        Walk()(net, image_signal((4,)))


def test_shapes_that_do_not_fit_are_named():
    for module, shape in (
        (nn.Linear(3, 2), (4,)),
        (nn.Conv2d(1, 2, 5), (1, 3, 3)),
        (nn.Conv2d(2, 2, 3), (1, 8, 8)),
        (nn.MaxPool2d(4), (1, 2, 2)),
    ):
        with pytest.raises(ValueError, match="expected|fit"):
            Walk()(nn.Sequential(module), image_signal(shape))
