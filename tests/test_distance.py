"""l_inf-distance nets: layers, their Lipschitz and interval rules, and certificates held against brute force."""

import math
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from torch import nn

from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.frozen import Network, freeze
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.boxes import all_boxes, box_of, worst_margins
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import rounding
from lipcert.layers import DistanceConv2d, DistanceLinear, Negate, NormPool2d, ScaledLinear, Standardise, SubtractMean
from lipcert.models.ibp_convnet import IBPConvNet
from lipcert.models.linf_dist import LinfDist
from lipcert.models.linf_dist_conv import LinfDistConv
from lipcert.models.linf_dist_mlp import LinfDistMLP

SHAPE, PLANE = (1, 5, 5), (1, 1, 2)
SMALL = {"input_shape": SHAPE, "num_classes": 3, "mean": [0.3], "std": 0.5}  # exact in binary


def networks(shape=(1, 5, 5)) -> dict[str, nn.Module]:
    common = SMALL | {"input_shape": shape}
    return {
        "linf_dist": LinfDist(depth=3, width=30, **common),
        "linf_dist_mlp": LinfDistMLP(depth=2, width=30, hidden=8, **common),
        "linf_dist_conv": LinfDistConv(channels=[4, 4], halving=[1], width=12, hidden=8, **common),
        "ibp_convnet": IBPConvNet(channels=[4, 6], halving=[1], hidden=8, **common),
    }


NAMES = list(networks())


def trained(name: str, shape=SHAPE, seed: int = 0) -> nn.Module:
    """A network whose running means are those of some batch, in float64 and evaluation mode."""
    torch.manual_seed(seed)
    model = networks(shape)[name].double()
    for _ in range(40):
        model.train()(torch.rand(64, *shape, dtype=torch.float64))
    return model.eval()


@cache
def frozen(name: str, shape=SHAPE, seed: int = 0) -> Network:
    return freeze(trained(name, shape, seed), shape, "linf")


def sample(x, eps, count):
    """Images of [0, 1] within eps of x, of shape (1, C, H, W): corners of the ball, and points of it."""
    noise = torch.rand(count, *x.shape[1:], dtype=x.dtype) * 2 - 1
    noise[: count // 2] = noise[: count // 2].sign()
    return (x + eps * noise).clamp(0, 1)


@pytest.mark.parametrize("layer", [DistanceLinear(7, 5, bias=True), DistanceConv2d(2, 6, 3, 2, 1, groups=2, bias=True)])
def test_a_distance_layer_is_nonexpansive_in_linf_at_p_inf_and_only_there(layer):
    shape = (7,) if isinstance(layer, DistanceLinear) else (2, 5, 5)
    x, y = (torch.randn(500, *shape) for _ in range(2))
    moved = (x - y).flatten(1).abs().amax(1)
    assert ((layer(x) - layer(y)).flatten(1).abs().amax(1) <= moved * (1 + 1e-6)).all()
    layer.p = 1.5  # the control: every entry moves by 1, and the distance by more
    far = torch.full((1, *shape), 50.0)
    assert (layer(far + 1) - layer(far)).abs().max() > 1.5
    layer.p = math.inf


def test_identity_weights_pass_on_what_they_see():
    linear = DistanceLinear(4, 6, identity=True)
    x = torch.rand(9, 4)
    torch.testing.assert_close(linear(x), x[:, [0, 1, 2, 3, 0, 1]] + 10)
    conv = DistanceConv2d(4, 6, 3, 1, 1, groups=2, identity=True)
    image = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(conv(image), image[:, [0, 1, 0, 3, 2, 3]] + 10)
    model = LinfDist(input_shape=(1, 2, 2), num_classes=6, depth=3, width=6)
    first, second, last = (m.weight for m in model.modules() if isinstance(m, DistanceLinear))
    assert (first == -10).sum() == (second == -10).sum() == 6 and not (last == -10).any()


def test_convolution_is_the_linear_layer_on_every_patch():
    conv = DistanceConv2d(3, 4, 3, 2, 1, bias=True, p=6.0)
    conv.bias.data.normal_()
    x = torch.randn(2, 3, 6, 7)
    patches = nn.functional.unfold(x, 3, stride=2, padding=1).mT.flatten(0, 1)
    linear = DistanceLinear(27, 4, bias=True, p=6.0)
    linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
    torch.testing.assert_close(conv(x), linear(patches).view(2, 12, 4).mT.reshape(2, 4, 3, 4))


def test_convolution_in_pieces_has_the_gradients_of_the_whole(monkeypatch):
    from lipcert.kernels import convolution

    x, w = torch.randn(5, 4, 6, 6, requires_grad=True), torch.randn(6, 2, 3, 3, requires_grad=True)
    grads = []
    for entries in (2**23, 1):
        monkeypatch.setattr(convolution, "ENTRIES", entries)
        y = convolution.lp_distance_conv2d(x, w, 4.0, 1, 1, 2)
        grads.append(torch.autograd.grad(y.square().sum(), (x, w)))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
    (only,) = torch.autograd.grad(convolution.lp_distance_conv2d(x.detach(), w, 4.0, 1, 1, 2).square().sum(), w)
    torch.testing.assert_close(only, grads[0][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x", [torch.rand(1, 3, 5, 5), torch.rand(1, 2, 2, 2)], ids=["channels", "window"])
def test_a_convolution_says_what_does_not_fit(x):
    with pytest.raises(ValueError, match="fit"):
        DistanceConv2d(2, 4, 3)(x)


def test_p_follows_into_the_weight():
    layer = DistanceLinear(2, 3)
    assert layer.weight.p == math.inf
    layer.p = 8
    assert layer.weight.p == layer.p == 8
    with pytest.raises(ValueError, match="at least 1"):
        layer.p = 0.5


@pytest.mark.parametrize("name", ["linf_dist", "linf_dist_conv"])
@pytest.mark.parametrize("p", [8.0, 1e6])
def test_a_finite_p_is_refused(name, p):
    model = trained(name)
    next(m for m in model.modules() if isinstance(m, DistanceLinear)).p = p
    with pytest.raises(ValueError, match="only p = inf|p = inf") as told:
        freeze(model, SHAPE, "linf")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_lipschitz_bound_in_linf_exceeds_every_slope(name):
    network = frozen(name)
    walk = Walk(network, Norm.LINF)
    found = pair_bounds(walk)
    x = torch.rand(2000, *SHAPE, dtype=torch.float64)
    y = (x + 0.05 * torch.randn_like(x).sign()).clamp(0, 1)
    moved = network(x) - network(y)
    slope = moved.abs() / (x - y).flatten(1).abs().amax(1, keepdim=True)
    assert (slope <= found.of_logits).all() and slope.max() <= found.of_vector
    between = (moved[:, :, None] - moved[:, None]).abs() / (x - y).flatten(1).abs().amax(1)[:, None, None]
    assert (between <= found.smallest()).all()
    if name == "linf_dist":
        assert found.of_vector == pytest.approx(1 / 0.5)
        assert slope.max() > 0.5 * found.of_vector
    assert rounding(network, walk).max() < 1e-8


def test_each_norm_has_its_own_bounds():
    layer = DistanceLinear(4, 2)
    layer.weight.data[1] = layer.weight.data[0]  # two neurons that move alike
    distance = Walk(freeze(layer, (4,), "l2"), Norm.L2)
    assert distance.constant(1) == pytest.approx(math.sqrt(2))
    assert distance.constant(1, torch.tensor([True, False])) == pytest.approx(1)
    pool = freeze(nn.Sequential(NormPool2d(2), nn.Flatten()), (1, 4, 4), "linf")
    assert Walk(pool, Norm.LINF).constant(2) == pytest.approx(2)  # of four entries
    with pytest.raises(ValueError, match="this model is certified in l2"):
        Interval()(freeze(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), PLANE))


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_lies_in_the_box(name):
    network = frozen(name)
    last = len(network.operations)
    for eps in (0.0, 0.01, 0.3):
        for x in torch.rand(4, 1, *SHAPE, dtype=torch.float64):
            low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
            values = network.values(torch.cat([sample(x, eps, 400), low, high, x]))
            boxes = all_boxes(network, low, high, FLOAT64)
            for value, (lower, upper) in zip(values, boxes, strict=True):
                assert (lower <= value).all() and (value <= upper).all()
            answers, box = values[-1], box_of(network, low, high, FLOAT64, last)
            assert torch.equal(box[0], boxes[-1][0]) and torch.equal(box[1], boxes[-1][1])
            labels = answers[-1:].argmax(1)
            margins = worst_margins(network, low, high, labels, FLOAT64)
            assert (margins <= answers[:, labels] - answers).all()
            if network.operations[-1].kind == "linear":  # joined with its rows' difference: never looser than the box
                assert (margins >= box[0][:, labels] - box[1] - 1e-9).scatter(1, labels[:, None], True).all()


def test_the_box_of_a_distance_is_exact():
    layer = DistanceLinear(4, 50, bias=True).double()
    layer.bias.data.normal_()
    network = freeze(layer, (4,), "linf")
    low = torch.randn(1, 4, dtype=torch.float64)
    high = low + torch.rand(1, 4, dtype=torch.float64) * 2
    lower, upper = box_of(network, low, high, FLOAT64, len(network.operations))
    corners = torch.tensor(
        [[h if up else lo for lo, h, up in zip(low[0], high[0], ups, strict=True)] for ups in product((0, 1), repeat=4)]
    )
    torch.testing.assert_close(upper[0], layer(corners).amax(0))
    # the nearest point of the box to a prototype attains the lower end
    nearest = torch.minimum(torch.maximum(layer.weight, low), high)
    distances = (nearest - layer.weight).abs().amax(1) + layer.bias
    torch.testing.assert_close(lower[0], distances)
    assert (lower <= distances).all() and (upper >= layer(corners)).all()


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_rounded_outward(name):
    """Propagated in float32, they still hold what float64 answers."""
    coarse = frozen(name).to(dtype=torch.float32)
    exact = coarse.to(dtype=torch.float64)  # the same numbers
    x = torch.rand(200, *SHAPE)
    inside = {}
    for arithmetic in (FLOAT32, replace(FLOAT32, unit=0.0, tiny=0.0)):
        boxes = all_boxes(coarse, x, x, arithmetic)
        inside[arithmetic] = [
            bool(((low.double() <= v) & (v <= high.double())).all())
            for (low, high), v in zip(boxes, exact.values(x.double()), strict=True)
        ]
        assert (boxes[-1][1] - boxes[-1][0]).max() < 3e-3
    held, control = inside.values()
    assert all(held) and not all(control)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["linf_dist", "linf_dist_mlp"])
def test_no_point_within_the_radius_has_another_answer(name, seed):
    network = frozen(name, PLANE, seed)
    axis = torch.linspace(0, 1, 201, dtype=torch.float64)
    everywhere = torch.cartesian_prod(axis, axis)
    answers = network(everywhere.view(-1, *PLANE)).argmax(1)
    x = torch.rand(150, *PLANE, dtype=torch.float64)
    x[:50] = x[:50].round()  # at the borders, where the box is cut off
    labels = network(x).argmax(1)
    verdict = Interval()(network).judge(x, labels)
    distance = (x.flatten(1)[:, None] - everywhere[None]).abs().amax(2)
    distance[answers[None] == labels[:, None]] = torch.inf
    assert (verdict.radius <= distance.amin(1)).all()
    assert (verdict.radius > 0).any()
    lipschitz = Pairwise()(network).judge(x, labels)
    assert torch.equal(verdict.lipschitz_radius, lipschitz.radius)
    assert (verdict.radius >= lipschitz.radius).all()
    assert (verdict.radius > lipschitz.radius + 1e-3).any()  # it gains where the pixels' range cuts the ball off


@pytest.mark.parametrize("name", NAMES)
def test_the_radius_is_proved_and_just_beyond_it_is_not(name):
    network = frozen(name)
    x = torch.rand(60, *SHAPE, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    labels = network(x).argmax(1)
    verdict = Interval(tolerance=1e-5)(network).judge(x, labels)
    radius = verdict.radius

    def proved(eps):
        reach = eps.view(-1, 1, 1, 1)
        margins = worst_margins(network, (x - reach).clamp(0, 1), (x + reach).clamp(0, 1), labels, FLOAT64)
        return (margins.scatter(1, labels[:, None], torch.inf) > 0).all(1)

    assert (radius > 0).all()
    by_boxes = radius > verdict.lipschitz_radius
    assert by_boxes.any() and proved(radius * (1 - 1e-9))[by_boxes].all()
    assert not proved(radius + 2e-5)[radius < 1].any()
    inside = torch.rand(60, dtype=torch.float64) * radius
    assert proved(inside)[by_boxes].all()  # monotone


def test_the_pairwise_certificate_is_half_the_margin_in_pixels():
    network = frozen("linf_dist")
    x = torch.rand(50, *SHAPE, dtype=torch.float64)
    bound = Pairwise(bounds=["vector"])(network)
    verdict = bound.judge(x, network(x).argmax(1))
    assert bound.norm is Norm.LINF
    torch.testing.assert_close(verdict.radius, verdict.margin * 0.5 / 2, rtol=1e-6, atol=1e-12)
    assert (verdict.radius <= verdict.margin * 0.5 / 2).all()


def test_wrong_answers_and_ties_have_radius_zero():
    network = frozen("linf_dist")
    x = torch.rand(30, *SHAPE, dtype=torch.float64)
    answers = network(x).argmax(1)
    assert (Interval()(network).judge(x, (answers + 1) % 3).radius == 0).all()
    model = trained("linf_dist")
    last = model.head[0]
    last.weight.data[1] = last.weight.data[0]
    last.bias.data.copy_(torch.tensor([0.0, 0.0, 100.0]))
    tied = freeze(model, SHAPE, "linf")
    logits = tied(x)
    assert torch.equal(logits[:, 0], logits[:, 1]) and (logits.argmax(1) == 0).all()
    assert (Interval()(tied).judge(x, torch.zeros(30, dtype=torch.int64)).radius == 0).all()
    x[0] = torch.nan
    assert Interval()(network).judge(x[:1], answers[:1]).radius == 0


def test_what_can_never_change_is_proved_for_the_whole_range():
    model = trained("linf_dist")
    model.head[0].bias.data.copy_(torch.tensor([-100.0, 0.0, 0.0]))
    network = freeze(model, SHAPE, "linf")
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    assert (Interval()(network).judge(x, torch.zeros(5, dtype=torch.int64)).radius >= 1).all()


def test_what_a_subclass_computes_is_what_is_proved():
    """And not what its parent would."""

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Shifted(SubtractMean):
        def forward(self, x):
            return super().forward(x) + 1

    model = trained("linf_dist_mlp")
    model.head, model.features[0][3] = Twice(8, 3).double(), Shifted(30).double()
    network = freeze(model.eval(), SHAPE, "linf")
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(network(x), model(x))
    low, high = box_of(network, x, x, FLOAT64, len(network.operations))
    assert (low <= network(x)).all() and (network(x) <= high).all() and (high - low).max() < 1e-6


def test_scaled_linear_is_the_plain_layer_of_its_scaled_weight():
    layer = ScaledLinear(9, 4).double()
    layer.bias.data.normal_()
    network = freeze(layer, (9,), "linf")
    (linear,) = network.operations
    torch.testing.assert_close(linear.weight, layer.weight.detach() / 3)
    assert Walk(network, Norm.LINF).constant(1) == pytest.approx(layer.weight.abs().sum(1).max().item() / 3)


def test_standardise_and_negate_keep_the_order_of_a_box():
    chain = nn.Sequential(Standardise([0.2, 0.4], [0.5]), Negate(), nn.Flatten())
    network = freeze(chain, (2, 1, 1), "linf")
    zero = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    low, high = box_of(network, zero, zero + 1, FLOAT64, len(network.operations))
    assert low.flatten().tolist() == pytest.approx([-1.6, -1.2]) and high.flatten().tolist() == pytest.approx(
        [0.4, 0.8]
    )


@pytest.mark.parametrize(("model", "key"), [(LinfDist, "depth"), (LinfDistMLP, "depth"), (LinfDistConv, "halving")])
def test_impossible_sizes_are_refused(model, key):
    with pytest.raises(ValueError, match=f"`model.{key}`"):
        model(**SMALL, **({"depth": -1} if key == "depth" else {"halving": [9]}))
