"""Every model that is shipped, torchvision's, and what freezing leaves of a module: nothing."""

import gc
import weakref

import pytest
import torch
from capturing import IMAGE, Own, agrees
from configurations import CONF, NARROW, names, shape
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from torch import nn
from torch.nn import functional as F

from lipcert.configuration import build, plain
from lipcert.frozen.freeze import freeze


def shipped(name):
    """A model of conf/model, a narrow one, and its images' shape."""
    GlobalHydra.instance().clear()
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        config = plain(compose("train", ["output_dir=nowhere", f"model={name}"]))
    model, sides = config["model"], shape(config)
    narrow = {key: width for key, width in NARROW.items() if isinstance(model.get(key), int)}
    if "halving" in model:
        narrow["channels"] = [2 for _ in model["channels"]]
    return build({**model, **narrow}, input_shape=sides, num_classes=10), sides


MODELS = [name for name in names(CONF / "model") if name != "nearest_neighbour"]  # which needs its data: below


@torch.no_grad()
def trained(model, sides):
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1 * p.abs().mean())
    model.train()
    for _ in range(3):  # running statistics move
        model(torch.rand(8, *sides))
    return model


SAMPLE = ("l2nnn", "linf_dist_conv", "lmt_resnet", "convnet")  # of each family; the others are slow


@pytest.mark.parametrize("name", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_a_shipped_model_is_captured_after_training(name):
    model, sides = shipped(name)
    agrees(trained(model, sides), sides)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_is_captured_before_training(name):
    agrees(*shipped(name))


def test_nearest_neighbours_are_captured():
    model, sides = shipped("nearest_neighbour")
    model.images = torch.randint(0, 256, (50, *sides), dtype=torch.uint8)
    model.labels = torch.arange(50) % 10
    network = agrees(model, sides)
    assert [o.kind for o in network.operations] == ["nearest_neighbour"]


DEEP = ("resnet18", "vgg11_bn", "squeezenet1_1", "mobilenet_v2", "densenet121", "regnet_y_400mf", "convnext_tiny")
REFUSED = {"regnet_y_400mf": "product of two activations", "convnext_tiny": "layer normalisation"}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_torchvisions_networks(name):
    models = pytest.importorskip("torchvision.models")
    model = getattr(models, name)(num_classes=5)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            freeze(model, (3, 32, 32))
    else:
        agrees(model, (3, 32, 32))


# ---------------------------------------- the module, before and after


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def forward(self, x):
        return F.relu(x + self.body(x))


def small():
    return nn.Sequential(Block(), Block(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(120, 3))


def test_operations_bear_the_names_of_modules():
    network = freeze(small(), IMAGE)
    found = [o.name for o in network.operations]
    block = [[f"{k}.body.0", f"{k}.body.1", f"{k}.body.2", f"{k}", f"{k}"] for k in (0, 1)]
    assert found == [*block[0], *block[1], "3", "4"]
    twice = nn.Linear(6, 6)
    network = freeze(Own(lambda x, layer: layer(F.relu(layer(x))), layer=twice), (6,))
    assert [o.name.partition("@")[0] for o in network.operations] == ["layer", "", "layer"]


def test_the_module_is_left_as_it_is():
    model = small()
    model[0].body[1].eval()
    model[4].weight.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = [(id(p), p.dtype, p.requires_grad, p.grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    freeze(model, IMAGE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert kept == [(id(p), p.dtype, p.requires_grad, p.grad) for p in model.parameters()]
    assert modes == [m.training for m in model.modules()] and len(model._forward_hooks) == 1
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_nothing_of_the_module_is_reachable_from_the_network(dtype):
    model = small().to(dtype)
    network = freeze(model, IMAGE)
    own = {c.untyped_storage().data_ptr() for o in network.operations for c in o.constants().values()}
    assert not own & {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not any(isinstance(c, nn.Parameter) for o in network.operations for c in o.constants().values())
    images = torch.rand(2, *IMAGE).double()
    before = network(images)
    gone = [weakref.ref(thing) for thing in (model, model[0], *model.parameters())]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    del model, p
    gc.collect()
    assert not any(thing() is not None for thing in gone)
    assert torch.equal(network(images), before)
