"""The bound layer by layer: what each layer measures, claims and costs."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import lipcert
from lipcert.certificates.pairwise import Pairwise, claimed_walk
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.lipschitz import Walk, proved
from lipcert.frozen.report import layer_rows
from lipcert.layers import BranchLinear, JoinBranches, NonexpansiveConv2d, NonexpansiveLinear, TwoSidedReLU
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.parseval_resnet import ParsevalResNet

FLAT, IMAGE = (7,), (2, 8, 8)


@torch.no_grad()
def scattered(net):
    for p in net.parameters():
        p += torch.randn_like(p) * 0.4
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.05, 3)
    return net.eval()


def walked(net, shape, norm="l2"):
    """Walk and rows of the frozen network of a module."""
    walk = Walk(freeze(net, shape, norm), Norm(norm))
    return walk, layer_rows(walk)


def matrix_of(module, shape):
    """Of an affine module."""
    module = copy.deepcopy(module).double()
    return torch.autograd.functional.jacobian(module, torch.zeros(1, *shape).double()).view(-1, math.prod(shape))


def size(matrix, norm):
    return float(torch.linalg.matrix_norm(matrix, 2) if norm == "l2" else matrix.abs().sum(1).max())


class Twice(nn.Module):
    """One convolution at two sizes of the image, each time with a normalisation of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        return self.bn2(self.conv(self.pool(self.bn1(self.conv(x))))).flatten(1)


class Shared(nn.Module):
    """A convolution that others read beside its normalisation."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        y = self.conv(x)
        return (self.bn(y) + y).flatten(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.body(x)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_plain_network(norm):
    net = scattered(
        nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    )
    shape = (1, 2, 3)
    walk, rows = walked(net, shape, norm)
    first, second = size(matrix_of(net[:3], shape), norm), size(net[5].weight.detach().double(), norm)
    assert [row["layer"] for row in rows] == ["1+2", "5"]
    assert [row["norm"] for row in rows] == pytest.approx([first, second], rel=1e-9)
    assert [row["lipschitz"] for row in rows] == pytest.approx([first, first * second], rel=1e-9)
    assert [row["cost"] for row in rows] == pytest.approx([first, second], rel=1e-9)
    assert walk.constant(len(walk.network.operations)) == pytest.approx(first * second, rel=1e-9)
    assert not any("claim" in row for row in rows)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_normalisation_and_the_linear_map_before_it_are_one(groups, norm):
    net = scattered(nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, groups=groups), nn.BatchNorm2d(4), nn.Flatten()))
    _, (row,) = walked(net, IMAGE, norm)
    joint = size(matrix_of(net, IMAGE), norm)
    assert row["layer"] == "0+1" and joint * (1 - 1e-12) <= row["norm"] <= joint * (1 + 1e-6)
    scale = (net[1].weight / (net[1].running_var + net[1].eps).sqrt()).abs().max().item()
    assert row["norm"] <= size(matrix_of(net[0], IMAGE), norm) * scale * (1 + 1e-6)


def test_a_convolution_that_others_read_is_not_joined():
    _, (row,) = walked(scattered(Shared()), IMAGE)
    assert row["layer"] == "conv"


def test_a_module_that_is_used_twice_has_a_norm_for_each_size():
    net = scattered(Twice())
    _, rows = walked(net, IMAGE)
    assert [row["layer"] for row in rows] == ["conv+bn1", "conv+bn2"]
    for row, norm, side in zip(rows, (net.bn1, net.bn2), (8, 4), strict=True):
        joint = size(matrix_of(nn.Sequential(net.conv, norm), (2, side, side)), "l2")
        assert joint * (1 - 1e-12) <= row["norm"] <= joint * (1 + 1e-6)
    assert abs(rows[0]["norm"] / rows[1]["norm"] - 1) > 0.01


@pytest.mark.parametrize("by", ["spectral_norm", "orthogonal", "weight_norm"])
def test_parametrized_layers_count_by_the_weight_they_have(by):
    net = nn.Sequential(getattr(parametrizations, by)(nn.Linear(7, 5)))
    for p in net.parameters():
        p.data *= 3
    _, (row,) = walked(net.double().eval(), FLAT)
    assert row["norm"] == pytest.approx(size(net[0].weight.detach(), "l2"), rel=1e-9)


# ---------------------------------------- costs


def test_in_a_residual_network_a_layer_costs_what_its_path_does():
    block = Block()
    block.body.weight.data.mul_(3 / torch.linalg.matrix_norm(block.body.weight.data, 2))
    bound = lipcert.lipschitz_bound(block, (4,))
    assert bound.vector == pytest.approx(4, rel=1e-5)  # 1 + 3
    assert bound.layers[0]["cost"] == pytest.approx(2, rel=1e-5)  # against 1 + 1


class Given(Walk):
    """A walk on norms that are given, by the number of the layer."""

    def __init__(self, walk, factor):
        super().__init__(walk.network, walk.norm)
        self.walk, self.factor = walk, factor

    def measured(self, value, *rest):
        return self.walk.measured(value, *rest) * self.factor.get(value, 1.0)


RESIDUAL = {
    "lmt": lambda: LMTResNet(input_shape=(3, 4, 4), num_classes=4, depth=10, width=1),
    "lmt, average": lambda: LMTResNet(input_shape=(3, 4, 4), num_classes=4, depth=10, width=1, average_shortcut=True),
    "parseval": lambda: ParsevalResNet(input_shape=(3, 4, 4), num_classes=4, depth=10, width=1),
}


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("lmt, average", marks=pytest.mark.slow), "lmt", "parseval"])
def test_the_published_residual_networks(name, norm):
    """A row a layer, joined with its normalisation; costs are what finite differences of the norms say."""
    net = scattered(RESIDUAL[name]())
    walk, rows = walked(net, (3, 4, 4), norm)
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(row["layer"].split("+")[0] for row in rows) == sorted(layers)
    first = [row["layer"] for row in rows if ".stem." in row["layer"] or ".first." in row["layer"]]
    assert len(first) == 4 and all(name.endswith("+1") for name in first)
    last, step = len(walk.network.operations), 1e-6
    total, by_name = walk.constant(last), {o.name: k for k, o in enumerate(walk.network.operations, 1)}
    assert rows[-1]["layer"] == "head" and rows[-1]["lipschitz"] == pytest.approx(total)
    for row in rows:
        number = by_name[row["layer"].split("+")[0]]
        up, down = (Given(walk, {number: 1 + sign * step}).constant(last) for sign in (1, -1))
        slope = (up - down) / (2 * step * row["norm"])  # of the bound by the layer's norm
        due = total / (total - slope * (row["norm"] - 1))
        assert row["cost"] == pytest.approx(due, rel=1e-5) or slope < 1e-9 * total


# ---------------------------------------- claims


def constrained():
    return nn.Sequential(
        NonexpansiveConv2d(2, 4, 3, padding=1, groups=2),
        TwoSidedReLU(),
        nn.Flatten(),
        BranchLinear(3, 512, 4),
        TwoSidedReLU(dim=2),
        BranchLinear(3, 8, 1),
        JoinBranches(),
    )


def test_claims_hold_and_bound_what_is_measured():
    net = scattered(constrained())
    walk, rows = walked(net, IMAGE)
    assert [row["claim"] for row in rows] == [1.0, 1.0, 1.0]
    for row in rows:
        assert row["norm"] <= 1 + 1e-9
        assert row["gram_slack"] >= 1 - 1e-9 and row["tiling_slack"] >= 1 - 1e-9
    assert rows[0]["tiling_slack"] > 1.01  # of nine tiles
    promised, last = claimed_walk(walk), len(walk.network.operations)
    for part in torch.eye(3, dtype=torch.bool):
        logit = promised.constant(last, part)
        assert logit == pytest.approx(1, abs=1e-9) and walk.constant(last, part) < logit


def test_a_soft_layer_claims_more_than_1_and_loses_by_its_gram_matrix():
    net = nn.Sequential(scattered(NonexpansiveLinear(7, 5)))
    net[0].strict = 0.0
    walk, (row,) = walked(net, FLAT)
    norm = size(net[0].weight.detach().double(), "l2")
    assert row["norm"] == pytest.approx(norm, rel=1e-9) and row["claim"] > norm
    assert row["gram_slack"] == pytest.approx(row["claim"] / norm, rel=1e-6)
    assert row["tiling_slack"] == pytest.approx(1, rel=1e-6)
    assert claimed_walk(walk).constant(1) == pytest.approx(row["claim"])


def test_a_layer_above_its_claim_stops_everything():
    class Broken(NonexpansiveLinear):
        """Promises what it does not keep."""

        def constrained_weight(self):
            weight = self.weight / torch.linalg.matrix_norm(self.weight, 2)
            return weight * (1 + self.excess)

    net = nn.Sequential(NonexpansiveLinear(4, 4), TwoSidedReLU(), Broken(8, 4))
    for excess, holds in ((1e-12, True), (1e-6, False)):
        net[2].excess = excess
        network = freeze(net, (4,))
        if holds:
            assert layer_rows(Walk(network, Norm.L2))
            continue
        for certify in (lambda n: layer_rows(Walk(n, Norm.L2)), Pairwise()):
            with pytest.raises(ValueError, match=r"layer `2` has operator norm 1\.000001") as caught:
                certify(network)
            assert "\n" not in str(caught.value)


def test_a_claim_says_nothing_of_the_normalisation_behind_it():
    net = nn.Sequential(NonexpansiveLinear(7, 5), nn.BatchNorm1d(5, affine=False)).eval().double()
    net[1].running_var.fill_(1e-2)
    walk, (row,) = walked(net, FLAT)
    exact = size(matrix_of(net, FLAT), "l2")
    assert row["norm"] == pytest.approx(exact, rel=1e-9) and "claim" not in row and row["layer"] == "0+1"
    assert claimed_walk(walk).constant(2) >= exact


def test_what_was_measured_is_not_measured_again():
    net = scattered(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)))
    calls = []

    def counted(operator, norm):
        calls.append(operator)
        return proved(operator, norm)

    walk = Walk(freeze(net, IMAGE), Norm.L2, counted)
    first = walk.constant(len(walk.network.operations))
    before = len(calls)
    layer_rows(walk)
    assert claimed_walk(walk).constant(len(walk.network.operations)) == first  # nothing is claimed
    assert len(calls) == before == 2


def test_relu_networks_move_no_faster_than_what_is_reported():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    before = copy.deepcopy(net.state_dict())
    bound = lipcert.lipschitz_bound(net, (1, 2, 3))
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    x = torch.rand(500, 1, 2, 3, requires_grad=True)
    slopes = torch.autograd.grad(net.eval()(x)[:, 0].sum(), x)[0].flatten(1).norm(dim=1)
    assert (slopes <= bound.logits[0] * (1 + 1e-6)).all()
    assert bound.layers[-1]["lipschitz"] == pytest.approx(bound.vector)
