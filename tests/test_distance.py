"""l_inf-distance nets: layers, their Lipschitz and interval rules, and certificates held against brute force."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from lipcert.bounds import Walk, image_signal, propagate, worst_margins
from lipcert.certificates.interval import Interval
from lipcert.certificates.last_layer import LastLayer
from lipcert.certificates.margin import Margin
from lipcert.contracts import Norm
from lipcert.layers import DistanceConv2d, DistanceLinear, Negate, ScaledLinear, Standardise, SubtractMean, fold
from lipcert.models.headed import Headed
from lipcert.models.ibp_convnet import IBPConvNet
from lipcert.models.linf_dist import LinfDist
from lipcert.models.linf_dist_conv import LinfDistConv
from lipcert.models.linf_dist_mlp import LinfDistMLP

PLANE, UNIT = (1, 1, 2), 2.0**-53
SMALL = {"input_shape": (1, 5, 5), "num_classes": 3, "mean": [0.3], "std": 0.5}  # exact in binary


def networks(shape=(1, 5, 5)) -> dict[str, nn.Module]:
    common = SMALL | {"input_shape": shape}
    return {
        "linf_dist": LinfDist(depth=3, width=30, **common),
        "linf_dist_mlp": LinfDistMLP(depth=2, width=30, hidden=8, **common),
        "linf_dist_conv": LinfDistConv(channels=[4, 4], halving=[1], width=12, hidden=8, **common),
        "ibp_convnet": IBPConvNet(channels=[4, 6], halving=[1], hidden=8, **common),
    }


NAMES = list(networks())


def trained(name: str, shape=(1, 5, 5), seed: int = 0) -> nn.Module:
    """A network whose running means are those of some batch, in float64 and evaluation mode, folded."""
    torch.manual_seed(seed)
    model = networks(shape)[name].double()
    for _ in range(40):
        model.train()(torch.rand(64, *shape, dtype=torch.float64))
    return fold(model.eval())


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


@pytest.mark.parametrize("certificate", [Margin(), Interval()], ids=["margin", "interval"])
@pytest.mark.parametrize("p", [8.0, 1e6])
def test_a_finite_p_is_refused(certificate, p):
    model = trained("linf_dist")
    next(m for m in model.modules() if isinstance(m, DistanceLinear)).p = p
    with pytest.raises(ValueError, match="only p = inf is certified"):
        certificate(model, (1, 5, 5))
    with pytest.raises(ValueError, match="only p = inf is certified"):
        propagate(model.features, torch.zeros(1, 1, 5, 5).double(), torch.ones(1, 1, 5, 5).double(), UNIT)


@pytest.mark.parametrize("name", NAMES)
def test_the_lipschitz_bound_in_linf_exceeds_every_slope(name):
    model = trained(name)
    signal = Walk()(model, image_signal((1, 5, 5), norm=Norm.LINF))
    x = torch.rand(2000, 1, 5, 5, dtype=torch.float64)
    y = (x + 0.05 * torch.randn_like(x).sign()).clamp(0, 1)
    slope = (model(x) - model(y)).abs().amax(1) / (x - y).flatten(1).abs().amax(1)
    assert slope.max() <= signal.lipschitz
    if name == "linf_dist":
        assert signal.lipschitz == pytest.approx(1 / 0.5)
        assert slope.max() > 0.5 * signal.lipschitz
    assert (model(x).abs() <= signal.magnitude).all() and signal.error < 1e-8


def test_norms_do_not_mix():
    with pytest.raises(ValueError, match="no Lipschitz rule in l2"):
        Walk()(DistanceLinear(4, 2).double(), image_signal((4,)))
    from lipcert.layers import NormPool2d

    with pytest.raises(ValueError, match="no Lipschitz rule in linf"):
        Walk()(NormPool2d(2), image_signal((1, 4, 4), norm=Norm.LINF))
    with pytest.raises(ValueError, match="this model is for l2"):
        Interval()(Headed(nn.Flatten(), nn.Linear(2, 2)).double(), PLANE)


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_lies_in_the_box(name, eps):
    model = trained(name)
    for x in torch.rand(5, 1, 1, 5, 5, dtype=torch.float64):
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        points = torch.cat([sample(x, eps, 400), low, high, x])
        box = propagate(nn.Sequential(model.features, model.head), low, high, UNIT)
        answers = model(points)
        assert (box[0] <= answers).all() and (answers <= box[1]).all()
        labels = answers[-1:].argmax(1)
        margins = worst_margins(model.features, model.head, low, high, labels, UNIT)
        assert (margins <= answers[:, labels] - answers).all()
        if type(model.head) is nn.Linear:  # joined with its rows' difference: never looser than the box
            assert (margins >= box[0][:, labels] - box[1] - 1e-9).scatter(1, labels[:, None], True).all()


def test_the_box_of_a_distance_is_exact():
    layer = DistanceLinear(4, 50, bias=True).double()
    layer.bias.data.normal_()
    low = torch.randn(1, 4, dtype=torch.float64)
    high = low + torch.rand(1, 4, dtype=torch.float64) * 2
    lower, upper = propagate(layer, low, high, UNIT)
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
    exact = trained(name)
    coarse = fold(exact).float()
    x = torch.rand(200, 1, 5, 5, dtype=torch.float64).float().double()
    low, high = propagate(coarse.features, x.float(), x.float(), 2.0**-24)
    answers = exact.features(x)
    assert (low.double() <= answers).all() and (answers <= high.double()).all()
    assert (high - low).max() < 1e-3
    without = propagate(coarse.features, x.float(), x.float())
    assert not ((without[0].double() <= answers) & (answers <= without[1].double())).all()  # the control


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["linf_dist", "linf_dist_mlp"])
def test_no_point_within_the_radius_has_another_answer(name, seed):
    model = trained(name, PLANE, seed)
    axis = torch.linspace(0, 1, 201, dtype=torch.float64)
    everywhere = torch.cartesian_prod(axis, axis)
    answers = model(everywhere.view(-1, *PLANE)).argmax(1)
    x = torch.rand(150, *PLANE, dtype=torch.float64)
    x[:50] = x[:50].round()  # at the borders, where the box is cut off
    labels = model(x).argmax(1)
    verdict = Interval()(model, PLANE).judge(x, labels)
    distance = (x.flatten(1)[:, None] - everywhere[None]).abs().amax(2)
    distance[answers[None] == labels[:, None]] = torch.inf
    assert (verdict.radius <= distance.amin(1)).all()
    assert (verdict.radius > 0).any()
    lipschitz = (Margin() if name == "linf_dist" else LastLayer())(model, PLANE).judge(x, labels)
    assert torch.equal(verdict.lipschitz_radius, lipschitz.radius)
    assert (verdict.radius >= lipschitz.radius).all()
    assert (verdict.radius > lipschitz.radius + 1e-3).any()  # it gains where the pixels' range cuts the ball off


@pytest.mark.parametrize("name", NAMES)
def test_the_radius_is_proved_and_just_beyond_it_is_not(name):
    model = trained(name)
    x = torch.rand(60, 1, 5, 5, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    labels = model(x).argmax(1)
    radius = Interval(tolerance=1e-5)(model, (1, 5, 5)).judge(x, labels).radius

    def proved(eps):
        reach = eps.view(-1, 1, 1, 1)
        box = (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)
        margins = worst_margins(model.features, model.head, *box, labels, UNIT)
        return (margins.scatter(1, labels[:, None], torch.inf) > 0).all(1)

    assert (radius > 0).all()
    assert proved(radius * (1 - 1e-9)).all()
    assert not proved(radius + 2e-5)[radius < 1].any()
    inside = torch.rand(60, dtype=torch.float64) * radius
    assert proved(inside).all()  # monotone


def test_the_margin_certificate_is_half_the_margin_in_pixels():
    model = trained("linf_dist")
    x = torch.rand(50, 1, 5, 5, dtype=torch.float64)
    labels = model(x).argmax(1)
    verdict = Margin()(model, (1, 5, 5)).judge(x, labels)
    assert Margin()(model, (1, 5, 5)).norm is Norm.LINF
    torch.testing.assert_close(verdict.radius, verdict.margin * 0.5 / 2, rtol=1e-6, atol=1e-12)
    assert (verdict.radius <= verdict.margin * 0.5 / 2).all()


def test_wrong_answers_and_ties_have_radius_zero():
    model = trained("linf_dist")
    x = torch.rand(30, 1, 5, 5, dtype=torch.float64)
    answers = model(x).argmax(1)
    assert (Interval()(model, (1, 5, 5)).judge(x, (answers + 1) % 3).radius == 0).all()
    last = model.head[0]
    last.weight.data[1] = last.weight.data[0]
    last.bias.data[1] = last.bias.data[0]
    last.bias.data[2] = 100.0
    assert (Interval()(model, (1, 5, 5)).judge(x, torch.zeros(30, dtype=torch.int64)).radius == 0).all()
    x[0] = torch.nan
    assert Interval()(model, (1, 5, 5)).judge(x[:1], answers[:1]).radius == 0


def test_what_can_never_change_is_proved_for_the_whole_range():
    model = trained("linf_dist")
    model.head[0].bias.data.copy_(torch.tensor([-100.0, 0.0, 0.0]))
    x = torch.rand(5, 1, 5, 5, dtype=torch.float64)
    assert (Interval()(model, (1, 5, 5)).judge(x, torch.zeros(5, dtype=torch.int64)).radius >= 1).all()


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(SubtractMean):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("spoilt", ["head", "features"])
def test_what_a_parent_computes_is_not_propagated(spoilt):
    model = trained("linf_dist_mlp")
    if spoilt == "head":
        model.head = Twice(8, 3).double()
    else:
        model.features[0][3] = Shifted(30).double()
    box = torch.zeros(1, 1, 5, 5).double(), torch.ones(1, 1, 5, 5).double()
    with pytest.raises(ValueError, match=r"Twice|Shifted"):
        worst_margins(model.features, model.head, *box, torch.zeros(1, dtype=torch.int64), UNIT)
    with pytest.raises(ValueError, match=r"Twice|Shifted"):
        Interval()(model, (1, 5, 5))


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="`features.1`: no interval rule for GELU"):
        propagate(nn.Sequential(nn.Flatten(), nn.GELU()), torch.zeros(1, 2), torch.ones(1, 2), name="features")


def test_scaled_linear_is_the_plain_layer_it_folds_to():
    layer = ScaledLinear(9, 4).double()
    layer.bias.data.normal_()
    x = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(fold(nn.Sequential(layer))(x), layer(x))
    for one, other in zip(propagate(layer, x, x + 1), propagate(fold(nn.Sequential(layer)), x, x + 1), strict=True):
        torch.testing.assert_close(one, other)


def test_standardise_and_negate_keep_the_order_of_a_box():
    chain = nn.Sequential(Standardise([0.2, 0.4], [0.5]), Negate())
    low, high = propagate(chain, torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1))
    torch.testing.assert_close(low.flatten(), torch.tensor([-1.6, -1.2]))
    torch.testing.assert_close(high.flatten(), torch.tensor([0.4, 0.8]))


@pytest.mark.parametrize(("model", "key"), [(LinfDist, "depth"), (LinfDistMLP, "depth"), (LinfDistConv, "halving")])
def test_impossible_sizes_are_refused(model, key):
    with pytest.raises(ValueError, match=f"`model.{key}`"):
        model(**SMALL, **({"depth": -1} if key == "depth" else {"halving": [9]}))
