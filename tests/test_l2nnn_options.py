"""What the L2NNNs take beyond their defaults expands nothing: against dense Jacobians, with controls that do expand."""

import math

import pytest
import torch
from test_layers import bounds, jacobian, scatter
from torch import nn

from lipcert.frozen import freeze
from lipcert.layers import (
    ConvexResidual,
    NonexpansiveLinear,
    NormPool2d,
    OneSidedSigmoid,
    OneSidedTanh,
    Residual,
    SubtractMean,
    TwoSidedReLU,
    TwoSidedSigmoid,
    TwoSidedTanh,
    pass_on,
    pooling,
)
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_cifar import L2NNNCifar
from lipcert.models.l2nnn_deep import L2NNNDeep
from lipcert.models.l2nnn_resnet import L2NNNResNet

LAYERS = {
    "sigmoid": (lambda: OneSidedSigmoid(6), (6,)),
    "sigmoid, t per layer": (lambda: OneSidedSigmoid(6, t_shape=()), (6,)),
    "tanh, channels": (lambda: OneSidedTanh(3), (3, 2, 4)),
    "tanh, t per neuron": (lambda: OneSidedTanh(3, t_shape=(3, 2, 4)), (3, 2, 4)),
    "tanh, branches": (lambda: OneSidedTanh(4, dim=2, t_shape=(3, 4)), (3, 4)),
    "two sides, t per neuron": (lambda: TwoSidedTanh(3, t_shape=(3, 2, 4)), (3, 2, 4)),
    "two sides, t per neuron, groups": (lambda: TwoSidedSigmoid(2, groups=3, t_shape=(6, 2, 2)), (6, 2, 2)),
    "two sides, branches": (lambda: TwoSidedSigmoid(4, dim=2, t_shape=(3, 4)), (3, 4)),
    "two sides, t per layer": (lambda: TwoSidedTanh(3, groups=2, t_shape=()), (6, 2, 2)),
    "mean, branches": (lambda: SubtractMean((3, 4)), (3, 4)),
    "residual, per entry": (lambda: Residual(nn.Identity(), channels=3, sides=(2, 4)), (3, 2, 4)),
    "residual, per entry, smaller": (
        lambda: Residual(NormPool2d(2), NormPool2d(2), channels=3, sides=(4, 6), out_sides=(2, 3)),
        (3, 4, 6),
    ),
    "convex residual": (lambda: ConvexResidual(NonexpansiveLinear(6, 4), 0.3, NonexpansiveLinear(6, 4)), (6,)),
}


def spread(module: nn.Module) -> nn.Module:
    """Far from any initialisation, with running means and a different t everywhere."""
    for buffer in module.buffers():
        buffer.normal_()
    return scatter(module)


@pytest.mark.parametrize("name", LAYERS)
def test_no_option_of_a_layer_expands(name):
    make, shape = LAYERS[name]
    for scale in (0.01, 0.3, 1, 3):
        assert torch.linalg.matrix_norm(jacobian(spread(make()), shape, scale), 2) <= 1 + 1e-12
    network, found = bounds(layer := spread(make()), shape)
    x = torch.randn(5, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), layer(x).flatten(1), rtol=1e-12, atol=1e-12)
    assert found.of_vector <= 1 + 1e-9
    again = [p.grad for p in layer.requires_grad_().parameters() if (layer(x).square().sum().backward(), 1)]
    assert all(grad is not None and grad.isfinite().all() for grad in again)


@pytest.mark.parametrize("kind", [OneSidedSigmoid, OneSidedTanh, TwoSidedSigmoid, TwoSidedTanh])
def test_the_bound_is_attained_at_zero_for_every_t(kind):
    """Slopes (s, s − 1) at 0 are (1, 0); away from it the squares sum to less than 1."""
    layer = kind(50)
    layer.raw_t.data = torch.linspace(-3, 3, 50)
    norms = torch.linalg.matrix_norm(jacobian(layer.double(), (50,), 0.0), 2)
    assert norms == pytest.approx(1.0, abs=1e-12)
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)[None].requires_grad_()
    slope = torch.autograd.grad(layer(x)[:, :50].sum(), x)[0]
    assert (slope >= 0).all() and (slope.square() + (1 - slope).square() <= 1).all()


def test_the_mirrored_form_would_expand():
    """The control: of (tanh(x), tanh(−x)), both slopes are 1 at 0."""
    mirrored = jacobian(lambda x: torch.cat((torch.tanh(x), torch.tanh(-x)), 1), (4,), 0.0)
    assert torch.linalg.matrix_norm(mirrored, 2) == pytest.approx(math.sqrt(2))


def test_a_one_sided_unit_is_its_formula_with_a_t_per_neuron():
    layer = OneSidedSigmoid(2, t_shape=(2, 3)).double()
    layer.raw_t.data.normal_()
    x, t = torch.randn(4, 2, 3, dtype=torch.float64), layer.raw_t.exp()
    torch.testing.assert_close(layer(x), t * torch.sigmoid(4 * x / t))
    parts = nn.Sequential(NonexpansiveLinear(6, 6), nn.Unflatten(1, (2, 3)), layer, nn.Flatten())
    assert bounds(parts, (6,))[1].of_vector <= 1 + 1e-9
    assert layer.raw_t.max() > layer.raw_t.min()  # by parts, the bound would be exp of this difference


def test_only_behind_two_sides_is_half_of_a_layer_the_identity():
    for step, passes in ((TwoSidedTanh(8), True), (OneSidedTanh(8), False), (TwoSidedReLU(), True)):
        net = nn.Sequential(step, NonexpansiveLinear(16, 8))
        pass_on(net)
        assert bool((net[1].weight[:, :8].diagonal() > 0.9).all()) is passes


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (3, 1), (3, 2), (4, 2), (5, 2), (5, 3), (2, 3)])
def test_overlapping_norm_pooling_nearly_reaches_its_bound(size, stride):
    """An image of ones at the entries that are in the most windows: moving these alike moves all outputs alike, so that
    only the border keeps the norm below 1."""
    layer, side = pooling("norm", size, stride).double(), 6 * stride + size
    starts = torch.arange(0, side - size + 1, stride)[:, None]
    seen = ((torch.arange(side) >= starts) & (torch.arange(side) < starts + size)).sum(0)
    most = (seen == seen.max()).double()
    x = torch.outer(most, most).view(1, 1, side, side)
    matrix = torch.autograd.functional.jacobian(layer, x).reshape(-1, side**2)
    norm = torch.linalg.matrix_norm(matrix, 2)
    assert seen.max() == -(-size // stride) and 0.85 < norm <= 1 + 1e-12
    _, found = bounds(layer, (1, side, side))
    assert norm <= found.of_vector <= 1 + 1e-9
    moved = layer(x + 1e-6 * torch.linalg.svd(matrix).Vh[0].view_as(x)) - layer(x)  # a real movement, not its limit
    assert float(moved.norm()) == pytest.approx(1e-6 * float(norm), rel=1e-3)


def test_overlapping_windows_that_are_not_divided_would_expand():
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda v: 2 * NormPool2d(2, 1)(v), x).reshape(-1, 64)
    assert torch.linalg.matrix_norm(matrix, 2) > 1.8


def test_a_convex_sum_with_a_factor_per_channel_would_expand():
    """The control: what `residual=convex` refuses. Here each of the two entries holds the whole movement of x₁: the
    first takes it from the shortcut, the second from the body."""
    a = torch.tensor([1.0, 0.0])
    body, shortcut = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    matrix = a[:, None] * shortcut + (1 - a)[:, None] * body
    assert torch.linalg.matrix_norm(matrix, 2) == pytest.approx(math.sqrt(2))


def test_the_mean_of_a_training_batch_moves_no_image_farther():
    layer = SubtractMean((3, 4)).double().train()
    x = torch.randn(6, 3, 4, dtype=torch.float64) + 3
    assert layer(x).mean(0).abs().max() < 1e-12
    matrix = torch.autograd.functional.jacobian(layer, x).reshape(72, 72)  # a projection of the whole batch
    assert torch.linalg.matrix_norm(matrix, 2) <= 1 + 1e-12
    assert layer.running_mean.shape == (3, 4) and layer.running_mean.min() > 0


SMALL = {
    L2NNN: {"channels": [2, 3], "depth": 2, "width": 8},
    L2NNNDeep: {"channels": [2, 3], "shared": 2, "shared_width": 8, "branch": 2, "branch_width": 4},
    L2NNNCifar: {"channels": [2, 2, 3], "depth": 2, "width": 4},
    L2NNNResNet: {"channels": [2, 3, 4], "blocks": [1, 1, 1]},
}
POOLED = {"pool_size": 3, "pool_stride": 2}
OPTIONS = [
    *((m, {"activation": "scaled_sigmoid", "activation_t": "neuron", "subtract_mean": True}) for m in SMALL),
    (L2NNN, {"pool_size": 3, "pool_stride": 1, "kernel_size": 4, "activation": "scaled_tanh"}),
    (L2NNNDeep, {"activation": "two_sided_sigmoid", "activation_t": "layer"} | POOLED),
    (L2NNNCifar, {"activation": "two_sided_tanh", "activation_t": "neuron"} | POOLED),
    (L2NNNResNet, {"activation": "two_sided_tanh", "activation_t": "neuron", "residual": "convex"}),
    (L2NNNResNet, {"per_entry": True}),
]


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, len(OPTIONS)))])
def test_every_option_of_every_network_is_frozen_as_it_is_and_moves_no_farther_than_its_bound(number):
    model, options = OPTIONS[number]
    shape = (1, 13, 12)
    net = model(input_shape=shape, num_classes=4, **SMALL[model] | options)
    net.train()(torch.rand(16, *shape)).square().sum().backward()  # running means that are not 0
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        for p in net.parameters():
            p += torch.randn_like(p) * 0.3
    network = freeze(net, shape)
    x = torch.rand(6, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), net.double().eval()(x), rtol=1e-12, atol=1e-12)
    _, found = bounds(net, shape)
    assert (found.of_logits <= 1 + 1e-9).all()
    rows = torch.stack([jacobian(lambda v, at=at: net(v + at), shape, 0.0) for at in x])
    assert (rows.norm(dim=2) <= found.of_logits * (1 + 1e-12)).all()


WRONG = [
    (L2NNN, {"activation_t": "pixel"}, "`model.activation_t` must be one of channel, neuron, layer, got 'pixel'"),
    (L2NNN, {"activation": "sigmoid"}, "`model.activation` must be one of two_sided_relu, .*scaled_sigmoid.*'sigmoid'"),
    (L2NNN, {"pool_size": 0}, "`model.pool_size` must be at least 1, got 0"),
    (L2NNNDeep, {"pool_stride": 0}, "`model.pool_stride` must be at least 1, got 0"),
    (L2NNNDeep, {"pool_size": 9}, "`model.pool_size`: 2 times pooling by windows of 9 does not leave anything of"),
    (L2NNNResNet, {"residual": "sum"}, "`model.residual` must be split or convex, got 'sum'"),
    (L2NNNResNet, {"residual": "convex", "per_channel": True}, "`model.per_channel` is true, but a convex sum"),
    (L2NNNResNet, {"residual": "convex", "t": 1.0}, "`model.t` must lie between 0 and 1.*got 1.0"),
    (L2NNNResNet, {"per_channel": True, "per_entry": True}, "`model.per_entry` and `model.per_channel` are both true"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_does_not_fit_is_an_error_that_names_the_key(number):
    model, options, message = WRONG[number]
    with pytest.raises(ValueError, match=message):
        model(input_shape=(1, 12, 12), num_classes=4, **SMALL[model] | options)
