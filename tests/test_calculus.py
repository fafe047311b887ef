"""The calculus under attack: no part, joint part or traced network moves faster, is longer, or rounds worse than
its rule says; what has no rule is refused by name; and the training-time estimate comes up to the bound from below."""

import copy
import math
import operator
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipcert.bounds import Estimate, Walk, image_signal, lipschitz_bound
from lipcert.bounds.calculus import branched
from lipcert.bounds.modules import RULES
from lipcert.certificates.last_layer import LastLayer
from lipcert.certificates.margin import Margin
from lipcert.contracts import Norm
from lipcert.layers import BranchLinear, JoinBranches, NonexpansiveLinear, fold
from lipcert.models.headed import Headed
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.parseval_resnet import ParsevalResNet

BOTH = (Norm.L2, Norm.LINF)


def jacobians(f, x):
    """(B, m, n), of a function of one image at a time: output i of copy i of an image."""
    (batch, *shape), m = x.shape, f(x[:1]).numel()
    copies = x.repeat_interleave(m, 0).requires_grad_()
    rows = torch.arange(m).repeat(batch)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(f(copies).flatten(1).gather(1, rows[:, None]).sum(), copies)
    return gradient.view(batch, m, math.prod(shape))


def steepest(f, points, norm):
    found = jacobians(f, points)
    return float(torch.linalg.matrix_norm(found, 2).max() if norm is Norm.L2 else found.abs().sum(2).max())


def length(x, norm):
    return x.flatten(1).norm(dim=1, p=2 if norm is Norm.L2 else torch.inf)


def scatter(module):
    """Weights and statistics like no initialisation's: large, tiny and negative ones, all float32 numbers."""
    for p in module.parameters():
        p.data += torch.randn_like(p) * 0.4
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn_like(m.running_mean) * 5)
            m.running_var.copy_(10 ** torch.empty_like(m.running_var).uniform_(-4, 1))
    return module.eval()


@torch.no_grad()
def holds(single, shape, norm, tight=None):
    """Everything that a Signal claims of a float32 network: the bound, found against a search; lengths; rounding."""
    double = copy.deepcopy(single).double()
    signal = Walk()(double, image_signal(shape, norm=norm))
    bound = float(signal.lipschitz)
    points = torch.cat([torch.rand(4, *shape), torch.randn(4, *shape), torch.randn(4, *shape) * 3]).double()
    found = steepest(double, points, norm)
    assert found <= bound * (1 + 1e-12)
    assert tight is None or bound <= found * tight
    x, y = points, points.roll(1, 0) * 0.9
    moved = length(double(x) - double(y), norm) / length(x - y, norm)
    assert (moved <= bound * (1 + 1e-12)).all()
    assert double(points).shape[1:] == signal.shape
    images = torch.cat([torch.rand(60, *shape), (torch.rand(8, *shape) > 0.5).float(), torch.zeros(1, *shape)])
    images = (images * 255).round() / 256  # exact in float32
    answers = double(images.double())
    assert (length(answers, norm) <= signal.magnitude).all()
    rough = Walk()(double, image_signal(shape, 2.0**-24, norm))
    gap = float(length(single(images).double() - answers, norm).max())
    assert gap <= rough.error
    assert rough.error < 0.05 * rough.magnitude  # and says something
    return bound


# ---------------------------------------- one module alone

FLAT, IMAGE = (7,), (2, 6, 5)
MODULES = [  # (module, shape, how far above what is found the bound may be; None: as Theorem 3 has it, not tight)
    (nn.Identity(), FLAT, 1.001),
    (nn.Dropout(0.3), FLAT, 1.001),
    (nn.Dropout2d(0.3), IMAGE, 1.001),
    (nn.ReLU(), FLAT, 1.001),
    (nn.ReLU6(), FLAT, 1.001),
    (nn.Flatten(), IMAGE, 1.001),
    (nn.Linear(7, 4), FLAT, 1.001),
    (nn.Linear(7, 4, bias=False), FLAT, 1.001),
    (nn.Conv2d(2, 3, 3, padding=1), IMAGE, 1.001),
    (nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(1, 0), groups=2), IMAGE, 1.001),
    (nn.Conv2d(2, 3, 2, dilation=2, bias=False), IMAGE, 1.001),
    (nn.Conv2d(2, 3, 3, stride=3), (2, 7, 8), 1.001),
    (nn.BatchNorm1d(7), FLAT, 1.001),
    (nn.BatchNorm1d(7, affine=False), FLAT, 1.001),
    (nn.BatchNorm2d(2), IMAGE, 1.001),
    (nn.MaxPool2d(2), IMAGE, 1.001),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE, None),
    (nn.MaxPool2d((3, 2), (1, 2)), IMAGE, None),
    (nn.AdaptiveMaxPool2d(2), IMAGE, None),
    (nn.AdaptiveMaxPool2d((None, 1)), IMAGE, 1.001),
    (nn.AvgPool2d(2), IMAGE, 1.001),
    (nn.AvgPool2d(3, 1, 1, count_include_pad=False), IMAGE, 1.001),
    (nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True), IMAGE, 1.001),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE, 1.001),
    (nn.AdaptiveAvgPool2d(1), IMAGE, 1.001),
    (nn.AdaptiveAvgPool2d((4, 3)), IMAGE, 1.001),
    (nn.Hardtanh(), FLAT, 1.001),
    (nn.Hardtanh(2.0, 3.0), FLAT, 1.001),
    (nn.LeakyReLU(0.2), FLAT, 1.001),
    (nn.LeakyReLU(-3.0), FLAT, 1.001),
    (nn.PReLU(), FLAT, 1.001),
    (nn.PReLU(2, init=-2.0), IMAGE, 1.001),
    (nn.ELU(), FLAT, 1.001),
    (nn.ELU(3.0), FLAT, 1.1),
    (nn.CELU(0.5), FLAT, 1.001),
    (nn.SELU(), FLAT, 1.1),
    (nn.Softplus(), FLAT, 1.01),
    (nn.Softplus(3.0, threshold=2.0), FLAT, 1.001),
    (nn.Sigmoid(), FLAT, 1.01),
    (nn.Tanh(), FLAT, 1.01),
    (nn.GELU(), FLAT, 1.01),
    (nn.GELU("tanh"), FLAT, 1.01),
    (nn.SiLU(), FLAT, 1.01),
]


def test_every_rule_is_under_test():
    assert {type(module) for module, _, _ in MODULES} == set(RULES)


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize(("module", "shape", "tight"), MODULES, ids=[str(m) for m, _, _ in MODULES])
def test_a_module(module, shape, tight, norm):
    holds(scatter(copy.deepcopy(module)), shape, norm, tight)


@pytest.mark.parametrize("module", [m for m, shape, _ in MODULES if shape == FLAT and not list(m.parameters())])
def test_the_slope_of_an_activation_is_nowhere_above_its_bound(module):
    x = torch.cat([torch.linspace(-30, 30, 200_001), torch.linspace(-1e-3, 1e-3, 1001)]).double()
    with torch.no_grad():  # a threshold's step is an error, not a slope
        jump = math.exp(-2.0) / 3 if getattr(module, "threshold", 20) == 2 else 0.0
        y = copy.deepcopy(module).double().eval()(x[:, None].expand(-1, 7))[:, 0]
    signal = Walk()(copy.deepcopy(module).double().eval(), image_signal(FLAT, norm=Norm.LINF))
    steps = x.diff().abs()
    assert (y.diff().abs() <= (float(signal.lipschitz) + 1e-12) * steps + 1e-13 + jump).all()


def test_the_step_of_a_softplus_is_an_error():
    module, near = nn.Softplus(3.0, threshold=2.0).double(), 2 / 3
    a, b = (module(torch.tensor([near + d], dtype=torch.float64)) for d in (-1e-9, 1e-9))
    signal = Walk()(module, image_signal((1,)))
    assert 0.03 < float((a - b).abs()) <= 2e-9 * float(signal.lipschitz) + signal.error


# ---------------------------------------- a linear map and its batch normalisation

JOINT = {
    "linear": (lambda: [nn.Linear(7, 5), nn.BatchNorm1d(5)], FLAT),
    "linear, no bias": (lambda: [nn.Linear(7, 9, bias=False), nn.BatchNorm1d(9, affine=False)], FLAT),
    "convolution": (lambda: [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)], IMAGE),
    "strided": (lambda: [nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4, eps=2e-5)], IMAGE),
    "grouped": (lambda: [nn.Conv2d(2, 6, 3, groups=2), nn.BatchNorm2d(6)], IMAGE),
    "dilated": (lambda: [nn.Conv2d(2, 3, 2, dilation=(2, 1)), nn.BatchNorm2d(3, affine=False)], IMAGE),
    "disjoint windows": (lambda: [nn.Conv2d(2, 5, 2, 2), nn.BatchNorm2d(5)], (2, 6, 4)),
    "1×1": (lambda: [nn.Conv2d(2, 4, 1, 2), nn.BatchNorm2d(4)], IMAGE),
}


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("name", JOINT)
def test_a_batch_normalisation_and_the_linear_map_before_it_are_one(name, norm):
    make, shape = JOINT[name]
    for _ in range(3):
        net = scatter(nn.Sequential(*make()))
        bound = holds(net, shape, norm, tight=1 + 1e-6)
        double = net.double()
        walk = Walk()
        walk(double, image_signal(shape, norm=norm))
        assert [row["layer"] for row in walk.rows] == ["0+1"]
        first = Walk()(double[0], image_signal(shape, norm=norm), "0")
        second = Walk()(double[1], image_signal(first.shape, norm=norm), "1")
        assert bound <= float(first.lipschitz * second.lipschitz) * (1 + 1e-9)


def test_a_convolution_that_others_read_is_not_joined():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    net = scatter(Shared())
    walk = Walk()
    walk(copy.deepcopy(net).double(), image_signal(IMAGE))
    assert [row["layer"] for row in walk.rows] == ["conv", "bn"]
    for norm in BOTH:
        holds(net, IMAGE, norm)


# ---------------------------------------- networks that are traced


def module_of(forward, **parts):
    """A module of the user's own, with that forward."""
    made = type("Own", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def conv(inputs, outputs, kernel=3, stride=1, **more):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, **more)


def bn(channels):
    return nn.BatchNorm2d(channels)


class BasicBlock(nn.Module):
    """As torchvision writes it."""

    def __init__(self, inputs, outputs, stride=1, downsample=None):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride, bias=False), bn(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=False), bn(outputs)
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out


class ResNet(nn.Module):
    def __init__(self, width=3, blocks=(2, 2), classes=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, width, 3, 1, 1, bias=False), bn(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        layers, inputs = [], width
        for group, count in enumerate(blocks):
            for i in range(count):
                outputs, stride = width * 2**group, 2 if group and not i else 1
                down = None
                if stride > 1 or inputs != outputs:
                    down = nn.Sequential(conv(inputs, outputs, 1, stride, bias=False), bn(outputs))
                layers.append(BasicBlock(inputs, outputs, stride, down))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(inputs, classes)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layers(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)

    def forward(self, x):
        return self._forward_impl(x)


class Dense(nn.Module):
    """Concatenations, all along one path."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = conv(2, 2), conv(4, 2), conv(6, 3)

    def forward(self, x):
        found = [x]
        for layer in (self.first, self.second):
            found.append(F.relu(layer(torch.cat(found, 1))))
        return self.third(torch.cat(found, dim=1)).mean((2, 3))


def functional(self, x):
    x = F.relu(self.a(x), inplace=True)
    x = F.max_pool2d(x, 2)
    x = F.dropout(x, 0.5, training=self.training)
    x = F.avg_pool2d(F.leaky_relu(self.b(x), 0.1), 2, stride=1)
    return self.c(x.view(x.size(0), -1))


def iadd_of_a_fresh_one(self, x):
    identity = x
    out = self.a(x)
    out += identity
    out = self.relu(out)
    return out


def gates(self, x):
    return self.alpha[0] * x - self.alpha[1] * self.a(x) / 3 + 0.25 * x + 1.5 - (2 - x)


TRACED = {
    "x + f(x)": (lambda: module_of(lambda s, x: x + s.f(x), f=conv(2, 2)), IMAGE),
    "x - f(x)": (lambda: module_of(lambda s, x: x - s.f(x), f=conv(2, 2)), IMAGE),
    "x + x": (lambda: module_of(lambda s, x: x + x), FLAT),
    "cat": (lambda: module_of(lambda s, x: torch.cat([x, s.f(x)], 1), f=conv(2, 3)), IMAGE),
    "cat of itself": (lambda: module_of(lambda s, x: torch.cat((x, x), dim=1)), FLAT),
    "cat of vectors": (
        lambda: module_of(lambda s, x: s.g(torch.cat([x, s.f(x)], 1)), f=nn.Linear(7, 3), g=nn.Linear(10, 2)),
        FLAT,
    ),
    "1×1 shortcut": (lambda: module_of(lambda s, x: s.f(x) + s.g(x), f=conv(2, 4, 3, 2), g=conv(2, 4, 1, 2)), IMAGE),
    "pooled shortcut": (
        lambda: module_of(
            lambda s, x: s.f(x) + s.g(x), f=conv(2, 4, 3, 2), g=nn.Sequential(nn.AvgPool2d(2), conv(2, 4, 1))
        ),
        (2, 6, 6),
    ),
    "in place": (lambda: module_of(iadd_of_a_fresh_one, a=nn.Sequential(conv(2, 2), bn(2)), relu=nn.ReLU(True)), IMAGE),
    "functional": (lambda: module_of(functional, a=conv(2, 4), b=conv(4, 3), c=nn.Linear(6, 3)), (2, 6, 5)),
    "gates": (lambda: module_of(gates, a=conv(2, 2), alpha=nn.Parameter(torch.tensor([0.3, -0.6]))), IMAGE),
    "views": (
        lambda: module_of(
            lambda s, x: s.f(x.reshape(-1, 6, 10).view(x.shape[0], x.shape[1] * 15, -1).flatten(1)),
            f=nn.Linear(60, 3),
        ),
        (2, 6, 5),
    ),
    "means": (
        lambda: module_of(lambda s, x: s.f(x).mean([2, 3]) + x.mean((-1, -2), keepdim=True).flatten(1), f=conv(2, 2)),
        IMAGE,
    ),
    "sum of several": (lambda: module_of(lambda s, x: sum([x, s.f(x), s.f(s.f(x))]), f=nn.Linear(7, 7)), FLAT),
    "x + 1": (lambda: module_of(lambda s, x: x + 1), FLAT),
    "a default": (lambda: module_of(lambda s, x, scale=3.0: scale * x), FLAT),
    "scaled by its size": (lambda: module_of(lambda s, x: s.f(x) / x.shape[1] ** 0.5, f=nn.Linear(7, 5)), FLAT),
    "a buffer": (lambda: module_of(lambda s, x: s.f.running_var[0] * s.f(x), f=nn.BatchNorm1d(7)), FLAT),
    "relu in place, read before": (
        lambda: module_of(lambda s, x: [y := s.f(x), y + s.r(y)][1], f=nn.Linear(7, 5), r=nn.ReLU(True)),
        FLAT,
    ),
    "its own Sequential": (
        lambda: type("Double", (nn.Sequential,), {"forward": lambda s, x: 2 * s[1](s[0](x))})(
            nn.Linear(7, 5), nn.Tanh()
        ),
        FLAT,
    ),
    "a subclass that is traced": (lambda: type("R", (nn.ReLU,), {"forward": lambda s, x: 5 * F.relu(x)})(), FLAT),
    "numbers of its own": (lambda: module_of(lambda s, x: s.bound * s.f(x), f=nn.Linear(7, 3), bound=3.0), FLAT),
    "dense": (Dense, IMAGE),
    "torchvision's resnet": (ResNet, (2, 8, 8)),
}


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("name", TRACED)
def test_a_network_with_a_forward_of_its_own(name, norm):
    make, shape = TRACED[name]
    holds(scatter(make()), shape, norm)


@pytest.mark.slow
def test_torchvisions_own_resnet():
    models = pytest.importorskip("torchvision.models")
    net = models.resnet18(num_classes=10).double().eval()
    signal = Walk()(net, image_signal((3, 32, 32)))
    assert signal.shape == (10,) and steepest(net, torch.rand(2, 3, 32, 32).double(), Norm.L2) <= float(
        signal.lipschitz
    )


def test_a_sum_and_a_concatenation_are_what_they_say():
    a, b = nn.Linear(7, 5).double(), nn.Linear(7, 5).double()
    la, lb = (float(Walk()(m, image_signal(FLAT)).lipschitz) for m in (a, b))
    for forward, expected in (
        (lambda s, x: s.a(x) - s.b(x), la + lb),
        (lambda s, x: torch.cat([s.a(x), s.b(x)], 1), math.hypot(la, lb)),
        (lambda s, x: -0.5 * s.a(x), la / 2),
        (lambda s, x: 3 - s.a(x) / 4, la / 4),
    ):
        bound = Walk()(module_of(forward, a=a, b=b), image_signal(FLAT)).lipschitz
        assert float(bound) == pytest.approx(expected, rel=1e-9)


class Random(nn.Module):
    """A network drawn from known parts: each step reads activations made before, and may write over one."""

    def __init__(self, draw):
        super().__init__()
        self.layers, self.program, sizes = nn.ModuleList(), [], [2]
        for _ in range(draw.randint(3, 8)):
            at = draw.randrange(len(sizes))
            kind = draw.choice(["layer"] * 4 + ["sum", "minus", "cat", "scale", "write", "view"])
            alike = [i for i, size in enumerate(sizes) if size == sizes[at]]
            if kind == "layer":
                out = draw.choice([2, 3])
                made = draw.choice([
                    lambda i, o: (nn.Sequential(conv(i, o), bn(o)), o),
                    lambda i, o: (conv(i, o), o),
                    lambda i, o: (nn.MaxPool2d(3, 1, 1), i),
                    lambda i, o: (nn.AvgPool2d(3, 1, 1), i),
                    lambda i, o: (nn.ReLU(draw.random() < 0.5), i),
                    lambda i, o: (nn.LeakyReLU(2.0, draw.random() < 0.5), i),
                    lambda i, o: (nn.Dropout2d(), i),
                    lambda i, o: (nn.Identity(), i),
                    lambda i, o: (bn(i), i),
                    lambda i, o: (nn.SiLU(), i),
                ])(sizes[at], out)  # fmt: skip
                self.layers.append(made[0])
                self.program.append(("layer", at, len(self.layers) - 1))
                sizes.append(made[1])
            else:
                other = draw.choice(alike)
                self.program.append((kind, at, other))
                sizes.append(sizes[at] + sizes[other] if kind == "cat" else sizes[at])

    def forward(self, x):
        found = [x]
        for kind, at, other in self.program:
            y = found[at]
            if kind == "layer":
                y = self.layers[other](y)
            elif kind == "sum":
                y = y + found[other]
            elif kind == "minus":
                y = y - found[other]
            elif kind == "cat":
                y = torch.cat([y, found[other]], 1)
            elif kind == "scale":
                y = y * -1.7
            elif kind == "view":
                y = y.view(y.size(0), y.size(1), 3, 3)
            else:
                y += found[other]
            found.append(y)
        return found[-1]


def test_random_networks():
    accepted, refused = 0, 0
    for seed in range(60):
        torch.manual_seed(seed)
        net = scatter(Random(random.Random(seed))).double()
        try:
            signal = Walk()(net, image_signal((2, 3, 3)))
        except ValueError as error:
            assert "overwrites" in str(error), seed
            refused += 1
            continue
        accepted += 1
        points = torch.cat([torch.rand(4, 2, 3, 3), torch.randn(4, 2, 3, 3)]).double()
        assert steepest(lambda x, net=net: net(x.clone()), points, Norm.L2) <= float(signal.lipschitz) * (1 + 1e-12), (
            seed
        )
        assert length(net(points[:4].clone()), Norm.L2).max() <= signal.magnitude, seed
    assert accepted > 30 and refused > 3


# ---------------------------------------- what is refused


def aliased(self, x, alias):
    y = self.f(x)
    z = alias(self, y)
    z += self.f(x)
    return y + z


def counts(self, x):
    self.calls += 1
    return x * self.calls


class Tilted(nn.Linear):
    def forward(self, x):
        return 5 * super().forward(x)


def with_hook():
    made = nn.Sequential(nn.Linear(7, 7), nn.ReLU())
    made[1].register_forward_hook(lambda module, inputs, output: 5 * output)
    return made


def with_forward():
    made = nn.Sequential(nn.Linear(7, 7), nn.ReLU())
    made[1].forward = lambda x: 5 * x
    return made


def training(module):
    module.train()
    return module


def poisoned(module):
    module.weight.data[0] = torch.nan
    return module


def flat(forward, **parts):
    return lambda: module_of(forward, f=nn.Linear(7, 7), **parts)


NO_STATISTICS = nn.BatchNorm1d(7, track_running_stats=False)
REFUSED = {
    "an unknown module": (lambda: nn.Sequential(nn.Linear(7, 7), nn.Softmin(1)), "`1`: no Lipschitz rule for Softmin"),
    "LayerNorm": (lambda: nn.Sequential(nn.LayerNorm(7)), "`0`: no Lipschitz rule for LayerNorm"),
    "GroupNorm": (lambda: nn.GroupNorm(1, 7), "no Lipschitz rule for GroupNorm"),
    "InstanceNorm": (lambda: nn.InstanceNorm1d(7), "no Lipschitz rule for InstanceNorm1d"),
    "a subclass": (lambda: nn.Sequential(Tilted(7, 7)), "no Lipschitz rule for"),
    "an unknown function": (flat(lambda s, x: torch.exp(x)), "Own, whose `forward` calls exp"),
    "an unknown method": (flat(lambda s, x: x.clamp(0, 1)), "whose `forward` calls clamp"),
    "softmax": (flat(lambda s, x: F.softmax(x, dim=1)), "whose `forward` calls softmax"),
    "a product": (flat(lambda s, x: torch.sigmoid(s.f(x)) * x), "product of two activations"),
    "a quotient": (flat(lambda s, x: 1 / (1 + x)), "quotient by an activation"),
    "a square": (flat(lambda s, x: x**2), "whose `forward` calls pow"),
    "a matrix of its own": (flat(lambda s, x: x @ s.f.weight), "whose `forward` calls matmul"),
    "a vector of its own": (flat(lambda s, x: x * s.f.bias), "only single numbers"),
    "weighted sums": (flat(lambda s, x: torch.add(x, s.f(x), alpha=9)), "whose `forward` calls add"),
    "indexing": (flat(lambda s, x: x[:, :3]), "whose `forward` calls getitem"),
    "x += f(x), kept": (flat(lambda s, x: aliased(s, x, lambda s, y: y)), "overwrites an activation"),
    "x += f(x), Identity": (flat(lambda s, x: aliased(s, x, lambda s, y: s.i(y)), i=nn.Identity()), "overwrites"),
    "x += f(x), Dropout": (flat(lambda s, x: aliased(s, x, lambda s, y: s.i(y)), i=nn.Dropout()), "overwrites"),
    "x += f(x), view": (flat(lambda s, x: aliased(s, x, lambda s, y: y.view(-1, 7))), "overwrites"),
    "x += f(x), contiguous": (flat(lambda s, x: aliased(s, x, lambda s, y: y.contiguous())), "overwrites"),
    "x += f(x), a layer with a bound": (
        flat(lambda s, x: aliased(s, x, lambda s, y: s.i(y)), i=Headed(nn.Identity(), nn.Identity())),
        "overwrites",
    ),
    "x += f(x), dropout2d": (
        lambda: module_of(lambda s, x: aliased(s, x, lambda s, y: s.i(y)), f=conv(2, 2), i=nn.Dropout2d()),
        "overwrites",
    ),
    "add_": (flat(lambda s, x: [y := s.f(x), y.add_(s.f(x)), y + y][2]), "add_.* overwrites"),
    "leaky_relu in place": (flat(lambda s, x: [y := s.f(x), y + F.leaky_relu(y, 5.0, True)][1]), "overwrites"),
    "LeakyReLU in place": (flat(lambda s, x: [y := s.f(x), y + s.r(y)][1], r=nn.LeakyReLU(5.0, True)), "overwrites"),
    "in place within a bound": (
        flat(lambda s, x: [y := s.f(x), y + s.h(y)][1], h=Headed(nn.LeakyReLU(5.0, True), nn.Identity())),
        "overwrites",
    ),
    "the image itself": (flat(lambda s, x: x.add_(s.f(x))), "overwrites"),
    "the image itself, +=": (flat(lambda s, x: [y := x.view(-1, 7), operator.iadd(y, s.f(x))][1]), "overwrites"),
    "its own parameter": (flat(lambda s, x: x * s.a.detach().mul_(2), a=nn.Parameter(torch.ones(()))), "calls mul_"),
    "a hook": (with_hook, "`1`: a forward hook"),
    "another forward": (with_forward, "`1`: ReLU was given another `forward`"),
    "control flow": (flat(lambda s, x: x if x.sum() > 0 else s.f(x)), "can't be traced"),
    "two inputs": (flat(lambda s, x, y: x + y), "more than one input"),
    "a None that is asked for": (flat(lambda s, x, y=None: 5 * x if y is None else x), "not what it computes"),
    "its input's type": (flat(lambda s, x: 5 * x if isinstance(x, torch.Tensor) else x), "not what it computes"),
    "random numbers": (flat(lambda s, x: x * torch.rand(1)), "not what it computes"),
    "a counter": (flat(counts, calls=0), "not what it computes"),
    "the size of the batch": (flat(lambda s, x: x / (x.size(0) // 2)), "calls floordiv"),
    "a batch of four": (flat(lambda s, x: x * (x.size(0) == 4)), "calls eq"),
    "a sum over the batch": (flat(lambda s, x: x.view(x.size(0) * 7)), "calls mul"),
    "no statistics": (lambda: nn.Sequential(nn.Linear(7, 7), NO_STATISTICS), r"`0\+1`: batch normalisation"),
    "no statistics, alone": (lambda: nn.Sequential(NO_STATISTICS), "`0`: batch normalisation"),
    "training": (lambda: training(nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7))), "`1`: BatchNorm1d is in tr"),
    "dropout in training": (lambda: training(nn.Sequential(nn.Dropout())), "`0`: Dropout is in training mode"),
    "F.dropout": (flat(lambda s, x: F.dropout(x)), "F.dropout without"),
    "F.dropout in training": (lambda: training(flat(lambda s, x: F.dropout(x, 0.5, s.training))()), "F.dropout"),
    "flatten(0)": (flat(lambda s, x: torch.flatten(x)), r"only flatten\(1\)"),
    "Flatten(0)": (lambda: nn.Sequential(nn.Flatten(0)), r"`0`: only Flatten\(\)"),
    "cat along the batch": (flat(lambda s, x: torch.cat([x, x])), "along axis 1"),
    "cat along a side": (lambda: module_of(lambda s, x: torch.cat([x, x], 2)), "along axis 1"),
    "cat with a constant": (flat(lambda s, x: torch.cat([x, s.f.weight], 1)), "along axis 1"),
    "a mean over channels": (lambda: module_of(lambda s, x: x.mean(1)), "only means over the positions"),
    "shapes that do not add": (lambda: module_of(lambda s, x: x + s.p(x), p=nn.AdaptiveAvgPool2d(1)), "a sum of"),
    "a dict": (flat(lambda s, x: {"logits": s.f(x)}), "where one activation is due"),
    "a tuple": (flat(lambda s, x: (s.f(x), x)), "where one activation is due"),
    "two tensors into a layer": (flat(lambda s, x: s.g(x, s.f(x)), g=nn.Bilinear(7, 7, 7)), "more than one tensor"),
    "circular padding": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "only zero padding"),
    "a negative alpha": (lambda: nn.CELU(-1.0), "no finite Lipschitz constant"),
    "a slope that is no number": (lambda: nn.Sequential(poisoned(nn.PReLU())), "`0`: PReLU has no finite"),
    "a scale that is no number": (lambda: nn.Sequential(poisoned(nn.BatchNorm1d(7))), "`0`: BatchNorm1d has no finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    make, message = REFUSED[name]
    module = make()
    if "training" not in name:
        module.eval()
    images = ("dropout2d", "a side", "channels", "do not add", "circular")
    shape = IMAGE if any(part in name for part in images) else FLAT
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=message) as told:
        Walk()(module.double(), image_signal(shape))
    assert "\n" not in str(told.value) and "`" in str(told.value)
    after = module.state_dict()
    assert all(
        torch.equal(
            after[key],
            value.double(),
        )
        or value.isnan().any()
        for key, value in before.items()
    )


# ---------------------------------------- one module twice, parametrized ones, branches


def test_a_module_that_is_used_twice_has_a_norm_for_each_size():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1, self.bn2, self.pool = conv(2, 2), bn(2), bn(2), nn.AvgPool2d(2)

        def forward(self, x):
            return self.bn2(self.conv(self.pool(self.bn1(self.conv(x)))))

    net = scatter(Twice())
    holds(net, (2, 8, 8), Norm.L2)
    walk = Walk()
    walk(net.double(), image_signal((2, 8, 8)))
    assert [row["layer"] for row in walk.rows] == ["conv+bn1", "conv+bn2"]
    norms = []
    for row, norm, side in zip(walk.rows, (net.bn1, net.bn2), (8, 4), strict=True):
        joint = nn.Sequential(net.conv, norm)
        norms.append(row["norm"])
        assert row["norm"] == pytest.approx(steepest(joint, torch.zeros(1, 2, side, side).double(), Norm.L2), rel=1e-6)
    assert abs(norms[0] / norms[1] - 1) > 0.01


@pytest.mark.parametrize("by", ["spectral_norm", "orthogonal", "weight_norm"])
def test_parametrized_layers_count_by_the_weight_they_have(by):
    wrap = getattr(parametrizations, by)
    net = nn.Sequential(wrap(nn.Linear(7, 5)), nn.ReLU(), wrap(nn.Linear(5, 5)), nn.BatchNorm1d(5)).eval()
    for p in net.parameters():
        p.data *= 3
    for norm in BOTH:
        holds(net, FLAT, norm)
    bound = float(Walk()(net[0].double(), image_signal(FLAT)).lipschitz)
    assert bound == pytest.approx(float(torch.linalg.matrix_norm(net[0].weight.detach(), 2)), rel=1e-9)


def test_a_parametrized_subclass_is_not_its_parent():
    class Mine(nn.Linear):
        def forward(self, x):
            return 5 * super().forward(x)

    with pytest.raises(ValueError, match="no Lipschitz rule for"):
        Walk()(parametrizations.spectral_norm(Mine(7, 7)).eval(), image_signal(FLAT))


def test_what_sees_all_branches_moves_as_they_all_do():
    """Behind a concatenation, a reshaping or a linear layer there are no branches any more."""
    for forward in (
        lambda s, x: s.again(s.fork(x).flatten(1)),
        lambda s, x: s.again(s.flat(s.fork(x))),
        lambda s, x: s.again(s.fork(x).view(x.size(0), -1)),
        lambda s, x: s.mix(s.fork(x).flatten(1)),
        lambda s, x: s.few(s.join(s.single(x))),
        lambda s, x: torch.cat([s.fork(x), 10 * s.fork(x)], 1),
    ):
        parts = {"fork": BranchLinear(3, 7, 4), "again": BranchLinear(3, 12, 2), "mix": nn.Linear(12, 3)}
        parts |= {"single": BranchLinear(3, 7, 1), "join": JoinBranches(), "few": nn.Linear(3, 2)}
        net = fold(module_of(forward, **parts, flat=nn.Flatten()).double())
        for part in (net.fork, net.again, net.single):  # not what falls to a branch alone, but to all of them together
            part.weight.copy_(part.weight[:1].expand_as(part.weight))
        signal = Walk()(net, image_signal(FLAT))
        found = jacobians(net, torch.rand(2, 7).double()).view(2, max(1, signal.lipschitz.numel()), -1, 7)
        assert (torch.linalg.matrix_norm(found, 2).amax(0) <= signal.lipschitz * (1 + 1e-12)).all()


def test_branches_merge():
    signal = branched(image_signal(FLAT), 4)
    assert float(signal.merged().lipschitz) == pytest.approx(2.0)
    assert float(branched(image_signal(FLAT, norm=Norm.LINF), 4).merged().lipschitz) == 1


def test_a_claim_says_nothing_of_the_normalisation_behind_it():
    net = nn.Sequential(fold(NonexpansiveLinear(7, 5).double()), nn.BatchNorm1d(5)).eval().double()
    net[1].running_var.fill_(1e-2)
    walk = Walk()
    bound = walk(net, image_signal(FLAT)).lipschitz
    assert steepest(net, torch.zeros(1, 7).double(), Norm.L2) <= bound <= 10
    assert [row["layer"] for row in walk.rows] == ["0", "1"]


def test_a_second_walk_on_the_norms_of_a_first():
    """By construction means the same where nothing is claimed; what was measured is not measured again."""
    net = scatter(ResNet()).double()
    walk = Walk()
    first = walk(net, image_signal((2, 8, 8)))

    def never(operator, norm):
        raise AssertionError("measured again")

    second = Walk(False, walk.norms, never)(net, image_signal((2, 8, 8)))
    assert torch.equal(first.lipschitz, second.lipschitz) and first.error == second.error
    with pytest.raises(AssertionError, match="measured again"):  # another size is another norm
        Walk(False, walk.norms, never)(net, image_signal((2, 10, 10)))


# ---------------------------------------- the estimate

NETS = {
    "lmt_convnet": (lambda: LMTConvNet(input_shape=(1, 8, 8), num_classes=4, channels=[3, 4], hidden=[6]), (1, 8, 8)),
    "min_max": (
        lambda: LMTConvNet(input_shape=(1, 8, 8), num_classes=4, channels=[4, 4], hidden=[6], activation="min_max"),
        (1, 8, 8),
    ),
    "resnet": (lambda: Headed(nn.Sequential(*[*ResNet().children()][:-1], nn.Flatten()), nn.Linear(6, 4)), (2, 6, 6)),
    "dense": (lambda: Headed(Dense(), nn.Linear(3, 4)), IMAGE),
    "grouped": (
        lambda: Headed(
            nn.Sequential(conv(2, 4, groups=2), bn(4), nn.ELU(2.0), conv(4, 4, 1, 2, groups=4), nn.Flatten()),
            nn.Linear(36, 3),
        ),
        IMAGE,
    ),
}  # fmt: skip


def converged(model, shape, calls=300, **options):
    estimate = Estimate(model, shape, **options)
    with torch.no_grad():
        for _ in range(calls):
            estimate(model)
    return estimate


@pytest.mark.parametrize("name", NETS)
def test_the_estimate_comes_up_to_the_bound_from_below(name):
    make, shape = NETS[name]
    model = scatter(make())
    for last_layer, certificate in ((True, LastLayer()), (False, Margin())):
        bound = certificate(copy.deepcopy(model).double(), shape).pairs
        for calls in (0, 400):
            pairs = converged(model, shape, calls, last_layer=last_layer)(model).detach().double()
            assert pairs.diag().abs().max() == 0
            off = ~torch.eye(len(pairs), dtype=torch.bool)
            assert (pairs[off] <= bound[off] * (1 + 1e-4)).all()
        assert (pairs[off] >= 0.97 * bound[off]).all()


def test_the_estimate_of_a_linear_network_is_proposition_2():
    model = Headed(nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 5)), nn.Linear(5, 3))
    pairs = converged(model, (2, 2, 2))(model)
    norms = [torch.linalg.matrix_norm(model.features[i].weight, 2) for i in (1, 2)]
    rows = model.head.weight
    exact = norms[0] * norms[1] * (rows[:, None] - rows).norm(dim=2)
    torch.testing.assert_close(pairs, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_the_estimate_is_that_of_the_bound(name):
    make, shape = NETS[name]
    model = scatter(make()).double()
    weights = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    slopes = torch.autograd.grad(converged(model, shape, 1500)(model)[0, 1], weights)
    for weight, slope in zip(weights, slopes, strict=True):
        direction = slope / slope.norm() + torch.randn_like(slope) / slope.numel() ** 0.5
        ends, step = [], 1e-5
        for sign in (1, -2, 1):
            weight.data += sign * step * direction
            ends.append(float(LastLayer()(model, shape).pairs[0, 1]))
        assert float((slope * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None, 0.0])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.BatchNorm2d(3)])
def test_the_variance_of_the_batch_and_its_gradient(norm, momentum):
    """What `watching` finds is x.var(unbiased=False), as is its gradient; and it leaves no hook."""
    norm = copy.deepcopy(norm).double()
    norm.momentum = momentum
    sides = (4, 5) if isinstance(norm, nn.BatchNorm2d) else ()
    model = nn.Sequential(conv(3, 3) if sides else nn.Linear(3, 3), norm, nn.ReLU(), nn.Flatten()).double()
    model.append(nn.Linear(3 * math.prod(sides), 2).double())
    estimate = Estimate(model, (3, *sides))
    x = torch.randn(6, 3, *sides, dtype=torch.float64) * torch.tensor([1e-2, 1, 30.0]).view(3, *[1] * len(sides)) + 2
    with estimate.watching(model):
        model(x)
    found = estimate.walk.variances[norm]
    exact = model[0](x).transpose(0, 1).flatten(1).var(1, unbiased=False)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
    probe = torch.randn(3, dtype=torch.float64)
    own = torch.autograd.grad((exact * probe).sum(), model[0].weight)[0]
    torch.testing.assert_close(
        torch.autograd.grad((found * probe).sum(), model[0].weight)[0], own, rtol=1e-8, atol=1e-9
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_hook_is_left_behind_a_failure():
    model = nn.Sequential(conv(2, 2), bn(2), nn.Flatten(), nn.Linear(60, 3))
    estimate = Estimate(model, IMAGE)
    with pytest.raises(RuntimeError), estimate.watching(model):
        model(torch.rand(2, 5, 6, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_batch_counts_in_training_and_the_running_statistics_otherwise():
    model = Headed(nn.Sequential(conv(2, 3), bn(3), nn.Flatten()), nn.Linear(90, 3))
    estimate = converged(model, IMAGE, 100)
    x = torch.rand(20, *IMAGE) / 100
    running = estimate(model)[0, 1]
    with estimate.watching(model):
        model(x)
    assert estimate(model)[0, 1] > 5 * running  # the batch's variance is tiny
    model.eval()
    with estimate.watching(model):
        model(x)
    assert estimate(model)[0, 1] < 5 * running


def test_the_vectors_are_the_state():
    model = NETS["resnet"][0]()
    torch.manual_seed(1)
    first = Estimate(model, (2, 6, 6))
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(1)
    same, other = Estimate(model, (2, 6, 6)), Estimate(model, (2, 6, 6))
    value = first(model)
    assert torch.equal(value, same(model)) and not torch.equal(value, other(model))
    other.load_state_dict(state)
    assert torch.equal(value, other(model)) and not list(first.parameters())
    moved = copy.deepcopy(other)
    assert torch.equal(moved(model), other(model))


def test_many_steps_of_an_estimate_leave_nothing_behind():
    model = module_of(functional, a=conv(2, 4), b=conv(4, 3), c=nn.Linear(6, 3))
    estimate = Estimate(model, (2, 6, 5))
    known = len(estimate.walk.rules)
    for _ in range(5):
        estimate(model)
    assert len(estimate.walk.rules) == known and len(estimate.walk.rows) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 7), nn.Softmax(1)), "`1`: no Lipschitz rule for Softmax"),
        (lambda: Headed(nn.Linear(7, 7), Tilted(7, 3)), "`head`: no Lipschitz rule for Tilted"),
        (lambda: nn.Sequential(nn.Linear(7, 7), NO_STATISTICS), r"`0\+1`: .* running statistics"),
        (lambda: nn.Sequential(NonexpansiveLinear(7, 7)), "`0`: no Lipschitz rule for NonexpansiveLinear; fold"),
    ],
)
def test_the_estimate_refuses_what_the_calculus_does_not_know(make, message):
    with pytest.raises(ValueError, match=message):
        Estimate(make(), FLAT)


def test_a_network_in_l_inf_is_refused():
    model = LMTConvNet(input_shape=(1, 8, 8), num_classes=4)
    model.norm = Norm.LINF
    with pytest.raises(ValueError, match="LMTConvNet is certified in l_inf"):
        Estimate(model, (1, 8, 8))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("kind", [LMTResNet, ParsevalResNet])
def test_the_published_residual_network(kind, average):
    model = kind(input_shape=(3, 4, 4), num_classes=4, depth=10, width=1, average_shortcut=average)
    for norm in BOTH:
        holds(fold(scatter(model)), (3, 4, 4), norm)


def test_the_bound_of_a_plain_network_and_what_its_layers_cost():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bound = lipschitz_bound(net, (1, 2, 3))
    first, second = (row["norm"] for row in bound.layers)
    assert bound.lipschitz == pytest.approx(first * second)
    assert [row["layer"] for row in bound.layers] == ["1+2", "5"]
    assert [row["cost"] for row in bound.layers] == pytest.approx([first, second])
    assert [row["lipschitz"] for row in bound.layers] == pytest.approx([first, first * second])
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    x = torch.rand(500, 1, 2, 3, requires_grad=True)
    net.eval()(x).sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) <= bound.lipschitz * 3**0.5).all()
    assert lipschitz_bound(net, (1, 2, 3), norm="linf").lipschitz > bound.lipschitz / 6**0.5
    with pytest.raises(ValueError, match="Softmax"):
        lipschitz_bound(nn.Softmax(1), (3,))


def test_in_a_residual_network_a_layer_costs_what_its_path_does():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.body(x)

    block = Block()
    block.body.weight.data.mul_(3 / torch.linalg.matrix_norm(block.body.weight.data, 2))
    bound = lipschitz_bound(block, (4,))
    assert bound.lipschitz == pytest.approx(4, rel=1e-5)  # 1 + 3
    assert bound.layers[0]["cost"] == pytest.approx(2, rel=1e-5)  # against 1 + 1
