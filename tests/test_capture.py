"""What users build is captured: the frozen network and its module agree, on batches of any size."""

import pytest
import torch
from capturing import IMAGE, SERIES, VECTOR, VOLUME, Own, Side, agrees, scattered
from torch import nn
from torch.nn import functional as F

from lipcert.layers import MinMax, NormPool2d, SubtractMean

# ---------------------------------------- torch's layers

LAYERS = [
    (VECTOR, nn.Identity(), nn.Linear(6, 3), nn.Dropout(0.3), nn.AlphaDropout(0.2), nn.Linear(3, 5, bias=False)),
    (VECTOR, nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Unflatten(1, (2, 4)), nn.Flatten()),
    (VECTOR, nn.BatchNorm1d(6, affine=False, eps=0.01), nn.Linear(6, 3)),
    ((3, 4), nn.Linear(4, 5), nn.Flatten(1), nn.Linear(15, 2)),
    (SERIES, nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), nn.BatchNorm1d(6), nn.MaxPool1d(2, 1)),
    (SERIES, nn.Conv1d(4, 4, 4, padding="same"), nn.AvgPool1d(3, 2, 1), nn.Dropout1d()),
    (SERIES, nn.Conv1d(4, 2, 3, padding=2, padding_mode="circular")),
    (SERIES, nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.AdaptiveAvgPool1d(4)),
    (SERIES, nn.ReflectionPad1d((2, 1)), nn.AdaptiveMaxPool1d(3)),
    (SERIES, nn.ReplicationPad1d(2), nn.Upsample(scale_factor=2), nn.ZeroPad1d((1, 2)), nn.CircularPad1d(1)),
    (SERIES, nn.Upsample(7, mode="linear"), nn.Upsample(scale_factor=1.5, mode="linear", align_corners=True)),
    (IMAGE, nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2), nn.BatchNorm2d(6), nn.MaxPool2d(2)),
    (IMAGE, nn.Conv2d(4, 2, 4, padding="same", bias=False), nn.Dropout2d(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    (IMAGE, nn.Conv2d(4, 2, (2, 3), padding="same", dilation=(3, 1)), nn.FeatureAlphaDropout()),
    (IMAGE, nn.Conv2d(4, 2, 3, padding="valid"), nn.MaxPool2d(2, 1, dilation=(2, 1))),
    (IMAGE, nn.Conv2d(4, 2, 3, padding=(2, 1), padding_mode="reflect"), nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True)),
    (IMAGE, nn.Conv2d(4, 2, 3, padding=2, padding_mode="replicate"), nn.AvgPool2d(2, divisor_override=3)),
    (IMAGE, nn.Conv2d(4, 2, 3, padding="same", padding_mode="circular"), nn.AvgPool2d(3, 2, 1, True, False)),
    (IMAGE, nn.Conv2d(4, 8, 3, groups=4), nn.AdaptiveAvgPool2d((3, 1))),
    (IMAGE, nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), nn.AdaptiveMaxPool2d((None, 3))),
    (IMAGE, nn.ConvTranspose2d(4, 6, (2, 3), (1, 3), (0, 1), (0, 2), groups=2, dilation=(2, 1)), nn.BatchNorm2d(6)),
    (IMAGE, nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)),
    (IMAGE, nn.Upsample(scale_factor=2, mode="bilinear"), nn.Upsample((5, 9), mode="nearest")),
    (IMAGE, nn.Upsample(scale_factor=(1.5, 2), mode="bilinear", align_corners=True), nn.UpsamplingNearest2d(7)),
    (IMAGE, nn.Upsample(scale_factor=0.5, mode="nearest-exact"), nn.UpsamplingBilinear2d(4)),
    (IMAGE, nn.Upsample(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)),
    (IMAGE, nn.ZeroPad2d((1, 0, 2, 1)), nn.ConstantPad2d(1, 0.7), nn.ReflectionPad2d(2), nn.CircularPad2d(1)),
    (IMAGE, nn.ReplicationPad2d((0, 1, 2, 0)), nn.ConstantPad2d(-1, 3.0)),
    (IMAGE, nn.Unfold((2, 3), stride=2)),
    (IMAGE, nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3)),
    (VOLUME, nn.Conv3d(2, 4, (1, 2, 3), (1, 2, 1), padding=1, groups=2), nn.BatchNorm3d(4), nn.MaxPool3d(2, 1)),
    (VOLUME, nn.Conv3d(2, 2, 2, padding="same"), nn.AvgPool3d(2, (1, 2, 1), 1, count_include_pad=False)),
    (VOLUME, nn.ConvTranspose3d(2, 2, 2, 2), nn.AdaptiveAvgPool3d((2, 3, 1)), nn.Dropout3d()),
    (VOLUME, nn.AvgPool3d(2, divisor_override=5), nn.Upsample(scale_factor=2, mode="trilinear")),
    (VOLUME, nn.ReplicationPad3d(1), nn.AdaptiveMaxPool3d(2), nn.ConstantPad3d(1, -2.0), nn.ReflectionPad3d(1)),
    (IMAGE, nn.Conv2d(4, 4, 1), MinMax(), NormPool2d(2), SubtractMean(4)),
]


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_layers(number):
    shape, *layers = LAYERS[number]
    module = nn.Sequential(*layers, nn.Flatten())
    module.eval()(torch.rand(2, *shape))  # lazy layers
    agrees(scattered(module), shape)


ACTIVATIONS = [
    *(nn.ReLU(), nn.ReLU(True), nn.ReLU6(), nn.LeakyReLU(0.3), nn.LeakyReLU(-2.0, True), nn.PReLU(), nn.PReLU(6)),
    *(nn.RReLU(), nn.ELU(), nn.ELU(3.0, True), nn.CELU(0.5), nn.SELU(), nn.Softplus(1, 40), nn.Softplus(0.3, 40)),
    *(nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softsign()),
    *(nn.Hardtanh(), nn.Hardtanh(-3, 0.5), nn.Hardsigmoid(), nn.Hardswish(), nn.Softshrink(0.2), nn.Tanhshrink()),
    *(nn.Softshrink(), nn.Softplus(8.0, 40)),
]
FUNCTIONS = [
    *(F.relu, torch.relu_, F.relu6, F.hardtanh, F.elu_, F.celu, F.selu, F.leaky_relu_, F.gelu, F.silu, F.mish),
    *(F.softplus, F.logsigmoid, F.softsign, F.softshrink, F.hardswish, F.hardsigmoid, torch.sigmoid, torch.tanh),
    *(torch.abs, torch.sin, torch.cos, torch.atan, torch.erf, torch.neg, F.tanhshrink, F.sigmoid, F.tanh),
    *(lambda x: x.relu(), lambda x: x.clamp(-1, 0.5), lambda x: x.clamp_(min=0.1), lambda x: torch.clip(x, max=2)),
    *(lambda x: x.clamp_min(0), lambda x: torch.clamp_max(x, 0.3), lambda x: abs(x), lambda x: -x),
    *(
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: torch.maximum(x, torch.tensor(0.5)),
    ),
    *(lambda x: F.threshold(x, 0, 0), lambda x: x * torch.sigmoid(x), lambda x: F.relu(x, inplace=True)),
    *(lambda x: torch.arctan(x), lambda x: F.leaky_relu(x, 0.2, True), lambda x: torch.special.expit(x)),
    *(lambda x: F.elu(x, 0.5), lambda x: torch.threshold(x, 0.2, 0.2)),
    *(lambda x: F.hardtanh(x, -2, 2), lambda x: F.rrelu(x, training=False), lambda x: torch.max(x, torch.zeros(()))),
]


def test_activations():
    for activation in ACTIVATIONS:
        scattered(activation)
    agrees(nn.Sequential(nn.Linear(6, 6), Side(ACTIVATIONS)), VECTOR)
    functions = [Own(lambda x, f=f: f(x * 1)) for f in FUNCTIONS]
    network = agrees(nn.Sequential(nn.Linear(6, 6), Side(functions)), VECTOR)
    assert sum(o.kind == "pointwise" and o.function == "silu" for o in network.operations) == 2
