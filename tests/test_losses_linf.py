"""The losses of l_inf certified training, against their formulas written out image by image; boxes in training."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.arithmetic import EXACT
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.training import Captured
from lipcert.layers import SubtractMean
from lipcert.losses.clipped_hinge import ClippedHinge
from lipcert.losses.hinge import Hinge
from lipcert.losses.ibp import IBP
from lipcert.models.ibp_convnet import IBPConvNet
from lipcert.models.linf_dist import LinfDist
from lipcert.models.linf_dist_mlp import LinfDistMLP

SHAPE, IMAGE = (1, 4, 4), (2, 6, 5)


class Fixed(nn.Module):
    """Answers the given logits; a logit moves by `unit` while the image moves by 1."""

    def __init__(self, logits: torch.Tensor, unit: float = 1.0):
        super().__init__()
        self.logits, self.unit = nn.Parameter(logits), unit

    def forward(self, x):
        return self.logits


LOGITS, LABELS = torch.tensor([[2.0, 0.5, 1.9], [0.0, 1.0, -4.0], [3.0, 0.0, 0.0]]), torch.tensor([0, 0, 0])


@pytest.mark.parametrize("mix", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("unit", [1.0, 2.5])
def test_the_hinge_is_its_formula(mix, unit):
    eps = 0.2
    terms = Hinge(num_classes=3, eps=eps, mix=mix)(Fixed(LOGITS, unit), torch.zeros(3), LABELS)
    hinges = [
        [0.0 if i == t else max(0.0, 2 * eps * unit - (g[t] - g[i])) for i in range(3)]
        for g, t in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    worst, mean = sum(map(max, hinges)) / 3, sum(map(sum, hinges)) / 9
    assert terms["loss"].item() == pytest.approx(mix * worst + (1 - mix) * mean)


def test_no_hinge_means_proved_at_eps():
    torch.manual_seed(0)
    model = LinfDist(input_shape=SHAPE, num_classes=3, depth=2, width=20, std=0.5)
    model.train()(torch.rand(64, *SHAPE))
    model.eval()
    x = torch.rand(200, *SHAPE)
    labels = model(x).argmax(1)
    radius = Pairwise()(freeze(model, SHAPE, "linf")).judge(x.double(), labels).radius
    loss = Hinge(num_classes=3, eps=0.02)
    free = torch.tensor([loss(model, a[None], t[None])["worst"].item() for a, t in zip(x, labels, strict=True)])
    assert 20 < (free == 0).sum() < 180
    assert torch.equal(free == 0, radius >= 0.02)


@pytest.mark.parametrize("unit", [1.0, 2.5])
def test_the_clipped_hinge_is_its_formula(unit):
    e, steps, weight = 0.3, 0.7, 0.05
    loss = ClippedHinge(num_classes=3, eps=e, weight=weight, scale_rate=0.2)
    loss.steps.data.fill_(steps)
    model = Fixed(LOGITS, unit)
    terms = loss(model, torch.zeros(3), LABELS)
    worst = []
    for g, t in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        ratios = [0.0 if i == t else ((g[i] + e * unit) - (g[t] - e * unit)) / (2 * e * unit) for i in range(3)]
        worst.append(max(min(max(r, 0.0), 1.0) for r in ratios))
    expected = sum(worst) / 3 + weight * F.cross_entropy((1 + 0.2 * steps) * LOGITS, LABELS).item()
    assert terms["loss"].item() == pytest.approx(expected)
    terms["hinge"].backward()
    assert model.logits.grad[0].any()  # proved at less than eps: pushed
    assert not model.logits.grad[1].any()  # hopeless: left to the cross-entropy
    assert not model.logits.grad[2].any()  # proved: left alone


def test_the_scale_moves_as_a_parameter_of_its_own_learning_rate_would():
    """Under Adam, 1 + rate·s with the weights' learning rate is a number with rate times that learning rate."""
    loss = ClippedHinge(num_classes=3, eps=0.3, weight=1.0, scale_rate=0.2)
    alone = torch.ones((), requires_grad=True)
    one = torch.optim.Adam(loss.parameters(), lr=0.03, betas=(0.9, 0.99), eps=1e-10)
    other = torch.optim.Adam([alone], lr=0.006, betas=(0.9, 0.99), eps=1e-10)
    for _ in range(20):
        one.zero_grad()
        loss(Fixed(LOGITS), torch.zeros(3), LABELS)["loss"].backward()
        one.step()
        other.zero_grad()
        F.cross_entropy(alone * LOGITS, LABELS).backward()
        other.step()
    assert 1 + 0.2 * loss.steps.item() == pytest.approx(alone.item(), rel=1e-4)


def prepared(loss, model, shape=SHAPE):
    loss.prepare(model, shape)
    return loss


@pytest.mark.parametrize("kappa", [0.0, 0.25, 1.0])
def test_kappa_weights_the_natural_loss(kappa):
    model = IBPConvNet(input_shape=SHAPE, num_classes=3, channels=[4], halving=[], hidden=8)
    x, y = torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    terms = prepared(IBP(num_classes=3, eps=0.05, kappa=kappa), model)(model, x, y)
    assert terms["natural"].item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    expected = kappa * terms["natural"] + (1 - kappa) * terms["robust"]
    assert terms["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", [IBPConvNet, LinfDistMLP])
def test_the_robust_term_exceeds_the_loss_of_every_image_within_eps(kind):
    torch.manual_seed(1)
    sizes = {"channels": [4], "halving": [1 - 1]} if kind is IBPConvNet else {"depth": 2, "width": 20}
    model = kind(input_shape=SHAPE, num_classes=3, hidden=8, mean=[0.4], std=0.5, **sizes)
    model.train()(torch.rand(64, *SHAPE))
    model.eval()
    x, y, eps = torch.rand(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1]), 0.1
    robust = prepared(IBP(num_classes=3, eps=eps, kappa=0.0), model)(model, x, y)["loss"]
    for _ in range(200):
        moved = (x + eps * (2 * torch.rand_like(x) - 1).sign()).clamp(0, 1)
        assert F.cross_entropy(model(moved), y) <= robust * (1 + 1e-5)
    at_zero = prepared(IBP(num_classes=3, eps=0.0, kappa=0.0), model)(model, x, y)["loss"]
    assert at_zero.item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-4)


def test_ibp_reaches_every_weight_and_the_running_means_once():
    model = LinfDistMLP(input_shape=SHAPE, num_classes=3, depth=2, width=20, hidden=8, std=0.5)
    for layer in model.modules():
        if hasattr(layer, "p"):
            layer.p = 8.0
    x = torch.rand(32, *SHAPE)
    prepared(IBP(num_classes=3, eps=0.05), model)(model, x, torch.arange(32) % 3)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    trunk = model.features[0]
    y = trunk[2](trunk[1](trunk[0](x)))
    torch.testing.assert_close(trunk[3].running_mean, 0.1 * y.mean(0))


class SmallConvNet(nn.Module):
    """To be trained on boxes: convolutions, batch normalisation, a subtracted mean."""

    norm = Norm.LINF

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3, 2, 1),
            SubtractMean(3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(27, 3)

    def forward(self, x):
        return self.head(self.trunk(x))

    enclosed = property(lambda self: self)

    def enclosure(self, x, eps):
        return x, (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def by_hand(model, x, low, high, y):
    """The worst margins by the definition: centres and radii through each layer, with the clean batch's statistics."""
    clean = x
    for layer in model.trunk:
        if isinstance(layer, nn.Conv2d):
            centre, radius = (low + high) / 2, (high - low) / 2
            centre = layer(centre)
            radius = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
            low, high, clean = centre - radius, centre + radius, layer(clean)
            continue
        mean, variance = clean.mean((0, 2, 3)).view(-1, 1, 1), 1.0
        if isinstance(layer, nn.BatchNorm2d):
            variance = clean.var((0, 2, 3), unbiased=False).view(-1, 1, 1) + layer.eps
            scale, shift = layer.weight.view(-1, 1, 1) / variance.sqrt(), layer.bias.view(-1, 1, 1)
            ends = [scale * (v - mean) + shift for v in (low, high)]
            low, high = torch.minimum(*ends), torch.maximum(*ends)
            clean = scale * (clean - mean) + shift
        elif isinstance(layer, SubtractMean):
            low, high, clean = low - mean, high - mean, clean - mean
        else:
            low, high, clean = layer(low), layer(high), layer(clean)
    difference = model.head.weight[y][:, None] - model.head.weight
    bias = model.head.bias[y][:, None] - model.head.bias
    worst = (difference.clamp_min(0) * low[:, None] + difference.clamp_max(0) * high[:, None]).sum(2) + bias
    return worst.scatter(1, y[:, None], 0.0)


def test_boxes_in_training_count_with_the_clean_batch():
    """As computed by hand, with the same gradients, and IBP's loss is of them."""
    model = SmallConvNet().double()
    model.trunk[1].weight.data = torch.tensor([1.0, -0.7, 2.0, 0.5], dtype=torch.float64)
    x, y = torch.rand(12, *IMAGE, dtype=torch.float64), torch.arange(12) % 3
    loss = prepared(IBP(num_classes=3, eps=0.05, kappa=0.0), model, IMAGE)
    _, low, high = model.enclosure(x, 0.05)
    with loss.captured.watching(model, means=True):
        model(x)
    found = worst_margins(loss.captured(model), low, high, y, EXACT)
    exact = by_hand(model, x, low, high, y)
    torch.testing.assert_close(found, exact)
    weights = list(model.parameters())
    ours, theirs = (torch.autograd.grad(v.square().sum(), weights) for v in (found, exact))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    terms = loss(model, x, y)
    torch.testing.assert_close(terms["loss"], F.cross_entropy(-exact, y))


def test_gradients_flow_through_the_statistics_of_the_batch():
    """The control: with the statistics taken for constants, the gradient of the boxes is another one."""
    model = SmallConvNet().double()
    x, y = torch.rand(12, *IMAGE, dtype=torch.float64), torch.arange(12) % 3
    captured, slopes = Captured(model, IMAGE), []
    for constant in (False, True):
        with captured.watching(model, means=True):
            model(x)
        assert all(value.requires_grad for value in captured.statistics.values()) and len(captured.statistics) == 3
        if constant:
            captured.statistics = {name: value.detach() for name, value in captured.statistics.items()}
        margins = worst_margins(captured(model), x, x, y, EXACT)
        slopes.append(torch.autograd.grad(margins.sum(), model.trunk[0].weight)[0])
    assert (slopes[0] - slopes[1]).norm() > 0.1 * slopes[0].norm()
    logits = copy.deepcopy(model)(x)  # a box of one point is the image's own answer, in training mode too
    torch.testing.assert_close(margins.detach(), (logits.gather(1, y[:, None]) - logits).detach())


def test_a_few_steps_of_training_on_boxes_narrow_them():
    model = SmallConvNet()
    x, y = torch.rand(30, *IMAGE), torch.arange(30) % 3
    loss = prepared(IBP(num_classes=3, eps=0.02, kappa=0.5), model, IMAGE)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    found = []
    for _ in range(40):
        optimizer.zero_grad()
        terms = loss(model, x, y)
        terms["loss"].backward()
        optimizer.step()
        found.append(terms["robust"].item())
    assert found[-1] < 0.7 * found[0]


def test_ibp_needs_a_network_to_propagate_through():
    with pytest.raises(ValueError, match="`loss=ibp` needs"):
        IBP(num_classes=3, eps=0.1).prepare(Fixed(LOGITS), SHAPE)


@pytest.mark.parametrize(
    ("loss", "key", "values"),
    [
        (Hinge, "eps", {"eps": -1.0}),
        (Hinge, "mix", {"eps": 0.1, "mix": 2.0}),
        (ClippedHinge, "eps", {"eps": 0.0}),
        (ClippedHinge, "weight", {"eps": 0.1, "weight": -1.0}),
        (IBP, "kappa", {"eps": 0.1, "kappa": math.inf}),
    ],
)
def test_impossible_values_are_refused(loss, key, values):
    with pytest.raises(ValueError, match=f"`loss.{key}`"):
        loss(num_classes=3, **values)
