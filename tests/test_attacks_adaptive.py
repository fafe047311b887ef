"""The attacks that adapt, AutoPGD, Square, FMN and the softened one, find what is known to be there."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from linear_problem import Linear, exact_distance, problem
from torch import Tensor

from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.balls import project_l1
from lipcert.attacks.fast_minimum_norm import FastMinimumNorm
from lipcert.attacks.judge import attempt, distance, judge
from lipcert.attacks.objectives import OBJECTIVES
from lipcert.attacks.softened import Softened
from lipcert.attacks.square import Square
from lipcert.contracts import Norm
from lipcert.frozen import Network, freeze
from lipcert.models.linf_dist import LinfDist

NORMS = list(Norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "loss, scale, dtype",
    [
        ("ce", 1.0, torch.float32),
        ("ce", 1e-11, torch.float64),
        ("dlr", 1e-11, torch.float64),
        ("margin", 1e6, torch.float32),
    ],
)
def test_auto_projected_gradient_succeeds_exactly_beyond_the_distance(norm, loss, scale, dtype):
    exact, _, x, y = problem(Linear(4, scale), n=24)
    least = exact_distance(exact, x, y, norm)
    x, y, least = (rows[least < 0.3] for rows in (x, y, least))  # in l1 one pixel moves by all of it, within the box
    eps = least * torch.where(torch.arange(len(x)) % 2 == 0, 1.01, 0.99)  # a radius per image
    attack = AutoProjectedGradient(norm=norm, eps=None, loss=loss, steps=30, targets=3, seed=0)
    found = attack(deepcopy(exact).to(dtype), x.to(dtype), y, eps)
    assert found.dtype == dtype
    success = judge(exact, x, y, found, norm, eps).success
    missed = int((~success & (eps > least)).sum())
    assert not (success & (eps < least)).any()
    assert missed <= (4 if loss == "ce" else 0)  # it has no target, and may chase a farther plane


def test_gradients_that_vanish_do_not_stop_an_ascent():
    def answer(images: Tensor) -> Tensor:  # flat around the image, then steep
        moved = (images - 0.5).flatten(1).norm(dim=1)
        return torch.stack([(0.3 - moved).clamp(-1, 0.1), 0 * moved], 1)

    x, y = torch.full((8, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    attack = AutoProjectedGradient(norm=Norm.L2, eps=[0.5], loss="margin", targets=0, steps=20, seed=0)
    assert judge(answer, x, y, attack(answer, x, y), Norm.L2, 0.5).success.all()
    inside = AutoProjectedGradient(norm=Norm.L2, eps=[0.5], loss="margin", targets=0, steps=20, seed=0)
    assert judge(answer, x, y, inside(answer, x, y, None, x), Norm.L2, 0.5).success.all()  # where the gradient is 0


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_steps_shrink_until_a_small_place_is_found(norm):
    place = torch.rand(1, 4, 4, dtype=torch.float64)

    def answer(images: Tensor) -> Tensor:
        away = (images - place).flatten(1).norm(dim=1)
        return torch.stack([0 * away, 0.02 - away], 1)

    x, y = place + 0.05 * torch.randn(8, 1, 4, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    attack = AutoProjectedGradient(norm=norm, eps=[0.5], loss="margin", seed=0)
    assert judge(answer, x.clamp(0, 1), y, attack(answer, x.clamp(0, 1), y), norm, 0.5).success.all()


def test_images_that_are_decided_are_not_attacked_on():
    exact, _, x, y = problem(Linear(2), n=24)
    seen = []

    def answer(images: Tensor) -> Tensor:
        seen.append(len(images))
        return exact(images)

    eps = exact_distance(exact, x, y, Norm.L2) * torch.where(torch.arange(24) < 20, 3.0, 0.5)
    for attack in (
        AutoProjectedGradient(norm=Norm.L2, eps=None, loss="ce", steps=20, seed=0),
        Square(norm=Norm.L2, eps=None, steps=100, seed=0),
    ):
        attack(answer, x, y, eps)
        assert seen.pop() == 4
        seen.clear()


@pytest.mark.parametrize("norm", NORMS)
def test_square_finds_what_the_radius_allows_and_nothing_within_the_distance(norm):
    exact, _, x, y = problem(Linear(2), n=24)
    least, model = exact_distance(exact, x, y, norm), deepcopy(exact).float()
    for factor in (0.999, 3.0):
        eps = factor * least
        success = attempt(Square(norm=norm, eps=[1.0], steps=200, seed=0), model, exact, x, y, eps).success
        assert success.double().mean() >= 0.9 if factor > 1 else not success.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-11])
def test_fast_minimum_norm_finds_the_smallest_distance(norm, scale):
    exact, _, x, y = problem(Linear(2, scale), n=24)
    least = exact_distance(exact, x, y, norm)
    x, y, least = (rows[least < 0.3] for rows in (x, y, least))
    found = judge(exact, x, y, FastMinimumNorm(norm=norm, steps=60)(exact, x, y), norm).distance
    assert (found >= least).all() and (found <= 1.002 * least).all()


def test_fast_minimum_norm_goes_along_the_sides_of_the_box():
    model, images = Linear(2).double(), 0.3 + 0.4 * torch.rand(24, 1, 4, 4, dtype=torch.float64)
    weight = model.linear.weight.detach()
    way = (weight[1] - weight[0]).reshape(1, 4, 4)
    x = torch.where(torch.arange(4) < 3, (way > 0).double(), images)  # no pixel of three columns may go on that way

    def answer(images: Tensor) -> Tensor:  # class 0 here, class 1 where the fourth column has moved by 0.2
        return model(images) + torch.stack([0 * gap, 0.2 * free - gap], 1)

    free = way[:, :, 3].norm()
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach() + 0.4 * free
    y = torch.zeros(24, dtype=torch.long)
    found = judge(answer, x, y, FastMinimumNorm(norm=Norm.L2)(answer, x, y), Norm.L2).distance
    assert (found >= 0.2).all() and (found <= 0.202).all()


@pytest.mark.parametrize("norm", NORMS)
def test_fast_minimum_norm_comes_no_farther_than_its_start(norm):
    exact, _, x, y = problem(Linear(4), n=24)
    start = torch.where(torch.arange(24)[:, None, None, None] % 2 == 0, x.flip(0), x)  # half of it is misclassified
    wrong = exact(start).argmax(1) != y
    assert wrong.any() and not wrong.all()
    found = FastMinimumNorm(norm=norm, steps=1, bisections=30)(exact, x, y, None, start)
    reached = judge(exact, x, y, found, norm).distance
    assert (reached[wrong] < distance(norm, start, x)[wrong]).all()
    longer = judge(exact, x, y, FastMinimumNorm(norm=norm, steps=60)(exact, x, y, None, start), norm).distance
    assert (longer < 1.05 * reached).all() and longer.mean() < reached[wrong].mean()


def test_an_l1_projection_is_the_nearest_point_of_ball_and_box():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 3, 3, dtype=torch.float64, generator=generator)
    x[:16] = x[:16].round()
    offset = 2 * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    radius = 3 * torch.rand(64, 1, 1, 1, dtype=torch.float64, generator=generator)
    found = project_l1(offset, radius, x)
    assert (found.flatten(1).abs().sum(1) <= radius.flatten() + 1e-12).all()
    assert (x + found >= -1e-15).all() and (x + found <= 1 + 1e-15).all()
    for _ in range(200):  # (o − p)·(q − p) ≤ 0 for every q of a convex set, and for the nearest p alone
        other = torch.rand(x.shape, dtype=torch.float64, generator=generator) - x
        other = other * (radius / other.flatten(1).abs().sum(1).reshape(radius.shape)).clamp(max=1)
        assert (((offset - found) * (other - found)).flatten(1).sum(1) <= 1e-12).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_targets(name):
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0]])
    y, target = torch.tensor([0]), torch.tensor([1])
    expected = {"ce": (0.4520, 0.4520), "dlr": (-1 / 2, -2 / 2.5), "margin": (-1.0, -2.0)}[name]
    value = [float(OBJECTIVES[name](logits, y, t)) for t in (None, target)]
    assert value == pytest.approx(expected, abs=1e-4)
    two = [float(OBJECTIVES[name](logits[:, :2], y, t)) for t in (None, target)]
    assert two == pytest.approx([0.1269] * 2 if name == "ce" else [-2.0] * 2, abs=1e-4)


@pytest.fixture(scope="module")
def distances() -> Network:
    """A net of l∞ distances, of which nothing is trained."""
    torch.manual_seed(3)
    net = LinfDist(input_shape=(1, 16, 16), num_classes=4, depth=3, width=64, identity=False)
    return freeze(net.eval(), (1, 16, 16), Norm.LINF)


def test_softened_gradients_leave_the_logits_alone(distances):
    x = torch.rand(5, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    soft, hard = (torch.autograd.grad(f(x)[:, 0].sum(), x)[0] for f in (distances.softened(8.0), distances))
    assert torch.equal(distances.softened(8.0)(x), distances(x))
    assert ((hard != 0).flatten(1).sum(1) == 1).all() and ((soft != 0).flatten(1).sum(1) > 200).all()
    assert torch.allclose(torch.autograd.grad(distances.softened(4096.0)(x)[:, 0].sum(), x)[0], hard, atol=0.05)


def test_softened_gradients_find_more_than_those_of_single_pixels(distances):
    x = torch.rand(60, 1, 16, 16, dtype=torch.float64)
    y, top = distances(x).argmax(1), distances(x).topk(2).values
    eps = 1.3 * (top[:, 0] - top[:, 1]) / 2  # each logit is 1-Lipschitz: nothing is to be found within half the gap
    attack = Softened(eps=[], steps=10, exponents=[32.0], targets=1, seed=0)
    found = [attempt(attack, f, distances, x, y, eps) for f in (distances, lambda images: distances(images))]
    assert (found[0].distance >= eps / 1.3).all()
    soft, hard = (int(each.success.sum()) for each in found)  # a plain function has no softer gradients
    assert soft >= 1.15 * hard > 0
