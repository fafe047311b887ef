"""TULIP: what the authors' codes have otherwise, in loss and networks, and penalties on products of the weights."""

import math

import pytest
import torch
from test_losses_tulip import CLASSES, SHAPE, batch, by_hand, fed, smooth, state
from torch import nn
from torch.nn import functional as F

from lipcert.analyses.stability.linearised import linearised_norm
from lipcert.frozen import freeze
from lipcert.frozen.gradients import steepness
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.products import NormOfProduct, ProductOfNorms
from lipcert.losses.tulip import Tulip
from lipcert.models.allcnn import AllCNN
from lipcert.models.resnet34 import ResNet34
from lipcert.models.tulip_resnext import TulipResNeXt

CIFAR, SMALL = (3, 32, 32), (1, 8, 8)
PRODUCTS = ("product_of_norms", "norm_of_product")


def normalised() -> nn.Module:
    """With statistics that are far from those of any batch."""
    model = smooth(normalised=True)
    model[1].running_mean += 0.3
    model[1].running_var *= 4
    return model.train()


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("by", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize("penalty", ["none", "max"])
def test_the_step_is_computed_in_training_or_in_evaluation(mode, by, penalty):
    model, (x, y) = normalised(), batch()
    model[0].eval()  # a layer that is to stay as it is
    before = {name: value.clone() for name, value in model[1].named_buffers()}
    probe = x.clone().requires_grad_()
    model[1].train(mode == "training")
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(probe), y, reduction="sum"), probe)
    model[1].train()
    model[1].load_state_dict(before, strict=False)
    due = x + 0.3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    images = fed(model)
    loss = Tulip(num_classes=CLASSES, perturbation_mode=mode, eps=0.3, penalty=penalty, penalty_by=by)
    terms = loss(model, x, y)
    torch.testing.assert_close(images[1], due, rtol=0, atol=1e-12)
    assert model[1].training and not model[0].training and model.training
    looks = len(images) - (mode == "evaluation")
    assert model[1].num_batches_tracked == looks
    if penalty == "none":
        other = normalised()
        other.load_state_dict({**model.state_dict(), **{f"1.{name}": value for name, value in before.items()}})
        assert terms["loss"].item() == pytest.approx(F.cross_entropy(other(due), y).item(), rel=1e-12)


def test_layers_are_in_training_again_after_a_failure():
    model, (x, y) = normalised(), batch()
    loss = Tulip(num_classes=CLASSES, perturbation_mode="evaluation")
    with pytest.raises((IndexError, RuntimeError)):
        loss(model, x, y + CLASSES)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("by", ["double_backprop", "finite_difference"])
@pytest.mark.parametrize(("penalty", "power"), [("max", 1), ("mean_square", 2)])
def test_the_gradient_of_the_mean_is_smaller_by_the_number_of_images(by, penalty, power):
    model, (x, y) = smooth(), batch()
    losses, steep = by_hand(model, x, y, "l2", 0.3, "perturbed")
    found = {}
    for of in ("sum", "mean"):
        loss = Tulip(num_classes=CLASSES, eps=0.3, penalty=penalty, penalty_by=by, gradient_of=of, h=1e-4, central=True)
        found[of] = loss(model, x, y)
    assert found["mean"]["penalty"].item() == pytest.approx(found["sum"]["penalty"].item() / len(x) ** power, rel=1e-9)
    assert found["mean"]["cross_entropy"].item() == pytest.approx(losses.mean().item(), rel=1e-9)
    images = (x + 0.0).requires_grad_()
    (direct,) = torch.autograd.grad(F.cross_entropy(model(images), y), images)
    alone = Tulip(num_classes=CLASSES, perturbation="none", gradient_of="mean")(model, x, y)["steepest"]
    assert alone.item() == pytest.approx(direct.flatten(1).norm(dim=1).max().item(), rel=1e-9)
    assert found["mean"]["steepest"].item() == pytest.approx(steep.max().item() / len(x), rel=1e-5)


# ---------------------------------------- products of the weights


def layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))


@pytest.mark.parametrize(("kind", "due"), [(ProductOfNorms, "norms"), (NormOfProduct, "product")])
def test_the_two_estimates_come_up_to_singular_values_and_have_their_slopes(kind, due):
    model = layers().double()
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    norms = math.prod(torch.linalg.matrix_norm(w, 2) for w in weights)
    exact = norms if due == "norms" else torch.linalg.matrix_norm(weights[2] @ weights[1] @ weights[0], 2)
    estimate = kind(model, SHAPE)
    with torch.no_grad():
        for _ in range(300):
            estimate(model)
    found = estimate(model)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    slopes = [torch.autograd.grad(value, weights, retain_graph=True) for value in (found, exact)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", PRODUCTS)
def test_a_penalty_on_a_product_is_its_logarithm_and_takes_the_batchs_statistics(penalty):
    torch.manual_seed(0)
    model = ResNet34(input_shape=(1, 8, 8), num_classes=CLASSES, depth=10, width=2).double()
    x, y = torch.rand(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % CLASSES
    loss = Tulip(num_classes=CLASSES, perturbation="none", penalty=penalty, penalty_weight=0.5)
    loss.prepare(model, (1, 8, 8))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics are the last batch's, but for the correction by n/(n − 1)
    for _ in range(60):
        terms = loss(model, x, y)
    assert terms["penalty"].item() == pytest.approx(0.5 * math.log1p(terms["product"].item()), rel=1e-12)
    assert terms["loss"].item() == pytest.approx((terms["cross_entropy"] + terms["penalty"]).item(), rel=1e-12)
    assert terms["accuracy"].item() == (model(x).argmax(1) == y).double().mean().item()
    network = freeze(model.eval(), (1, 8, 8))
    if penalty == "product_of_norms":
        exact = Walk(network, network.norm).constant(len(network.operations))
    else:
        exact = linearised_norm(network)
    assert terms["product"].item() == pytest.approx(exact, rel=0.1)  # the correction, and norms that are estimates
    assert torch.autograd.grad(terms["penalty"], model.features[0].weight)[0].norm() > 0


@pytest.mark.parametrize("penalty", PRODUCTS)
def test_training_by_it_makes_the_product_smaller(penalty):
    x, y = batch(12)
    model = layers()
    loss = Tulip(num_classes=CLASSES, penalty=penalty, penalty_weight=0.3, eps=0.05)
    loss.prepare(model, SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    products = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = loss(model, x.float(), y)
        terms["loss"].backward()
        optimizer.step()
        products.append(terms["product"].item())
    assert products[-1] < 0.8 * products[0] and set(terms) >= {"penalty", "product", "accuracy"}
    assert "steepest" not in terms


@pytest.mark.slow
def test_lemma_3_3_is_contradicted_by_a_network_that_its_bound_was_penalised_in():
    """The penalty makes the product of the weights small, while the network with its ReLUs stays as steep as needed."""
    torch.manual_seed(0)
    x = torch.rand(60, *SHAPE)
    y = torch.arange(60) % CLASSES
    x[torch.arange(60), 0, y] += 0.5
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    loss = Tulip(num_classes=CLASSES, perturbation="none", penalty="norm_of_product", penalty_weight=0.1)
    loss.prepare(model, SHAPE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss(model, x, y)["loss"].backward()
        optimizer.step()
    network = freeze(model, SHAPE)
    seen = steepness(network, x.double(), y).jacobian.max().item()
    assert (model(x).argmax(1) == y).float().mean() > 0.9 and linearised_norm(network) < 0.5 * seen


def test_a_network_without_a_product_is_told_the_way_out():
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, CLASSES))
    with pytest.raises(
        ValueError, match="`loss.penalty=norm_of_product` can't train Sequential, take max or none"
    ) as told:
        Tulip(num_classes=CLASSES, penalty="norm_of_product").prepare(pooled, SHAPE)
    assert "\n" not in str(told.value)
    Tulip(num_classes=CLASSES, penalty="product_of_norms").prepare(pooled, SHAPE)
    model = layers()
    before = state(model)
    for penalty in PRODUCTS:
        Tulip(num_classes=CLASSES, penalty=penalty).prepare(model, SHAPE)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


# ---------------------------------------- the networks


@pytest.mark.parametrize("pooling", ["before_blocks", "after_first_block"])
def test_pooling_stands_before_the_blocks_of_a_stage_or_behind_the_first(pooling):
    """Against the layers called one by one; both orders have the same weights, from the same random numbers."""

    def network(pooling: str) -> nn.Module:
        torch.manual_seed(0)
        return ResNet34(input_shape=SMALL, num_classes=4, depth=16, width=2, pooling=pooling)

    model, other = network(pooling).double(), network("before_blocks").double()
    own, usual = dict(model.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(own.values(), usual.values(), strict=True))
    layers = [layer for layer in other.features if not isinstance(layer, nn.AvgPool2d)]
    x = torch.rand(6, *SMALL, dtype=torch.float64)
    y = nn.Sequential(*layers[:5])(x)  # the first convolution and its two blocks
    for start in (5, 10):
        y, first, second = nn.Sequential(*layers[start : start + 3])(y), *layers[start + 3 : start + 5]
        y = second(first(F.avg_pool2d(y, 2)) if pooling == "before_blocks" else F.avg_pool2d(first(y), 2))
    torch.testing.assert_close(model(x), other.head(y.mean((2, 3))))


@pytest.mark.parametrize("kind", [ResNet34, TulipResNeXt])
def test_the_scales_of_the_blocks_alone_are_trained_if_any(kind):
    def scales(**options):
        model = kind(input_shape=SMALL, num_classes=4, depth=10, width=2, head_normalisation=True, **options)
        return model, {n for n, p in model.named_parameters() if p.requires_grad and p.dim() == 1 and "weight" in n}

    assert scales()[1] == set()
    model, found = scales(trained_scale=True)
    assert len(found) == 6 and all(".branches." in name for name in found)
    model(torch.rand(8, *SMALL)).square().sum().backward()
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in found)
    norm = model.features[3].branches[1]
    x = torch.randn(5, *norm.weight.shape, 3, 3)
    with torch.no_grad():
        norm.weight.fill_(2.5)
    centred = x - x.mean((0, 2, 3), keepdim=True)
    due = 2.5 * centred / (x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps).sqrt() + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), due)


def test_a_relu_on_the_logits_and_the_sizes_of_allcnns_last_layers():
    x = torch.randn(6, *SMALL)
    for kind, key, shared in (
        (ResNet34, "head_relu", {"depth": 10, "width": 2}),
        (ResNet34, "head_relu", {"depth": 10, "width": 2, "head_normalisation": True}),
        (AllCNN, "last_relu", {"width": 2}),
    ):
        torch.manual_seed(0)
        plain = kind(input_shape=SMALL, num_classes=4, **shared).eval()
        cut = kind(input_shape=SMALL, num_classes=4, **shared, **{key: True}).eval()
        state = zip(cut.state_dict(), plain.state_dict().values(), strict=True)
        cut.load_state_dict(dict(state))
        if kind is ResNet34:
            due = plain(x).relu()
        else:
            due = nn.Sequential(*plain.head[:2])(plain.features(x)).relu().mean((2, 3))
        torch.testing.assert_close(cut(x), due)
        assert plain(x).min() < 0 <= cut(x).min()
    found = [m for m in AllCNN(input_shape=CIFAR, num_classes=10, width=2, eighth_kernel=1).modules()]
    assert [m.kernel_size[0] for m in found if isinstance(m, nn.Conv2d)] == [3] * 7 + [1, 1]
    with pytest.raises(ValueError, match="`model.pooling` must be before_blocks or after_first_block, got 'first'"):
        ResNet34(input_shape=SMALL, num_classes=4, depth=10, pooling="first")
