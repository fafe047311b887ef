"""What is not in the table of operations is refused, in one line, by the layer's name and with the way out."""

import pytest
import torch
from capturing import IMAGE, SERIES, VECTOR, Own
from torch import nn
from torch.nn import functional as F

from lipcert.frozen.freeze import freeze

SCALES, PRODUCT, BATCH = (
    "divides by the spread",
    "product of two activations",
    "of a batch|of the batch|the batch for channels|batch's|between images",
)
STEP, RANDOM, PRECISION, OUTPUT = "step", "random numbers", "leave the precision", "a network returns"
MIXING, STATE, CHOICE = f"{BATCH}|keep the batch as the first axis", "fixed function|keeps state", "chooses by"


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.tensor = torch.ones(6)

    def forward(self, x):
        self.tensor += 1
        return x * self.tensor


class Reassigned(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x):
        self.factor = self.factor + 1
        return x * self.factor


class Itself(nn.Linear):
    def __deepcopy__(self, memo):
        return self


class Handle(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.hold = (n for n in range(3))


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Many(nn.Module):
    def forward(self, *inputs):
        return 2 * inputs[0]


def poisoned():
    layer = nn.Linear(6, 3)
    layer.weight.data[0, 0] = torch.nan
    return layer


LAYERS = [
    (VECTOR, nn.LayerNorm(6), f"`1`: `layer_norm` .*{SCALES}.*SubtractMean"),
    (VECTOR, nn.RMSNorm(6), f"`1`: `rms_norm` .*{SCALES}.*SubtractMean"),
    (IMAGE, nn.GroupNorm(2, 4), f"`1`: `group_norm` .*{SCALES}.*batch normalisation"),
    (IMAGE, nn.InstanceNorm2d(4), f"`1`: `instance_norm` .*{SCALES}"),
    (IMAGE, nn.BatchNorm2d(4, track_running_stats=False), "`1`: .*keep running statistics"),
    (IMAGE, nn.LocalResponseNorm(2), f"`1`: .*{PRODUCT}"),
    (VECTOR, nn.Softmax(1), "`1`: `softmax` .*leave the softmax out"),
    (VECTOR, nn.LogSoftmax(1), "`1`: `log_softmax` .*leave the log_softmax out"),
    (VECTOR, nn.Softplus(threshold=0), "`1`: `softplus` with threshold 0 jumps by 0.693; leave it at 20"),
    (VECTOR, nn.Hardshrink(), f"`1`: .*{STEP}"),
    (VECTOR, nn.Threshold(0.1, 5), "`1`: .*threshold jumps; use a ReLU"),
    (VECTOR, nn.Softplus(-1), "`1`: `softplus` needs a positive beta"),
    (VECTOR, nn.LeakyReLU(float("inf")), "`1`: .*no finite slope"),
    (SERIES, nn.LPPool1d(2, 2), "`1`: `pow` .*bounded slope"),
    (SERIES, nn.TransformerEncoderLayer(10, 2, 16, batch_first=True), "`1.self_attn`: attention multiplies"),
    (VECTOR, poisoned(), "`1`: its weight is not finite"),
]
PARTS = [
    (SERIES, lambda x, m: m(x, x, x)[0], nn.MultiheadAttention(10, 2, batch_first=True), "`m`: attention multiplies"),
    (SERIES, lambda x, m: m(x)[0], nn.LSTM(10, 3, batch_first=True), "`m`: `lstm` .*NonexpansiveRNN"),
    (SERIES, lambda x, m: m(x)[0], nn.GRU(10, 3, batch_first=True), "`m`: `gru` .*NonexpansiveRNN"),
    (SERIES, lambda x, m: m(x)[0], nn.RNN(10, 3, batch_first=True), "`m`: `rnn_tanh` .*NonexpansiveRNN"),
    (VECTOR, lambda x, m: m(x)[0], nn.LSTMCell(6, 3), "`m`: `lstm_cell` .*gates"),
    (VECTOR, lambda x, m: m(x, x), nn.Bilinear(6, 6, 2), f"`m`: `bilinear` .*{PRODUCT}"),
    (VECTOR, lambda x, m: m(x.long()), nn.Embedding(6, 2), PRECISION),
    (VECTOR, lambda x, m: m(x).view(x.shape[0] // 2, -1), nn.Linear(6, 6), "can't be captured|batch"),
]
VECTORS = [
    (PRODUCT, lambda x: x * (1 - x), lambda x: x * x.relu(), lambda x: F.glu(x), lambda x: x[:, None] @ x[:, :, None]),
    (
        "no finite",
        lambda x: 1 / (1 + x),
        lambda x: x / x.tanh(),
        lambda x: x.exp(),
        lambda x: x**2,
        lambda x: x.square(),
    ),
    ("no finite", lambda x: x.log(), lambda x: x.log1p(), lambda x: x.sqrt(), lambda x: torch.logsumexp(x, 1, True)),
    ("no rule by itself", lambda x: x.norm(dim=1, keepdim=True), lambda x: F.normalize(x)),
    (STEP, lambda x: torch.sign(x), lambda x: x.round(), lambda x: x // 1, lambda x: (x > 0) * x, lambda x: x % 1),
    (STEP, lambda x: x.masked_fill(x > 0.5, 1.0), lambda x: F.one_hot(x.argmax(1), 6), lambda x: F.hardshrink(x)),
    ("indices", lambda x: x.sort(1)[1] * 1.0, lambda x: x.max(1, True)[1], lambda x: x.topk(2)[1]),
    (RANDOM, lambda x: x * torch.rand(6), lambda x: x + torch.randn_like(x), lambda x: x[:, torch.randperm(6)]),
    (RANDOM, lambda x: F.rrelu(x, training=True), lambda x: F.gumbel_softmax(x), lambda x: x * torch.randn(1).item()),
    ("dropout that is", lambda x: F.dropout(x), lambda x: F.linear(x, F.dropout(torch.ones(6, 6).to(x)))),
    (CHOICE, lambda x: x if x.sum() > 0 else 2 * x, lambda x: x * (2 if x.shape[0] > 2 else 1)),
    (MIXING, lambda x: x - x.mean(0), lambda x: x[::2], lambda x: x - x.sum(), lambda x: x.view(-1), lambda x: x[1:]),
    (
        MIXING,
        lambda x: x - x[0],
        lambda x: x.T @ x,
        lambda x: torch.cat([x, x]),
        lambda x: x.roll(1, 0),
        lambda x: x.flip(0),
    ),
    (
        MIXING,
        lambda x: x.roll(1),
        lambda x: x.sort(0)[0],
        lambda x: x - x.max(),
        lambda x: x.view(-1, 3),
        lambda x: x[[1, 0, 2]],
    ),
    (
        MIXING,
        lambda x: x.view(len(x), 2, 3),
        lambda x: x * x.size(0),
        lambda x: x / x.shape[0],
        lambda x: x.repeat(2, 1),
    ),
    (MIXING, lambda x: (x[:, None] - x[None]).sum(1), lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2)),
    (
        MIXING,
        lambda x: F.batch_norm(x, None, None, training=True).flatten(),
        lambda x: x.chunk(3)[0],
        lambda x: x.squeeze(),
    ),
    (PRECISION, lambda x: x.float(), lambda x: x.half().double(), lambda x: x.long() * 1.0, lambda x: (x * 1j).abs()),
    (
        OUTPUT,
        lambda x: (x, 2 * x),
        lambda x: {"logits": 2 * x},
        lambda x: None,
        lambda x: torch.ones(1, 6),
        lambda x: 3.0,
    ),
    (OUTPUT, lambda x: x.sum(1), lambda x: (2 * x).view(-1, 2, 3), lambda x: [2 * x], lambda x: torch.zeros_like(x)),
    ("changes", lambda x: x.add_(1), lambda x: [x.mul_(2), 2 * x][1]),
    ("not in the table", lambda x: torch.fft.rfft(x).real, lambda x: x.median(1, True)[0], lambda x: x.cumsum(1)),
    ("matrix product", lambda x: torch.einsum("bi,bj->bij", x, x).flatten(1)),
]
WHOLE = [
    (Attribute, STATE),
    (Reassigned, STATE),
    (lambda: Itself(6, 3), "can't be copied"),
    (Handle, "can't be copied"),
    (Two, "more than one batch of images"),
    (Many, "other arguments than one batch"),
    (nn.Identity, "computes nothing"),
    (lambda: nn.LazyLinear(3), "can't be copied"),
    (lambda: nn.Linear(6, 3, device="meta"), "can't be copied"),
    (lambda: nn.Linear(5, 3), "can't be captured"),
    (lambda: nn.DataParallel(nn.Linear(6, 3)), r"\.module"),
    (lambda: len, "takes a torch.nn.Module"),
    (lambda: nn.Linear, "takes a torch.nn.Module"),
]


def refused(module, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        freeze(module, shape)
    assert "\n" not in str(caught.value)


SLOW = ("RMSNorm", "LocalResponseNorm", "LPPool1d", "TransformerEncoderLayer", "GRU", "RNN", "Linear", "Embedding")


def named(cases, at):
    """The cases by the type of their layer; those that take long, and are like others, are slow."""
    kinds = [type(case[at]).__name__ for case in cases]
    marks = [pytest.mark.slow if kind in SLOW else () for kind in kinds]
    return [pytest.param(*case, id=kind, marks=mark) for case, kind, mark in zip(cases, kinds, marks, strict=True)]


@pytest.mark.parametrize(("shape", "layer", "message"), named(LAYERS, 1))
def test_layers(shape, layer, message):
    before = nn.Linear(6, 6) if shape == VECTOR else nn.ReLU()
    refused(nn.Sequential(before, layer, nn.Flatten()).eval(), shape, message)


@pytest.mark.parametrize(("shape", "function", "part", "message"), named(PARTS, 2))
def test_parts(shape, function, part, message):
    refused(Own(lambda x, m: function(x, m).flatten(1), m=part), shape, message)


@pytest.mark.parametrize("row", range(len(VECTORS)))
def test_functions(row):
    message, first, *_ = VECTORS[row]
    refused(Own(first), VECTOR, message)


@pytest.mark.slow
@pytest.mark.parametrize("row", range(len(VECTORS)))
def test_more_functions(row):
    message, _, *others = VECTORS[row]
    for function in others:
        refused(Own(function), VECTOR, message)


@pytest.mark.parametrize(("make", "message"), WHOLE)
def test_whole_modules(make, message):
    refused(make(), VECTOR, message)
