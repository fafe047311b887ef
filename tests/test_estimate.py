"""What training sees of a network: estimates come up to the proved bound from below, have its gradient, count with the
batch's statistics, and are never taken for a proof. (Boxes in training: test_losses_linf.)"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.interval import Interval
from lipcert.certificates.nominal import Nominal
from lipcert.certificates.pairwise import Pairwise
from lipcert.certificates.statistical import Statistical
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.training import Captured, Estimate
from lipcert.layers import BranchLinear, JoinBranches, NonexpansiveLinear, TwoSidedReLU
from lipcert.models.headed import Headed
from lipcert.models.lmt_convnet import LMTConvNet

FLAT, IMAGE = (7,), (2, 6, 5)


def conv(inputs, outputs, kernel=3, stride=1, **more):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, **more)


@torch.no_grad()
def scatter(module):
    """Weights and statistics like no initialisation's."""
    for p in module.parameters():
        p += torch.randn_like(p) * 0.4
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.copy_(10 ** torch.empty_like(m.running_var).uniform_(-4, 1))
    return module.eval()


class Block(nn.Module):
    """Sums, a concatenation, and one layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(conv(2, 2, bias=False), nn.BatchNorm2d(2))
        self.twice = conv(2, 2)

    def forward(self, x):
        y = F.relu(x + self.first(x))
        return F.relu(torch.cat([y, self.twice(F.max_pool2d(self.twice(y), 3, 1, 1))], 1))


NETS = {
    "min_max": (
        lambda: LMTConvNet(input_shape=(1, 6, 6), num_classes=4, channels=[4, 4], hidden=[6], activation="min_max"),
        (1, 6, 6),
    ),
    "block": (
        lambda: Headed(nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3)),
        IMAGE,
    ),
    "grouped": (
        lambda: Headed(
            nn.Sequential(
                conv(2, 4, groups=2), nn.BatchNorm2d(4), nn.ELU(2.0), conv(4, 4, 1, 2, groups=4), nn.Flatten()
            ),
            nn.Linear(36, 3),
        ),
        IMAGE,
    ),
    "constrained": (
        lambda: nn.Sequential(NonexpansiveLinear(7, 6), TwoSidedReLU(), nn.Linear(12, 3)),
        FLAT,
    ),
    "branches": (
        lambda: nn.Sequential(BranchLinear(3, 7, 4), nn.ReLU(), BranchLinear(3, 4, 1), JoinBranches()),
        FLAT,
    ),
}  # fmt: skip


def converged(model, shape, calls=300, **options):
    estimate = Estimate(model, shape, **options)
    with torch.no_grad():
        for _ in range(calls):
            estimate(model)
    return estimate


def proposition(model, shape, last_layer):
    """The proved matrix that the estimate is one of: Proposition 2 where the last layer is a linear one, or 1."""
    network = freeze(model, shape)
    walk, last = Walk(network, Norm.L2), network.operations[-1]
    if last_layer and last.kind == "linear" and last.weight.dim() == 2:
        return walk.constant(last.inputs[0]) * (last.weight[:, None] - last.weight).norm(dim=2)
    branches = any(o.kind == "linear" and o.weight.dim() == 3 for o in network.operations)
    return pair_bounds(walk).matrices["logits" if branches else "vector"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "grouped" else n for n in NETS])
def test_the_estimate_comes_up_to_the_bound_from_below(name):
    make, shape = NETS[name]
    model = scatter(make())
    for last_layer in (True, False):
        bound = proposition(model, shape, last_layer)
        off = ~torch.eye(len(bound), dtype=torch.bool)
        estimate = Estimate(model, shape, last_layer=last_layer)
        for calls in (0, 120):
            with torch.no_grad():
                for _ in range(calls):
                    estimate(model)
            pairs = estimate(model).detach().double()
            assert pairs.diag().abs().max() == 0
            assert (pairs[off] <= bound[off] * (1 + 1e-4)).all()
        assert (pairs[off] >= 0.97 * bound[off]).all()


def test_the_estimate_of_a_linear_network_is_proposition_2():
    model = Headed(nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)), nn.Linear(5, 3))
    pairs = converged(model, (2, 2, 2))(model)
    norms = [torch.linalg.matrix_norm(model.features[i].weight, 2) for i in (1, 3)]
    rows = model.head.weight
    exact = norms[0] * norms[1] * (rows[:, None] - rows).norm(dim=2)
    torch.testing.assert_close(pairs, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["block", *(pytest.param(n, marks=pytest.mark.slow) for n in ("min_max", "grouped", "branches"))]
)
def test_the_gradient_of_the_estimate_is_that_of_the_bound(name):
    """Of the converged estimate, whose values next to the weights at hand a second, equally converged one gives."""
    make, shape = NETS[name]
    model = scatter(make()).double()
    weights = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    estimate = converged(model, shape, 300)
    slopes = torch.autograd.grad(estimate(model)[0, 1], weights)
    directions = [slope / slope.norm() + torch.randn_like(slope) / slope.numel() ** 0.5 for slope in slopes]
    ends, step = [], 1e-5
    for sign in (1, -2):
        for weight, direction in zip(weights, directions, strict=True):
            weight.data += sign * step * direction
        ends.append(float(proposition(model, shape, True)[0, 1]))
    along = sum(float((slope * direction).sum()) for slope, direction in zip(slopes, directions, strict=True))
    assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


def test_the_vectors_are_the_state():
    make, shape = NETS["block"]
    model = make()
    torch.manual_seed(1)
    first = Estimate(model, shape)
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(1)
    same, other = Estimate(model, shape), Estimate(model, shape)
    value = first(model)
    assert torch.equal(value, same(model)) and not torch.equal(value, other(model))
    other.load_state_dict(state)
    assert torch.equal(value, other(model)) and not list(first.parameters())
    moved = copy.deepcopy(other)
    assert torch.equal(moved(model), other(model))


def test_many_steps_leave_nothing_behind():
    make, shape = NETS["block"]
    model = make()
    estimate = Estimate(model, shape)
    before = {name: value.shape for name, value in estimate.state_dict().items()}
    keys = set(vars(estimate.captured))
    for _ in range(5):
        estimate.with_logits(model.train(), torch.rand(4, *shape))
    assert {name: value.shape for name, value in estimate.state_dict().items()} == before
    assert set(vars(estimate.captured)) == keys and not estimate.captured.statistics
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_one_captured_module_serves_all_its_parameters():
    """Its live list is what freezing the module anew would give, after any change of its parameters."""
    make, shape = NETS["block"]
    model = scatter(make()).double()
    captured = Captured(model, shape)
    scatter(model)
    x, live, network = torch.rand(3, *shape, dtype=torch.float64), captured(model), freeze(model, shape)
    assert [o.kind for o in live.operations] == [o.kind for o in network.operations]
    for one, other in zip(live.operations, network.operations, strict=True):
        for name, constant in other.constants().items():
            torch.testing.assert_close(one.constants()[name].detach(), constant, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network(x), model(x))


# ---------------------------------------- the statistics of the batch


@pytest.mark.parametrize("momentum", [0.1, 0.9, None, 0.0])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_the_variance_of_the_batch_and_its_gradient(kind, momentum):
    """What `watching` finds is x.var(unbiased=False), as is its gradient; and it leaves no hook."""
    norm = kind(3, momentum=momentum)
    sides = (4, 5) if kind is nn.BatchNorm2d else ()
    model = nn.Sequential(conv(3, 3) if sides else nn.Linear(3, 3), norm, nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(3 * math.prod(sides), 2)).double()
    captured = Captured(model, (3, *sides))
    x = torch.randn(6, 3, *sides, dtype=torch.float64) * torch.tensor([1e-2, 1, 30.0]).view(3, *[1] * len(sides)) + 2
    with captured.watching(model, means=True):
        model(x)
    seen = model[0](x).transpose(0, 1).flatten(1)
    probe = torch.randn(3, dtype=torch.float64)
    exact = {"1.running_var": seen.var(1, unbiased=False), "1.running_mean": seen.mean(1)}
    assert captured.statistics.keys() == exact.keys()
    for name, value in exact.items():
        found = captured.statistics[name]
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad((v * probe).sum(), model[0].weight, retain_graph=True)[0] for v in (found, value)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_hook_is_left_behind_a_failure():
    model = nn.Sequential(conv(2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(60, 3))
    captured = Captured(model, IMAGE)
    with pytest.raises(RuntimeError), captured.watching(model):
        model(torch.rand(2, 5, 6, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_batch_counts_in_training_and_the_running_statistics_otherwise():
    model = Headed(nn.Sequential(conv(2, 3), nn.BatchNorm2d(3), nn.Flatten()), nn.Linear(90, 3))
    estimate = converged(model, IMAGE, 100)
    x = torch.rand(20, *IMAGE) / 100
    running = estimate(model)[0, 1].detach()
    logits, pairs = estimate.with_logits(model, x)
    assert pairs[0, 1] > 5 * running  # the batch's variance is tiny
    assert estimate(model)[0, 1] < 5 * running  # and counts once
    assert torch.equal(logits, copy.deepcopy(model)(x))
    model.eval()
    assert estimate.with_logits(model, x)[1][0, 1] < 5 * running


# ---------------------------------------- what is refused


def test_neither_is_taken_for_a_proof():
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    live, estimate = Captured(model, IMAGE)(model), Estimate(model, IMAGE)
    for certificate in (Pairwise(), Statistical(), Interval(), Nominal()):
        for wrong in (live, estimate, model):
            with pytest.raises(TypeError, match="a frozen network is due") as caught:
                certificate(wrong)
            assert "\n" not in str(caught.value) and type(wrong).__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7)), "`1`: .*layer normalisation"),
        (lambda: Headed(nn.Linear(7, 7), nn.Bilinear(7, 7, 3)), "can't be captured"),
        (lambda: nn.Sequential(nn.Linear(7, 7), nn.Unflatten(1, (7, 1))), "flatten"),
    ],
)
def test_the_estimate_refuses_what_has_no_rule(make, message):
    with pytest.raises(ValueError, match=message):
        Estimate(make(), FLAT)


def test_a_network_in_l_inf_is_refused():
    model = LMTConvNet(input_shape=(1, 8, 8), num_classes=4)
    model.norm = Norm.LINF
    with pytest.raises(ValueError, match="LMTConvNet is certified in linf"):
        Estimate(model, (1, 8, 8))
