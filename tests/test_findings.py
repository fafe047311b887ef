"""Each class of false proofs that was ever found, with instances of its own: what is certified of a module is measured
and attacked on the module itself, and the test fails if the fix is taken out."""

import copy
from dataclasses import replace
from fractions import Fraction
from importlib import import_module

import pytest
import torch
from capturing import Own
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from lipcert.contracts import Norm
from lipcert.frozen import lipschitz
from lipcert.frozen.arithmetic import FLOAT64
from lipcert.frozen.capture.arithmetic import pointwise
from lipcert.frozen.capture.lowering import RULES
from lipcert.frozen.freeze import freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding
from lipcert.layers import Replicate, TwoSidedReLU

freezing = import_module("lipcert.frozen.freeze")  # the package has the function of that name
program = import_module("lipcert.frozen.capture.program")
error_pass = import_module("lipcert.frozen.error_pass")
error_walk = import_module("lipcert.frozen.error_walk")
VECTOR = (6,)


def radii(network, images, arithmetic=FLOAT64):
    """(B,) certified l2 radii and labels."""
    walk = Walk(network, network.norm)
    pairs, error = pair_bounds(walk).smallest(), rounding(network, walk, arithmetic)
    logits = network(images)
    label = logits.argmax(1)
    margins = logits.gather(1, label[:, None]) - logits - (error[label][:, None] + error)
    radius = (margins / pairs[label]).scatter(1, label[:, None], torch.inf).amin(1)
    return radius.nan_to_num(0.0).clamp_min(0), label


def broken(module, images, radius, label, steps=60, starts=3):
    """For how many images gradient ascent on the module leaves the label within 0.999 of the radius."""
    found = torch.zeros(len(images), dtype=torch.bool)
    limit = 0.999 * radius.view(-1, *[1] * (images.dim() - 1))
    own = F.one_hot(label, module(images[:1]).shape[1]).bool()

    def within(x):
        moved = x - images
        length = moved.flatten(1).norm(dim=1).view(limit.shape)
        return images + moved * (limit / length.clamp_min(1e-300)).clamp_max(1)

    for _ in range(starts):
        x = within(images + torch.randn_like(images) * limit)
        for step in range(steps):
            x.requires_grad_()
            logits = module(x)
            others = logits.masked_fill(own, -torch.inf).amax(1)
            found |= others.detach() > logits.detach()[own]
            (gradient,) = torch.autograd.grad((others - logits[own]).sum(), x)
            size = gradient.flatten(1).norm(dim=1).view(limit.shape)
            x = within(x.detach() + gradient / size.clamp_min(1e-300) * limit * (0.5 if step < steps // 2 else 0.1))
    return int(found.sum())


def gain(module, images):
    """The largest of the module's slopes at these images, and between them and images near by."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: module(x[None])[0]))(images).flatten(2)
    with torch.no_grad():
        near = images + 1e-3 * torch.randn_like(images)
        moved = (module(near) - module(images)).norm(dim=1) / (near - images).flatten(1).norm(dim=1)
    return max(float(torch.linalg.matrix_norm(jacobian.detach(), 2).max()), float(moved.max()))


def holds(module, shape, spread=3.0):
    """What is certified of a module is true of it."""
    module = module.double().eval()
    network = freeze(module, shape)
    bound = Walk(network, Norm.L2).constant(len(network.operations))
    wide = torch.randn(40, *shape).double() * spread
    assert gain(module, torch.cat([wide, torch.rand(40, *shape).double()])) <= bound * (1 + 1e-9), "a gain"
    images = torch.rand(60, *shape).double()
    radius, label = radii(network, images)
    assert broken(module, images, radius, label) == 0, "an attack"
    return float(radius.median())


def fails(module, shape, what="a gain|an attack"):
    with pytest.raises(AssertionError, match=what):
        holds(module, shape)


@pytest.fixture
def unchecked(monkeypatch):
    """A freeze that does not compare."""
    monkeypatch.setattr(freezing, "compare", lambda network, module: None)


# ---------------------------------------- one module used twice


def twice(activation):
    first = nn.Linear(6, 6)
    first.weight.data.mul_(4)
    return nn.Sequential(first, activation, first, activation, nn.Linear(6, 3))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
def test_one_module_used_twice(activation):
    assert holds(twice(activation), VECTOR) > 1e-4


def test_without_the_second_use(monkeypatch):
    plain, seen = RULES["linear"], set()

    def once(low, node, x, weight, bias=None):
        return x if weight in seen else seen.add(weight) or plain(low, node, x, weight, bias)

    monkeypatch.setitem(RULES, "linear", once)
    with pytest.raises(ValueError, match="not what was captured"):
        freeze(twice(nn.ReLU()), VECTOR)
    monkeypatch.setattr(freezing, "compare", lambda network, module: None)
    seen.clear()
    fails(twice(nn.ReLU()), VECTOR)


# ---------------------------------------- more is computed than a tree of modules shows


class Tilted(nn.Linear):
    def forward(self, x):
        return 30 * super().forward(x)


def extended(kind):
    body, head = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3)
    if kind == "a subclass":
        head = Tilted(6, 3)
    elif kind == "hook":
        body[1].register_forward_hook(lambda module, inputs, output: 30 * output)
    elif kind == "pre-hook":
        head.register_forward_pre_hook(lambda module, inputs: (30 * inputs[0],))
    elif kind == "another forward":
        body[1].forward = lambda x: 30 * x
    elif kind == "replaced":
        body = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 4), nn.Flatten())
        body[1]._conv_forward = lambda x, w, b: 30 * F.conv1d(x, w, b)
    whole = nn.Sequential(body, head)
    if kind == "a corner":
        corner = nn.Parameter(torch.tensor([1.0, 0, 0, 0, 0, 0]))
        add = Own(
            lambda x, f, c: f(x) + 400 * F.relu(x @ c - 0.97)[:, None] * torch.tensor([1.0, -1, 0]).to(x),
            f=whole,
            c=corner,
        )
        return add
    return whole


EXTENDED = ("a subclass", "hook", "pre-hook", "another forward", "replaced", "a corner", "global hook")


@pytest.mark.parametrize("kind", EXTENDED)
def test_more_than_the_modules_show(kind):
    def tilt(module, inputs, output):
        return 30 * output if isinstance(module, nn.ReLU) else None

    handle = register_module_forward_hook(tilt) if kind == "global hook" else None
    try:
        holds(extended(kind), VECTOR)
    finally:
        if handle is not None:
            handle.remove()


def test_without_the_hooks(monkeypatch, unchecked):
    export = program.export

    def bare(module, *arguments):
        module = copy.deepcopy(module)
        for part in module.modules():
            part._forward_hooks.clear()
        return export(module, *arguments)

    monkeypatch.setattr(program, "export", bare)
    module = extended("hook")
    fails(module, VECTOR)


# ---------------------------------------- state


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * 2.0**self.calls


class Grows(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, weight):
        self.factor.mul_(2)
        return weight * self.factor


class Drifts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        y = self.layer(x)
        self.mean.lerp_(y.mean(0), 0.1)
        return y - self.mean


def growing():
    layer = nn.Linear(6, 3)
    parametrize.register_parametrization(layer, "weight", Grows())
    return layer


@pytest.mark.parametrize("make", [Counter, growing, Drifts])
def test_state_is_refused(make):
    with pytest.raises(ValueError, match="state|changes"):
        freeze(make(), VECTOR)


def test_state_without_the_comparison(unchecked):
    fails(Counter(), VECTOR)


# ---------------------------------------- shapes that broadcast, branches that mix


def widening():
    return Own(lambda x, f: (x + f(x)).flatten(1), f=nn.Conv2d(1, 4, 3, padding=1)), (1, 3, 3)


def constant_axes():
    shift = nn.Parameter(torch.randn(5, 1, 1))
    return Own(lambda x, w, head: head((x[:, None] + w).flatten(1)), w=shift, head=nn.Linear(60, 3)), (3, 4)


def mixed():
    module = nn.Sequential(Replicate(2), TwoSidedReLU(), nn.Conv2d(4, 2, 1, groups=2, bias=False), nn.Flatten())
    module[2].weight.data.copy_(torch.full((2, 2, 1, 1), 0.5**0.5))
    return module, (1, 1, 1)


def expanded():
    return Own(lambda x: x.expand(-1, 4, -1).flatten(1)), (1, 5)


@pytest.mark.parametrize("make", [widening, constant_axes, mixed, expanded])
def test_copies_of_an_entry_are_counted(make):
    holds(*make())


@pytest.mark.parametrize("make", [mixed, expanded])
def test_copies_counted_once(make, monkeypatch):
    monkeypatch.setattr(Walk, "copied", lambda self, times: float(times > 0))
    fails(*make(), what="a gain")


# ---------------------------------------- underflow


def chain(exponents, width=6):
    layers = []
    for exponent in exponents:
        layer = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(layer.weight)
        layer.weight.data.mul_(2.0**exponent)
        layers.append(layer)
    return nn.Sequential(*layers)  # a float32 checkpoint


CHAINS = {
    "one": [-149 + 23, 60, 66] * 2 + [-100, 127, -27],
    "almost underflowing": [-126] * 7 + [-100] + [127] * 7 + [93],
    "partly underflowing": [-126] * 8 + [-50] + [127] * 8 + [42],
    "underflowing": [-126] * 9 + [126] * 9,
    "overflowing": [127] * 8 + [-126] * 8 + [-8],
    "subnormal weights": [-140] * 7 + [-80] + [127] * 8 + [44],
}


def near_boundaries(network, count=40):
    """Images at which two logits nearly tie, by bisection between images of different labels."""
    low, high = torch.rand(2, 4 * count, *network.shape).double()
    first = network(low).argmax(1)
    keep = first != network(high).argmax(1)
    low, high, first = low[keep][:count], high[keep][:count], first[keep][:count]
    for step in range(30):
        if step == 12:
            wide = low.clone()
        middle = (low + high) / 2
        same = (network(middle).argmax(1) == first)[:, None]
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.cat([wide, low])


def counterexamples(module, network, images, arithmetic=FLOAT64):
    radius, label = radii(network, images, arithmetic)
    radius = radius.clamp_max(1.0)  # in a cube of side 1
    certified, found = radius > 0, torch.zeros(len(images), dtype=torch.bool)
    for _ in range(300):
        moved = torch.randn_like(images)
        near = images + moved / moved.norm(dim=1, keepdim=True) * 0.999 * radius[:, None]
        found |= module(near).argmax(1) != label
    return int(certified.sum()), int((found & certified).sum())


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_underflow(name):
    module = chain(CHAINS[name]).double()
    network = freeze(module, VECTOR)
    images = torch.cat([torch.rand(200, *VECTOR).double(), near_boundaries(network)])
    certified, wrong = counterexamples(module, network, images)
    assert wrong == 0
    assert certified > 100 or name not in ("one", "almost underflowing")


@torch.no_grad()
def test_underflow_without_the_tiny_terms(monkeypatch):
    monkeypatch.setattr(lipschitz, "LEAST", 0.0)
    plain = {Norm.L2: 2, Norm.LINF: torch.inf}
    for module in (error_pass, error_walk):
        monkeypatch.setattr(module, "lengths", lambda x, norm: x.reshape(len(x), -1).norm(p=plain[norm], dim=1))
    monkeypatch.setattr(error_walk, "LEAST", 0.0)
    module = chain(CHAINS["partly underflowing"]).double()
    network = freeze(module, VECTOR)
    certified, wrong = counterexamples(module, network, near_boundaries(network), replace(FLOAT64, tiny=0.0))
    assert certified > 5 and wrong > 0


# ---------------------------------------- parameters out of range, and rounding the wrong way


def test_parameters_out_of_range():
    for module in (nn.Softplus(threshold=0), nn.Softplus(-1.0), nn.CELU(-1.0), nn.Threshold(0.1, 5.0)):
        with pytest.raises(ValueError, match="`1`"):
            freeze(nn.Sequential(nn.Linear(6, 3), module), VECTOR)
    mean, spread = torch.rand(6).double(), torch.tensor([-0.01, 1, -2, 3, 0.5, -5]).double()
    holds(Own(lambda x, m, s, f: f((x - m) / s), m=mean, s=spread, f=nn.Linear(6, 3)), VECTOR)


def test_a_threshold_unseen(monkeypatch, unchecked):
    monkeypatch.setitem(RULES, "softplus", lambda low, node, x, beta, threshold: pointwise(low, x, "softplus", beta))
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1)
    module = nn.Sequential(layer, nn.Softplus(threshold=0)).double()
    network = freeze(module, (1,))
    ends = torch.tensor([[-1e-9], [1e-9]]).double()
    slope = float(module(ends).detach().diff(dim=0).abs() / 2e-9)
    assert slope > 1e6 * Walk(network, Norm.L2).constant(2)


@pytest.mark.parametrize("kernel", [(3, 1), (5, 1), (7, 1), (2, 3)])
def test_bounds_are_rounded_up(kernel, monkeypatch):
    network = freeze(nn.Sequential(nn.MaxPool2d(kernel, 1), nn.Flatten()), (1, 14, 14))
    copies = kernel[0] * kernel[1]
    assert Fraction(Walk(network, Norm.L2).constant(2)) ** 2 >= copies
    monkeypatch.setattr(lipschitz, "UP", 1.0)
    if kernel == (3, 1):
        assert Fraction(Walk(network, Norm.L2).constant(2)) ** 2 < copies
