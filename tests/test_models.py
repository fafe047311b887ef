"""Every architecture: its shapes, its depth, what its options change, that it refuses images that don't fit, and that
no image is steeper, and no rounding worse, than the bound of its frozen network says."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.gradients import jacobians
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding
from lipcert.layers import (
    BranchLinear,
    NonexpansiveConv2d,
    NonexpansiveLinear,
    NonexpansiveRNN,
    NormPool2d,
    TwoSidedReLU,
)
from lipcert.models.convnet import ConvNet
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_cifar import L2NNNCifar
from lipcert.models.l2nnn_deep import L2NNNDeep
from lipcert.models.l2nnn_resnet import L2NNNResNet
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.nearest_neighbour import NearestNeighbour
from lipcert.models.ordinary_deep import OrdinaryDeep
from lipcert.models.parseval_resnet import ParsevalResNet

SMALL = {
    L2NNN: {"channels": [2, 3], "depth": 2, "width": 8},
    L2NNNDeep: {"channels": [2, 3], "shared": 3, "shared_width": 8, "branch": 2, "branch_width": 4},
    L2NNNCifar: {"channels": [2, 2, 3], "depth": 2, "width": 4},
    L2NNNResNet: {"channels": [2, 3, 4], "blocks": [1, 1, 1]},
    ConvNet: {"channels": [2, 3], "hidden": 8},
    OrdinaryDeep: {"channels": [2, 3], "shared": 2, "shared_width": 8, "branch": 2, "branch_width": 4},
    NearestNeighbour: {},
    LMTConvNet: {"channels": [2, 4], "hidden": [8], "activation": "min_max"},
    LMTResNet: {"depth": 10, "width": 1},
    ParsevalResNet: {"depth": 10, "width": 2},
}
VARIANTS = [  # (model, options beside those above, norm)
    (L2NNN, {}, "l2"),
    (L2NNN, {"activation": "relu", "pooling": "max", "multi": False}, "l2"),
    (L2NNN, {"activation": "two_sided_tanh", "channels": [3]}, "l2"),
    (L2NNNDeep, {}, "l2"),
    (L2NNNCifar, {}, "l2"),
    (L2NNNCifar, {"activation": "two_sided_sigmoid"}, "l2"),
    (L2NNNResNet, {"per_channel": True}, "l2"),
    (ConvNet, {}, "linf"),
    (OrdinaryDeep, {}, "l2"),
    (NearestNeighbour, {}, "l2"),
    (LMTConvNet, {}, "l2"),
    (LMTResNet, {}, "l2"),
    (LMTResNet, {"average_shortcut": True}, "linf"),
    (ParsevalResNet, {"width": 1}, "l2"),
]


def made(model, shape, **options):
    net = model(input_shape=shape, num_classes=4, **SMALL[model] | options).eval()
    if isinstance(net, NearestNeighbour):
        net.memorise(torch.randint(0, 256, (20, *shape), dtype=torch.uint8), torch.arange(20) % 4)
    return net


@torch.no_grad()
def wild(net: nn.Module) -> nn.Module:
    """Parameters and statistics like no initialisation's."""
    for p in net.parameters():
        p += torch.randn_like(p) * 0.5
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.1, 3)
    return net


def bounds_hold(net: nn.Module, shape: tuple[int, ...], norm: str):
    """Everything that is claimed of the network as float32 numbers make it: its own values, bounds and roundings."""
    network = freeze(net, shape, norm)
    x = (torch.rand(40, *shape, dtype=torch.float64) * 255).round() / 256  # exact in float32
    torch.testing.assert_close(network(x), net.double()(x))
    single = network.to(dtype=torch.float32)
    network = single.to(dtype=torch.float64)  # the same numbers: what is rounded is the evaluation alone
    walk = Walk(network, norm := Norm(norm))
    found, room = pair_bounds(walk), 1 + 1e-12
    jacobian = jacobians(network, x)[1]
    dual = 2 if norm is Norm.L2 else 1
    vector = torch.linalg.matrix_norm(jacobian, 2).max() if dual == 2 else jacobian.abs().sum(2).max()
    assert vector <= found.of_vector * room
    assert (jacobian.norm(dual, dim=2) <= found.of_logits * room).all()
    differences = (jacobian[:, :, None] - jacobian[:, None]).norm(dual, dim=3).amax(0)
    for pairs in found.matrices.values():
        assert (differences <= pairs * room).all()
    gap = (single(x.float()).double() - network(x)).abs().amax(0)
    errors = rounding(network, walk, FLOAT32)
    assert gap.max() > 0 and (gap <= errors).all()
    little = 1e-5 if isinstance(net, NearestNeighbour) else 1e-9  # the root of what its squares are off by
    assert rounding(network, walk, FLOAT64).max() < little * max(1, found.of_vector)  # and says something
    return found


@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_no_network_moves_faster_or_rounds_worse_than_its_bounds_say(number):
    model, options, norm = VARIANTS[number]
    shape = (1, 8, 8)
    found = bounds_hold(wild(made(model, shape, **options)), shape, norm)
    if model in (L2NNN, L2NNNDeep, L2NNNCifar, L2NNNResNet):
        assert (found.of_logits <= 1 + 1e-6).all()  # their weights were rounded to float32


def test_a_recurrent_network_is_bounded_too():
    net = nn.Sequential(wild(NonexpansiveRNN(4, 3)), nn.Flatten())
    found = bounds_hold(net, (5, 4), "l2")
    assert found.of_vector <= 1 + 1e-6


@pytest.mark.parametrize("model", SMALL, ids=lambda m: m.__name__)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (1, 9, 11)], ids=str)
def test_logits_are_one_a_class(model, shape):
    assert made(model, shape)(torch.rand(4, *shape)).shape == (4, 4)


@pytest.mark.parametrize("activation", ["relu", "two_sided_relu", "two_sided_sigmoid", "two_sided_tanh"])
def test_each_class_of_the_cifar_network_is_a_network_of_its_own(activation):
    """With any activation, whose groups are the classes, the others' weights do not matter to it."""
    net = wild(made(L2NNNCifar, (1, 8, 8), activation=activation))
    x = torch.rand(5, 1, 8, 8)
    before = net(x)
    for name, p in net.named_parameters():
        if not name.endswith("raw_t"):  # behind linear layers all classes share one
            p.data.chunk(4)[2].normal_()
    changed = (net(x) != before).any(0)
    assert changed.tolist() == [False, False, True, False]


def weight_layers(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Linear | nn.Conv2d | BranchLinear) for m in model.modules())


@pytest.mark.parametrize(
    "model", [L2NNN, L2NNNDeep, L2NNNCifar, L2NNNResNet, ConvNet, OrdinaryDeep], ids=lambda m: m.__name__
)
def test_an_image_that_is_too_small_is_an_error(model):
    with pytest.raises(ValueError, match=r"`model\.channels` halves the image"):
        model(
            input_shape=(1, 2, 2),
            num_classes=3,
            **({"channels": [2, 2, 2]} | {k: v for k, v in SMALL[model].items() if k != "channels"}),
        )


def test_the_deep_networks_have_22_weight_layers():
    assert weight_layers(L2NNNDeep(input_shape=(1, 28, 28), num_classes=10, shared_width=16, branch_width=8)) == 22
    assert weight_layers(L2NNNCifar(input_shape=(3, 28, 28), num_classes=2, width=8, channels=[2, 2, 2])) == 22
    assert weight_layers(OrdinaryDeep(input_shape=(1, 28, 28), num_classes=10, shared_width=16, branch_width=8)) == 22


def test_the_resnet_is_a_resnet_20():
    net = L2NNNResNet(input_shape=(1, 28, 28), num_classes=10)
    shortcuts = sum(m.kernel_size == (1, 1) for m in net.modules() if isinstance(m, nn.Conv2d))
    assert weight_layers(net) - shortcuts == 20 and shortcuts == 2


def test_the_ablations_change_what_they_name():
    def kinds(**options):
        return {
            type(m)
            for m in L2NNN(input_shape=(1, 8, 8), num_classes=3, channels=[2], depth=1, width=4, **options).modules()
        }

    assert {NormPool2d, TwoSidedReLU} <= kinds()
    assert NormPool2d not in kinds(pooling="max") and nn.MaxPool2d in kinds(pooling="max")
    assert TwoSidedReLU not in kinds(activation="relu") and nn.ReLU in kinds(activation="relu")
    convolutions = [
        m
        for m in L2NNN(input_shape=(1, 8, 8), num_classes=3, channels=[2, 3], divide=False).modules()
        if isinstance(m, NonexpansiveConv2d)
    ]
    assert len(convolutions) == 2 and all(not m.divide and m.claim() == 5 for m in convolutions)
    for wrong in ({"pooling": "mean"}, {"activation": "gelu"}):
        with pytest.raises(ValueError, match=f"model.{next(iter(wrong))}"):
            kinds(**wrong)


def test_an_ordinary_network_has_no_constraint():
    net = OrdinaryDeep(input_shape=(1, 8, 8), num_classes=3, **SMALL[OrdinaryDeep])
    for layer in net.modules():
        if isinstance(layer, NonexpansiveLinear | NonexpansiveConv2d | BranchLinear):
            torch.testing.assert_close(layer.constrained_weight(), layer.weight)


def test_a_deep_network_starts_by_passing_distances_on():
    net = L2NNN(input_shape=(1, 8, 8), num_classes=3, channels=[], depth=12, width=64).double()
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64)

    def kept():
        return (torch.pdist(net.features(x)) / torch.pdist(x.flatten(1))).mean()

    assert 0.35 < kept() <= 1
    for layer in net.features:
        if isinstance(layer, NonexpansiveLinear):
            nn.init.orthogonal_(layer.weight)
    assert kept() < 0.05  # the control: 1/√2 a layer


def test_gradients_reach_every_parameter():
    for model in (L2NNN, L2NNNDeep, L2NNNCifar, L2NNNResNet, LMTConvNet, LMTResNet, ParsevalResNet):
        net = model(input_shape=(3, 12, 12), num_classes=3, **SMALL[model])
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
        net(torch.rand(8, 3, 12, 12)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()), model


CONF = Path(__file__).parent.parent / "conf" / "model"
SIZES = [
    (path.stem, key, [-1 for _ in value] if isinstance(value, list) else -1)
    for path in sorted(CONF.glob("*.yaml"))
    for key, value in yaml.safe_load(path.read_text()).items()
    if type(value) is int or (isinstance(value, list) and value and all(type(x) is int for x in value))
]


@pytest.mark.parametrize(("model", "key", "size"), [*SIZES, ("l2nnn", "width", 0), ("linf_dist", "depth", 0)])
def test_a_size_that_there_is_not_is_named(model, key, size):
    path, _, name = yaml.safe_load((CONF / f"{model}.yaml").read_text())["_target_"].rpartition(".")
    with pytest.raises(ValueError, match=f"`model.{key}` must "):
        getattr(import_module(path), name)(input_shape=(1, 28, 28), num_classes=10, **{key: size})
