"""The three networks of TULIP: what they are made of, what they count, and that their bounds hold."""

import inspect
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.arithmetic import FLOAT32
from lipcert.frozen.gradients import jacobians
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.rounding import rounding
from lipcert.layers import ScaledTanh
from lipcert.models.allcnn import AllCNN
from lipcert.models.resnet34 import ResNet34
from lipcert.models.tulip_resnext import BranchMean, TulipResNeXt

CIFAR, SMALL = (3, 32, 32), (1, 8, 8)
NETWORKS = {
    "allcnn": (AllCNN, {}),
    "allcnn, tanh": (AllCNN, {"tanh": True}),
    "resnet34": (ResNet34, {"depth": 10}),
    "resnet34, tanh": (ResNet34, {"depth": 10, "tanh": True, "head_normalisation": True}),
    "resnet34, released": (ResNet34, {"depth": 10, "pooling": "after_first_block", "head_relu": True}),
    "tulip_resnext": (TulipResNeXt, {"depth": 10}),
    "tulip_resnext, tanh": (TulipResNeXt, {"depth": 10, "branches": 3, "tanh": True, "head_normalisation": True}),
}


def small(name: str, shape: tuple[int, ...] = SMALL) -> nn.Module:
    """Of width 2, in evaluation; statistics that keep it alive, but far from those of any batch."""
    kind, options = NETWORKS[name]
    model = kind(input_shape=shape, num_classes=4, width=2, **options)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for m in norms:
        m.momentum = 1.0
    model.train()(torch.rand(16, *shape))
    for m in norms:
        m.running_mean += 0.3 * m.running_var.sqrt() * torch.randn_like(m.running_mean)
        m.running_var *= 10 ** torch.empty_like(m.running_var).uniform_(-0.3, 0.6)
    return model.eval()


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("shape", [CIFAR, (1, 28, 28), SMALL], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_one_a_class_and_gradients_reach_all_that_is_trainable(name, shape):
    model = small(name, shape)
    assert model(torch.rand(2, *shape)).shape == (2, 4)
    model.train()(torch.rand(8, *shape)).square().sum().backward()
    frozen = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    for key, p in model.named_parameters():
        assert p.requires_grad == (key not in frozen), key
        if p.requires_grad:
            assert p.grad.isfinite().all() and p.grad.abs().sum() > 0, key
        else:
            assert (p == 1).all()


def test_trainable_parameters_are_as_many_as_published():
    def count(kind, classes=10, **options):
        return trainable(kind(input_shape=CIFAR, num_classes=classes, **options))

    assert count(ResNet34) == 488_714 == count(ResNet34, tanh=True) - 1
    assert count(TulipResNeXt) == 3_887_818 == count(TulipResNeXt, tanh=True) - 1
    assert count(TulipResNeXt, branches=4) == 7_763_018
    assert count(TulipResNeXt, 100, branches=4) == 7_763_018 + 90 * 129
    channels = [3, 96, 96, 96, 192, 192, 192, 192, 192]
    convolutions = sum((9 * a + 1) * b for a, b in pairwise(channels)) + 193 * 10
    assert count(AllCNN) == convolutions == count(AllCNN, tanh=True) - 1
    assert count(ResNet34, head_normalisation=True) == 488_714


def test_the_configurations_offer_every_option_at_its_default():
    for name, kind in (("allcnn", AllCNN), ("resnet34", ResNet34), ("tulip_resnext", TulipResNeXt)):
        written = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "model" / f"{name}.yaml"))
        assert written.pop("_target_") == f"{kind.__module__}.{kind.__name__}" and written.pop("defaults")
        options = inspect.signature(kind).parameters.items()
        assert written == {key: p.default for key, p in options if key not in ("input_shape", "num_classes")}


def test_width_depth_and_branches_are_what_they_say():
    def convolutions(model):
        return [m for m in model.modules() if isinstance(m, nn.Conv2d)]

    found = convolutions(AllCNN(input_shape=CIFAR, num_classes=10, width=5))
    assert [c.out_channels for c in found] == [5, 5, 5, 10, 10, 10, 10, 10, 10]
    assert [c.stride[0] for c in found] == [1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert [c.kernel_size[0] for c in found] == [3] * 8 + [1]
    found = convolutions(TulipResNeXt(input_shape=CIFAR, num_classes=10, width=2, depth=16, branches=3))
    wide = [2, *[6] * 4, 4, *[12] * 4, 8, *[24] * 4]
    assert [c.out_channels for c in found] == wide and len(wide) + 1 == 16
    assert [c.groups for c in found] == [1, *[1, 3] * 2, 1, *[1, 3] * 2, 1, *[1, 3] * 2]
    assert len(convolutions(ResNet34(input_shape=CIFAR, num_classes=10, width=1))) + 1 == 34


@pytest.mark.parametrize(
    ("kind", "key", "values"),
    [
        (AllCNN, "width", {"width": 0}),
        (ResNet34, "width", {"width": -1}),
        (TulipResNeXt, "width", {"width": 0}),
        (ResNet34, "depth", {"depth": 18}),
        (ResNet34, "depth", {"depth": 4}),
        (TulipResNeXt, "depth", {"depth": -2}),
        (TulipResNeXt, "depth", {"depth": 35}),
        (TulipResNeXt, "branches", {"branches": 0}),
        (AllCNN, "eighth_kernel", {"eighth_kernel": 2}),
    ],
)
def test_impossible_sizes_are_refused(kind, key, values):
    with pytest.raises(ValueError, match=f"`model.{key}` .*got {values[key]}$"):
        kind(input_shape=CIFAR, num_classes=10, **values)


def test_images_too_small_to_be_halved_twice_are_refused():
    for kind in (ResNet34, TulipResNeXt):
        kind(input_shape=(1, 4, 5), num_classes=3, depth=10, width=1)
        with pytest.raises(ValueError, match="at least 4×4"):
            kind(input_shape=(1, 5, 3), num_classes=3, depth=10, width=1)


def test_the_resnet_is_the_resnext_with_a_single_branch():
    shared = {"input_shape": SMALL, "num_classes": 4, "depth": 16, "width": 3, "tanh": True}
    one, two = ResNet34(**shared).eval(), TulipResNeXt(**shared, branches=1).eval()
    two.load_state_dict(one.state_dict(), strict=True)
    x = torch.rand(5, *SMALL)
    assert torch.equal(one(x), two(x))


def test_a_block_adds_its_input_to_the_mean_of_its_branches():
    """Each branch computed by itself, from its own channels' weights."""
    block = TulipResNeXt(input_shape=SMALL, num_classes=4, depth=10, width=2, branches=3).features[3].double().eval()
    first, _, _, second, *_ = block.branches
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    for norm in (block.branches[1], block.branches[4]):
        norm.running_mean.normal_()
    mean = 0.0
    for own in (slice(0, 2), slice(2, 4), slice(4, 6)):
        y = x
        for conv, norm, after in ((first, block.branches[1], F.relu), (second, block.branches[4], lambda z: z)):
            y = F.conv2d(y, conv.weight[own], padding=1)
            means, shift = (v[own].view(1, -1, 1, 1) for v in (norm.running_mean, norm.bias))
            y = after((y - means) / math.sqrt(1 + norm.eps) + shift)
        mean = mean + y / 3
    torch.testing.assert_close(block(x), F.relu(mean + x))


def test_without_a_tanh_nothing_bounds_logits_and_with_it_t_does():
    for name in ("allcnn", "resnet34", "tulip_resnext"):
        free, held = small(name), small(f"{name}, tanh")
        x = 1e4 * torch.randn(20, *SMALL)
        assert free(x).abs().max() > 10 * held.head[-1].t and held(x).abs().max() <= held.head[-1].t
        assert held.head[-2].weight is None and held.head[-2].num_features == 4


# ---------------------------------------- its layers


def test_the_scaled_tanh_is_its_formula_begins_at_1_and_learns_its_scale():
    layer = ScaledTanh().double()
    assert layer.t.item() == pytest.approx(1, abs=1e-7)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["raw"] and trainable(layer) == 1
    x = torch.arange(-300, 301, dtype=torch.float64) / 10
    for raw in (-30.0, -3.0, 0.0, 2.0, 40.0):
        nn.init.constant_(layer.raw, raw)
        t = layer.t.item()
        assert t > 0 and t == pytest.approx(math.log1p(math.exp(raw)), rel=1e-8)
        assert layer(x).tolist() == pytest.approx([t * math.tanh(v / t) for v in x.tolist()], rel=1e-12)
        assert layer(x).abs().max() <= t
        probe = x.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(layer(probe).sum(), probe)
        assert slopes.min() >= 0 and slopes.max() <= 1 and slopes[300] == pytest.approx(1)
    nn.init.constant_(layer.raw, 0.0)
    layer(x).square().sum().backward()
    assert layer.raw.grad > 0


@pytest.mark.parametrize("norm", list(Norm))
def test_behind_a_linear_layer_a_scaled_tanh_adds_nothing_to_the_bound(norm):
    """Which is attained, at 0. In float32, no logit is further off than its rounding bound says."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False), ScaledTanh())
    nn.init.constant_(model[1].raw, -2.0)
    single = freeze(model, (6,), norm).to(dtype=torch.float32)
    network = single.to(dtype=torch.float64)
    found = jacobians(network, torch.cat([torch.zeros(1, 6), torch.randn(50, 6)]).double())[1]
    order = {Norm.L2: 2, Norm.LINF: torch.inf, Norm.L1: 1}[norm]
    sizes = torch.linalg.matrix_norm(found, order)
    walk = Walk(network, norm)
    assert sizes.argmax() == 0 and sizes.max() <= walk.constant(len(network.operations)) <= sizes.max() * (1 + 1e-6)
    x = (torch.rand(500, 6) * 255).round() / 256
    gap = (single(x).double() - network(x.double())).abs().amax(0)
    assert (gap <= rounding(network, walk, FLOAT32)).all() and gap.max() > 0


@pytest.mark.parametrize("branches", [1, 2, 3, 4, 7])
def test_the_mean_over_branches_has_the_norm_of_its_bound(branches):
    layer, shape = BranchMean(branches).double(), (2 * branches, 2, 3)
    x = torch.randn(1, *shape, dtype=torch.float64)
    chunks = torch.stack(x.chunk(branches, 1)).sum(0) / branches
    torch.testing.assert_close(layer(x), chunks)
    network = freeze(nn.Sequential(layer, nn.Flatten()), shape)
    last = len(network.operations)
    for norm, exact in ((Norm.L2, 1 / math.sqrt(branches)), (Norm.LINF, 1.0), (Norm.L1, 1 / branches)):
        assert exact * (1 - 1e-12) <= Walk(network, norm).constant(last) <= exact * (1 + 1e-9)
    matrix = jacobians(network, x)[1][0]
    assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1 / math.sqrt(branches), rel=1e-12)


# ---------------------------------------- their bounds


@pytest.mark.parametrize("name", NETWORKS)
def test_no_image_is_steeper_and_no_radius_further_than_its_bound_says(name):
    model = small(name).double()
    network = freeze(model, SMALL)
    x = torch.cat([torch.rand(30, *SMALL), torch.randn(30, *SMALL)]).double()
    found, last = jacobians(network, x)[1], len(network.operations)
    steepest = {Norm.L2: torch.linalg.matrix_norm(found, 2).max(), Norm.LINF: found.abs().sum(2).max()}
    for norm, steep in steepest.items():
        assert 0 < steep <= Walk(network, norm).constant(last)
    coarse = network.to(dtype=torch.float32)
    exact = coarse.to(dtype=torch.float64)  # the same numbers
    images = (torch.rand(60, *SMALL) * 255).round() / 256  # exact in float32
    gap = (coarse(images).double() - exact(images.double())).abs().amax(0)
    assert (gap <= rounding(exact, Walk(exact, Norm.L2), FLOAT32)).all()

    x = torch.rand(40, *SMALL, dtype=torch.float64)
    labels = network(x).argmax(1)
    bound = Pairwise(bounds=["vector"])(network)
    verdict = bound.judge(x, labels)
    due = verdict.margin / (math.sqrt(2) * bound.report["lipschitz_bound"])
    assert (verdict.radius > 0).any() and (verdict.radius <= due).all()
    torch.testing.assert_close(verdict.radius, due, rtol=1e-5, atol=1e-9)
    radius = Pairwise()(network).judge(x, labels).radius
    assert (radius >= verdict.radius).all()
    probe = x.clone().requires_grad_()
    logits = network(probe)
    rest = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    (uphill,) = torch.autograd.grad((rest - logits.gather(1, labels[:, None])[:, 0]).sum(), probe)
    uphill = uphill / uphill.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (network(x + radius.view(-1, 1, 1, 1) * uphill).argmax(1) == labels).all()
