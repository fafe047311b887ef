"""No layer expands a distance, and the bound of its frozen network knows it: against dense Jacobians, over a grid."""

import math

import pytest
import torch
from torch import nn

from lipcert.frozen import freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.layers import (
    BranchLinear,
    ConvexResidual,
    FlattenBranches,
    GlobalNormPool2d,
    JoinBranches,
    NonexpansiveConv2d,
    NonexpansiveLinear,
    NonexpansiveRNN,
    NonexpansiveRNNCell,
    NormPool2d,
    Replicate,
    Residual,
    Standardise,
    SubtractMean,
    TwoSidedReLU,
    TwoSidedSigmoid,
    TwoSidedTanh,
    UnitRowsLinear,
    gram_bound,
    gram_penalty,
)


def jacobian(module, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    """The dense Jacobian at a random point, (outputs, inputs)."""
    x = torch.randn(1, *shape, dtype=torch.float64) * scale
    out = torch.autograd.functional.jacobian(lambda v: module(v).flatten(), x)
    return out.reshape(out.shape[0], -1)


def scatter(module: nn.Module) -> nn.Module:
    """Weights as a long training might leave them: far from any initialisation."""
    for p in module.parameters():
        p.data = torch.randn_like(p) * torch.rand(()) * 5 + 0.3
    return module.double().eval()


def bounds(module: nn.Module, shape: tuple[int, ...], norm: str = "l2"):
    """The frozen network of a module, made flat, and its bounds."""
    network = freeze(nn.Sequential(module, nn.Flatten()), shape, norm)
    return network, pair_bounds(Walk(network, network.norm))


LAYERS = {
    "linear": (lambda: NonexpansiveLinear(7, 5), (7,)),
    "linear tall": (lambda: NonexpansiveLinear(5, 9, gram="min"), (5,)),
    "linear rows": (lambda: NonexpansiveLinear(5, 9, gram="rows"), (5,)),
    "linear cols": (lambda: NonexpansiveLinear(5, 9, gram="cols"), (5,)),
    "convolution": (lambda: NonexpansiveConv2d(2, 3, 3, 2, 1), (2, 5, 5)),
    "convolution, groups": (lambda: NonexpansiveConv2d(4, 2, 2, groups=2), (4, 5, 4)),
    "two-sided relu": (lambda: TwoSidedReLU(), (6,)),
    "two-sided relu, groups": (lambda: TwoSidedReLU(groups=2), (4, 3, 3)),
    "two-sided sigmoid": (lambda: TwoSidedSigmoid(6), (6,)),
    "two-sided sigmoid, groups": (lambda: TwoSidedSigmoid(2, groups=2), (4, 3, 3)),
    "two-sided tanh": (lambda: TwoSidedTanh(6), (6,)),
    "two-sided tanh, groups": (lambda: TwoSidedTanh(3, groups=2), (6, 2, 2)),
    "two-sided tanh, last axis": (lambda: TwoSidedTanh(3, dim=2), (2, 3)),
    "norm-pool": (lambda: NormPool2d(2), (2, 4, 6)),
    "norm-pool, overlapping": (lambda: NormPool2d(3, 2), (2, 7, 7)),
    "norm-pool, dense": (lambda: NormPool2d(3, 1), (1, 6, 6)),
    "norm-pool, all": (lambda: GlobalNormPool2d(), (3, 4, 4)),
    "subtract mean": (lambda: SubtractMean(3), (3, 4, 4)),
    "residual": (lambda: Residual(NonexpansiveLinear(6, 6)), (6,)),
    "residual, identity": (lambda: Residual(nn.Identity()), (6,)),
    "residual, per channel": (
        lambda: Residual(
            NonexpansiveConv2d(2, 3, 3, padding=1), NonexpansiveConv2d(2, 3, 1), channels=2, out_channels=3
        ),
        (2, 4, 4),
    ),
    "convex residual": (lambda: ConvexResidual(NonexpansiveLinear(6, 6)), (6,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_expands(name):
    make, shape = LAYERS[name]
    for scale in (0.1, 0.3, 1, 3):
        assert torch.linalg.matrix_norm(jacobian(scatter(make()), shape, scale), 2) <= 1 + 1e-12
    network, found = bounds(layer := scatter(make()), shape)
    x = torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), layer(x).flatten(1))
    norm = max(torch.linalg.matrix_norm(jacobian(network, shape, scale), 2) for scale in (0.1, 1, 3))
    assert norm <= found.of_vector * (1 + 1e-12) and found.of_vector <= 1 + 1e-9


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_no_convolution_expands_and_every_claim_is_a_bound(kernel, stride):
    for padding in {0, kernel // 2}:
        for groups in (1, 2):
            for size in (5, 8):
                options = (4, 6, kernel, stride, padding, groups)
                layer = scatter(NonexpansiveConv2d(*options))
                assert torch.linalg.matrix_norm(jacobian(layer, (4, size, size)), 2) <= 1 + 1e-12
                undivided = NonexpansiveConv2d(*options, divide=False).double()
                undivided.load_state_dict(layer.state_dict())
                norm = torch.linalg.matrix_norm(jacobian(undivided, (4, size, size)), 2)
                assert norm <= float(undivided.claim().max()) * (1 + 1e-12)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_the_tiling_norm_is_attained(kernel, stride):
    """A kernel that only copies its tile (b(W) = 1) has the norm of the tiling: less than ⌈K/S⌉ is no bound."""
    layer = NonexpansiveConv2d(1, kernel**2, kernel, stride, bias=False).double()
    layer.weight.data = torch.eye(kernel**2, dtype=torch.float64).view_as(layer.weight)
    norm = torch.linalg.matrix_norm(jacobian(layer, (1, 4 * kernel, 4 * kernel)), 2)
    assert norm == pytest.approx(1.0, abs=1e-12)
    assert layer.tiling_norm() == math.ceil(kernel / stride)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (1, 5), (5, 1), (2, 4, 4), (3, 2, 7)])
@pytest.mark.parametrize("gram", ["rows", "cols", "min", "smaller"])
def test_gram_bound_bounds_the_squared_norm(shape, gram):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bound = gram_bound(w, gram)
    assert (torch.linalg.matrix_norm(w, 2) ** 2 <= bound * (1 + 1e-12)).all()
    rows, cols = ((m.abs().sum(-1).amax(-1)) for m in (w @ w.mT, w.mT @ w))
    smaller = rows if shape[-2] <= shape[-1] else cols
    expected = {"rows": rows, "cols": cols, "min": torch.minimum(rows, cols), "smaller": smaller}[gram]
    torch.testing.assert_close(bound, expected)
    ours, theirs = (torch.autograd.grad(b.sum(), w)[0] for b in (bound, expected))
    torch.testing.assert_close(ours, theirs)


def test_gram_bound_is_exact_for_a_row_and_refuses_other_words():
    w = torch.randn(1, 9, dtype=torch.float64)
    torch.testing.assert_close(gram_bound(w), w.square().sum())
    with pytest.raises(ValueError, match="smaller, rows, cols or min"):
        gram_bound(w, "both")


def test_soft_penalty_is_equation_7():
    layer = NonexpansiveLinear(4, 3)
    layer.weight.data = torch.randn(3, 4)
    layer.weight.requires_grad_(False)
    assert layer.weight_penalty() == 0  # strict: nothing to push
    layer.strict = 0.0
    gram = layer.weight @ layer.weight.T
    expected = sum(max(float(row.abs().sum()) - 1, 0) for row in gram)
    assert float(layer.weight_penalty()) == pytest.approx(expected, rel=1e-5)
    both = min(float(gram_penalty(layer.weight, "rows")), float(gram_penalty(layer.weight, "cols")))
    assert float(gram_penalty(layer.weight, "min")) == pytest.approx(both)


def test_a_soft_layer_claims_its_real_bound():
    layer = scatter(NonexpansiveLinear(6, 4))
    layer.strict = 0.0
    linear = freeze(layer, (6,)).operations[0]
    assert 1 < torch.linalg.matrix_norm(linear.weight, 2) <= linear.claim[0] * (1 + 1e-12)
    assert torch.equal(linear.weight, layer.weight)


def test_every_unit_row_is_a_unit():
    layer = scatter(UnitRowsLinear(6, 4))
    rows = jacobian(layer, (6,)).norm(dim=1)
    torch.testing.assert_close(rows, torch.ones(4, dtype=torch.float64))
    network, found = bounds(layer, (6,))
    torch.testing.assert_close(found.of_logits, rows)
    exact = (network.operations[0].weight[:, None] - network.operations[0].weight).norm(dim=2)
    torch.testing.assert_close(found.matrices["rows"], exact)
    torch.testing.assert_close(found.matrices["logits"], 2 * (1 - torch.eye(4).double()))


def test_branches_are_nonexpansive_one_by_one():
    net = scatter(
        nn.Sequential(
            Replicate(3),
            NonexpansiveConv2d(6, 12, 3, padding=1, groups=3),
            TwoSidedReLU(groups=3),
            NormPool2d(2),
            FlattenBranches(3),
            BranchLinear(3, 32, 5),
            TwoSidedReLU(dim=2),
            BranchLinear(3, 10, 1),
            JoinBranches(),
        )
    )
    rows = jacobian(net, (2, 4, 4)).norm(dim=1)
    _, found = bounds(net, (2, 4, 4))
    assert (rows <= found.of_logits * (1 + 1e-12)).all() and (found.of_logits <= 1 + 1e-9).all()
    assert found.of_logits.unique().numel() == 3  # each by its own layers
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    alone = net[:3]  # a class's branch sees the image through its own channels only
    channels = alone(x).view(2, 3, -1)
    alone[1].weight.data[4:8] = 0  # the middle branch's kernels
    assert torch.equal(alone(x).view(2, 3, -1)[:, [0, 2]], channels[:, [0, 2]])


def test_a_fork_needs_no_splitting():
    net = scatter(nn.Sequential(BranchLinear(4, 6, 3), TwoSidedReLU(dim=2), BranchLinear(4, 6, 1), JoinBranches()))
    _, found = bounds(net, (6,))
    assert (jacobian(net, (6,)).norm(dim=1) <= found.of_logits * (1 + 1e-12)).all()
    assert (found.of_logits <= 1 + 1e-9).all()


class Mixed(nn.Module):
    """Three branches of four, and what sees all of them."""

    def __init__(self, behind):
        super().__init__()
        self.fork, self.again, self.mix = BranchLinear(3, 7, 4), BranchLinear(3, 12, 2), nn.Linear(12, 3)
        self.behind = behind

    def forward(self, x):
        return self.behind(self, self.fork(x)).flatten(1)


@pytest.mark.parametrize(
    "behind",
    [
        lambda s, y: s.again(y.flatten(1)),
        lambda s, y: s.mix(y.flatten(1)),
        lambda s, y: torch.cat([y, 10 * y], 1),
        lambda s, y: y.transpose(1, 2),
    ],
)
def test_what_sees_all_branches_moves_as_they_all_do(behind):
    net = Mixed(behind).double()
    net.fork.weight.data = net.fork.weight[:1].expand_as(net.fork.weight).clone()  # all of them move together
    network, found = bounds(net, (7,))
    matrix = jacobian(network, (7,))
    assert torch.linalg.matrix_norm(matrix, 2) <= found.of_vector * (1 + 1e-12)
    assert (matrix.norm(dim=1) <= found.of_logits * (1 + 1e-12)).all()


def test_norm_pooling_has_a_gradient_at_zero():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    NormPool2d(2)(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_two_sided_units_are_lossless_in_l1():
    x, y = torch.randn(2, 50, dtype=torch.float64)
    for unit in (TwoSidedReLU(0), TwoSidedSigmoid(50, dim=0), TwoSidedTanh(50, dim=0)):
        unit.double()
        assert (unit(x) - unit(y)).abs().sum() <= (x - y).abs().sum() + 1e-9
    torch.testing.assert_close((TwoSidedReLU(0)(x) - TwoSidedReLU(0)(y)).abs().sum(), (x - y).abs().sum())


@pytest.mark.parametrize(("kind", "function"), [
    (TwoSidedSigmoid, lambda x, t: t * torch.sigmoid(4 * x / t)),
    (TwoSidedTanh, lambda x, t: t * torch.tanh(x / t)),
])  # fmt: skip
def test_a_two_sided_unit_is_its_formula_and_each_group_has_a_t_of_its_own(kind, function):
    layer = kind(2, groups=3).double()
    assert torch.equal(layer.raw_t.exp(), torch.ones(6).double())
    layer.raw_t.data.normal_()
    x = torch.randn(5, 6, 4, dtype=torch.float64)
    one, other = layer(x).view(5, 3, 2, 2, 4).unbind(2)
    s = function(x, layer.raw_t.exp().view(6, 1)).view(5, 3, 2, 4)
    torch.testing.assert_close(one, s)
    torch.testing.assert_close(other, s - x.view(5, 3, 2, 4))
    layer(x).square().sum().backward()
    assert (layer.raw_t.grad != 0).all()
    with pytest.raises(ValueError, match="`t` must be positive"):
        kind(2, t=0.0)


def test_a_merge_without_its_split_would_expand():
    """The control: what the re-implementation left out makes the residual √2-Lipschitz."""
    t = math.sqrt(0.5)
    unsound = t + math.sqrt(1 - t * t)  # t·x + √(1−t²)·x
    assert unsound == pytest.approx(math.sqrt(2))
    assert torch.linalg.matrix_norm(jacobian(Residual(nn.Identity()).double(), (5,)), 2) <= 1 + 1e-12


@pytest.mark.parametrize("steps", [1, 4])
def test_the_recurrent_cell_unrolled_is_nonexpansive(steps):
    net = scatter(NonexpansiveRNN(3, 4))
    for strict in (1.0, 0.0):
        net.cell.linear.strict = strict
        network, found = bounds(net, (steps, 3))
        x = torch.randn(3, steps, 3, dtype=torch.float64)
        torch.testing.assert_close(network(x), net(x).flatten(1))
        assert torch.linalg.matrix_norm(jacobian(net, (steps, 3)), 2) <= found.of_vector * (1 + 1e-12)
        assert (found.of_vector <= 1 + 1e-9) is bool(strict)


def test_the_state_of_a_recurrent_cell_counts_too():
    cell = scatter(NonexpansiveRNNCell(3, 4))

    def step(joined):
        return torch.cat(cell(joined[:, :3], joined[:, 3:]), 1)

    assert torch.linalg.matrix_norm(jacobian(step, (11,)), 2) <= 1 + 1e-12


def test_batch_mean_subtraction_keeps_to_its_running_mean():
    layer = SubtractMean(3, momentum=1.0)
    x = torch.randn(64, 3, 4, 4) + 2
    assert layer.train()(x).mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.eval()(x), x - x.mean((0, 2, 3)).view(1, 3, 1, 1))


def test_standardisation_is_counted():
    _, found = bounds(Standardise([0.5, 0.5], [0.25, 0.5]), (2, 3, 3))
    assert found.of_vector == pytest.approx(4)
    assert found.of_logits.tolist() == pytest.approx([4] * 9 + [2] * 9)
