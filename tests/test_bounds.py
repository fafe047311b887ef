"""A network's bound is above its steepest gradient, and knows how far rounding can carry it."""

import pytest
import torch
from torch import nn

from lipcert.bounds import Walk, image_signal
from lipcert.layers import NonexpansiveLinear, NonexpansiveRNN, TwoSidedReLU, fold
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_deep import L2NNNDeep
from lipcert.models.l2nnn_resnet import L2NNNResNet
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.parseval_resnet import ParsevalResNet

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
    "lmt": lambda: LMTConvNet(input_shape=(1, 8, 8), num_classes=4, channels=[3, 5], hidden=[12]),
    "lmt, min-max": lambda: LMTConvNet(
        input_shape=(1, 8, 8), num_classes=4, channels=[4, 6], strides=[1, 2], hidden=[12, 8], activation="min_max"
    ),
    "lmt, residual": lambda: LMTResNet(input_shape=(1, 8, 8), num_classes=4, depth=10, width=1),
    "lmt, residual, average": lambda: LMTResNet(
        input_shape=(1, 8, 8), num_classes=4, depth=10, width=1, average_shortcut=True
    ),
    "parseval": lambda: ParsevalResNet(input_shape=(1, 8, 8), num_classes=4, depth=10, width=1),
}


def wild(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.5
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.1, 3)
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
    signal = Walk()(double, image_signal((1, 8, 8), unit=2.0**-24))
    error = signal.error
    x = (torch.rand(200, 1, 8, 8) * 255).round() / 256  # exact in float32
    gap = (single(x).double() - double(x.double())).abs().max()
    assert 0 < float(gap) <= error
    if name.startswith(("lmt, residual", "parseval")):  # whose magnitudes are products over all layers, as its bound is
        assert error * 2.0**-29 < 1e-9 * float(signal.lipschitz)  # what float64 takes from a radius
    else:
        assert error < 1e6 * float(gap)  # and says something


def test_an_unknown_module_is_named():
    for module, name in ((nn.Softmax(1), "Softmax"), (nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), "LSTM")):
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
