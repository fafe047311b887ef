"""Every architecture: its shapes, its depth, what its options change, and that it refuses images that don't fit."""

import pytest
import torch
from torch import nn

from lipcert.layers import BranchLinear, NonexpansiveConv2d, NonexpansiveLinear, NormPool2d, TwoSidedReLU, fold
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


def weight_layers(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Linear | nn.Conv2d | BranchLinear) for m in model.modules())


@pytest.mark.parametrize("model", SMALL, ids=lambda m: m.__name__)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (1, 9, 11)], ids=str)
def test_logits_are_one_a_class_and_folding_changes_nothing(model, shape):
    net = model(input_shape=shape, num_classes=5, **SMALL[model]).double().eval()
    if isinstance(net, NearestNeighbour):
        net.memorise(torch.randint(0, 256, (20, *shape), dtype=torch.uint8), torch.arange(20) % 5)
    x = torch.rand(4, *shape, dtype=torch.float64)
    assert net(x).shape == (4, 5)
    torch.testing.assert_close(fold(net)(x), net(x))


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
