"""Attacks find what is there, the judge makes every candidate legal, and a broken certificate is never missed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from copy import deepcopy
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lipcert.attacks.batch import rescaled
from lipcert.attacks.boundary import BoundaryL2
from lipcert.attacks.carlini_wagner import CarliniWagnerL2
from lipcert.attacks.deep_fool import DeepFoolL2
from lipcert.attacks.fast_gradient import FastGradient
from lipcert.attacks.judge import distance, judge
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.smallest import SmallestDistance
from lipcert.configuration import build, plain
from lipcert.contracts import Attack, AttackRow, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.attack import Attacking, Proved
from lipcert.runs.directory import RunDirectory
from lipcert.runs.numbers import attack_norm

NORMS = list(Norm)
DUAL = {Norm.L1: math.inf, Norm.L2: 2, Norm.LINF: 1}


class Linear(nn.Module):
    """`classes` planes around the middle of the box."""

    def __init__(self, classes: int = 3, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        weight = torch.randn(classes, 16, dtype=torch.float64)
        self.linear = nn.Linear(16, classes)
        self.linear.weight.data = (scale * weight).float()
        self.linear.bias.data = (-scale * weight.sum(1) / 2).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def problem(model: Linear, n: int = 12, seed: int = 1) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """The float64 model, n uint8 images, the same in [0, 1] float64, and the model's own answers as labels.

    Only images whose distance is far above the step of an attack, and below their distance to the box: no constraint
    blocks the shortest way.
    """
    exact = deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(77, 179, (40 * n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    least = exact_distance(exact, images.double() / 255, exact(images.double() / 255).argmax(1), Norm.L2)
    images = images[(least > 0.1) & (least < 0.3)][:n]
    assert len(images) == n
    x = images.double() / 255
    return exact, images, x, exact(x).argmax(1)


def exact_distance(model: Linear, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """min over i of margin_i / ||w_y - w_i||, in the dual norm."""
    weight, logits = model.linear.weight.detach(), model(x).detach()
    gap = logits.gather(1, y[:, None]) - logits
    dual = (weight[y][:, None] - weight[None]).norm(p=DUAL[norm], dim=2)
    return torch.where(gap > 0, gap / dual, torch.inf).amin(1)


@pytest.fixture(params=[Norm.L2, Norm.LINF])
def norm(request: pytest.FixtureRequest) -> Norm:
    return request.param


# --- the attacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-6])
@pytest.mark.parametrize("loss, classes", [("ce", 2), ("margin", 2), ("ce", 3)])
def test_projected_gradient_succeeds_exactly_beyond_the_distance(norm, loss, classes, scale, dtype):
    exact, _, x, y = problem(Linear(classes, scale), n=64)
    least = exact_distance(exact, x, y, norm)
    model = deepcopy(exact).to(dtype)
    eps = least * torch.where(torch.arange(len(x)) % 2 == 0, 1.02, 0.98)  # a radius per image
    attack = ProjectedGradient(norm=norm, eps=[1.0], loss=loss, restarts=3, seed=0)
    success = judge(exact, x, y, attack(model, x.to(dtype), y, eps), norm, eps).success
    assert not (success & (eps < least)).any()
    missed = (~success & (eps > least)).sum()  # of 32; among three classes it may chase a farther plane
    assert missed == 0 if classes == 2 else missed <= 4


def test_fast_gradient_is_exact_on_a_binary_linear_classifier(norm):
    exact, _, x, y = problem(Linear(2), n=32)
    least = exact_distance(exact, x, y, norm)
    attack = FastGradient(norm=norm, eps=[1.0])
    for factor in (0.999, 1.001):
        eps = factor * least
        judged = judge(exact, x, y, attack(deepcopy(exact).float(), x.float(), y, eps), norm, eps)
        assert judged.success.tolist() == [factor > 1] * len(x)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_carlini_wagner_finds_the_smallest_distance(scale, dtype):
    exact, _, x, y = problem(Linear(2, scale))
    found = CarliniWagnerL2(steps=200)(deepcopy(exact).to(dtype), x.to(dtype), y)
    ratio = judge(exact, x, y, found, Norm.L2).distance / exact_distance(exact, x, y, Norm.L2)
    assert (ratio >= 1).all() and (ratio <= 1.02).all()


def test_restarts_of_carlini_wagner_aim_at_each_class():
    exact, _, x, y = problem(Linear(4), n=24)
    least, ratio = exact_distance(exact, x, y, Norm.L2), {}
    for restarts in (1, 4):
        found = CarliniWagnerL2(steps=100, restarts=restarts)(deepcopy(exact).float(), x.float(), y)
        ratio[restarts] = judge(exact, x, y, found, Norm.L2).distance / least
        assert (ratio[restarts] >= 1).all()
    assert (ratio[4] <= 1.02).all() and ratio[1].max() > 1.02  # one search follows the largest logit


def test_restarts_beyond_the_classes_search_again():
    exact, _, x, y = problem(Linear(3))
    found = [judge(exact, x, y, CarliniWagnerL2(steps=10, restarts=r)(exact, x, y), Norm.L2).distance for r in (3, 6)]
    assert (found[1] <= found[0]).all() and (found[1] < found[0]).any()


def test_carlini_wagner_returns_the_clean_image_where_it_fails():
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(y, 3).to(x.dtype) + 0 * x.sum()

    assert torch.equal(CarliniWagnerL2(steps=5)(Constant().eval(), x, y), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
@pytest.mark.parametrize("classes, overshoot, candidates", [(2, 0.02, 10), (4, 0.1, None), (4, 0.0, 4)])
def test_deep_fool_goes_to_the_nearest_plane_and_overshoots(classes, overshoot, candidates, scale, dtype):
    exact, _, x, y = problem(Linear(classes, scale), n=32)
    attack = DeepFoolL2(overshoot=overshoot, candidates=candidates)
    found = attack(deepcopy(exact).to(dtype), x.to(dtype), y)
    expected = (exact_distance(exact, x, y, Norm.L2) + 1e-4) * (1 + overshoot)
    assert torch.allclose(judge(exact, x, y, found, Norm.L2).distance, expected, rtol=1e-4, atol=0)


def test_deep_fool_goes_around_the_sides_of_the_box():
    exact, _, x, y = problem(Linear(2), n=32)
    direction = (exact.linear.weight.detach()[1 - y] - exact.linear.weight.detach()[y]).reshape(x.shape)
    x = torch.where((direction > 0) & (torch.arange(4) < 2), 1.0, x)  # some of the shortest way is blocked
    y = exact(x).argmax(1)
    found = DeepFoolL2()(deepcopy(exact).float(), x.float(), y)
    assert (found >= 0).all() and (found <= 1).all()
    judged = judge(exact, x, y, found, Norm.L2)
    assert judged.success.all() and (judged.distance >= exact_distance(exact, x, y, Norm.L2)).all()


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
def test_deep_fool_finds_every_image_of_a_network_again_and_alone(scale):
    torch.manual_seed(2)  # without the push, float64 disagrees on some of these
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    x = torch.randint(0, 256, (100, 1, 8, 8)).double() / 255
    for p in model[-1].parameters():
        p.data *= scale
    exact = deepcopy(model).double()
    y = exact(x).argmax(1)
    found = DeepFoolL2(overshoot=0.0)(model, x.float(), y)
    assert judge(exact, x, y, found, Norm.L2).success.all()
    assert torch.equal(found, DeepFoolL2(overshoot=0.0)(model, x.float(), y))
    alone = DeepFoolL2(overshoot=0.0)(model, x[:1].float(), y[:1])
    assert torch.allclose(alone, found[:1], rtol=0, atol=1e-3)


def test_deep_fool_returns_the_clean_image_where_it_fails():
    class Flat(nn.Module):  # the only way to the other class is a step that no gradient sees
        def forward(self, x: Tensor) -> Tensor:
            margin = 1e-3 * x.flatten(1).sum(1) + (x.flatten(1).amax(1) < 0.5)
            return torch.stack([margin, -margin], 1)

    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.long)
    assert torch.equal(DeepFoolL2()(Flat().eval(), x, y), x)
    exact, _, x, y = problem(Linear(2), n=8)
    y[3] = 1 - y[3]
    assert torch.equal(DeepFoolL2()(exact, x, y)[3], x[3])  # misclassified as it is

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[2.0, 1.0, 0.0]], dtype=x.dtype).expand(len(x), 3) + 0 * x.sum()

    assert torch.equal(DeepFoolL2(steps=3)(Constant().eval(), x, torch.zeros_like(y)), x)


def test_rescaling_keeps_the_answer_and_the_scale_of_huge_and_tiny_logits():
    logits = torch.randn(50, 7, dtype=torch.float64)
    for scale in (1e-9, 1.0, 1e9):
        assert torch.allclose(rescaled(scale * logits, 4.0), rescaled(logits, 4.0))
    assert torch.equal(rescaled(logits, 4.0).argsort(1), logits.argsort(1))
    assert rescaled(torch.zeros(2, 3), 4.0).isfinite().all()


@pytest.mark.parametrize(
    "attack",
    [
        FastGradient(norm=Norm.L2, eps=[0.5]),
        ProjectedGradient(norm=Norm.LINF, eps=[0.2], steps=3, restarts=2),
        ProjectedGradient(norm=Norm.L2, eps=[0.5], steps=3, seed=5),
        CarliniWagnerL2(steps=20, binary_search_steps=5),
        DeepFoolL2(steps=3),
        SmallestDistance(name="line", inner=FastGradient(norm=Norm.L2, eps=None), bisections=2),
        BoundaryL2(steps=3),
    ],
    ids=lambda attack: attack.label,
)
def test_an_attack_takes_a_plain_function_and_leaves_no_trace(attack: Attack):
    torch.manual_seed(0)
    weight = torch.randn(16, 3, dtype=torch.float64)

    def answer(images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ weight.to(images.dtype)

    x = torch.rand(6, 1, 4, 4, requires_grad=True)
    clean, y = x.detach().clone(), answer(x).argmax(1)
    with torch.no_grad():  # attacks bring their own gradients
        candidate = attack(answer, x, y, None)
    assert candidate.shape == x.shape and candidate.dtype == x.dtype and not candidate.requires_grad
    assert x.grad is None and torch.equal(x, clean) and not torch.equal(candidate, clean)
    assert judge(answer, clean, y, candidate, attack.norm).success.any()


def test_a_seed_decides_the_result_and_leaves_the_random_stream_alone(norm):
    exact, _, x, y = problem(Linear(3))
    model, x = exact.float(), x.float()
    runs = {}
    for seed in (0, 1):
        attack = ProjectedGradient(norm=norm, eps=[1e-3], steps=1, rel_stepsize=0.01, seed=seed)
        torch.manual_seed(0)
        runs[seed] = attack(model, x, y)
        after = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(runs[seed], attack(model, x, y))
        torch.manual_seed(0)
        assert torch.equal(after, torch.rand(1))
    assert not torch.equal(runs[0], runs[1])
    unseeded = ProjectedGradient(norm=norm, eps=[1e-3], steps=1, rel_stepsize=0.01)
    assert not torch.equal(unseeded(model, x, y), unseeded(model, x, y))


def test_labels_tell_what_decides_the_strength():
    assert CarliniWagnerL2().label == "carlini_wagner_l2-1000x9"
    assert CarliniWagnerL2(steps=10, restarts=4, stepsize=0.1).label == "carlini_wagner_l2-10x9-step0.1-r4"
    assert DeepFoolL2().label == "deepfool_l2-50"
    assert DeepFoolL2(steps=9, overshoot=0.1, candidates=None).label == "deepfool_l2-9-overshoot0.1-all"
    assert DeepFoolL2(candidates=3).label == "deepfool_l2-50-top3"
    assert ProjectedGradient(norm=Norm.L2, eps=[1]).label == "pgd_l2-40"
    assert ProjectedGradient(norm=Norm.LINF, eps=1, loss="margin", restarts=2).label == "pgd_linf-40-margin-r2"
    assert FastGradient(norm=Norm.LINF, eps=[0.1]).label == "fgsm_linf"
    assert BoundaryL2().label == "boundary_l2-500"
    assert BoundaryL2(steps=9, directions=3, adapt_every=10).label == "boundary_l2-9-directions3-adapt10"
    signs = FastGradient(norm=Norm.LINF, eps=None, loss="ce")
    line = SmallestDistance(name="line", inner=signs, start=0.01, growth=None, tries=9, bisections=3)
    assert line.label == "line_l2-sign-ce-start0.01-even-tries9-bisections3"
    descent = ProjectedGradient(norm=Norm.L2, eps=None, steps=10, rel_stepsize=0.1)
    assert SmallestDistance(name="s", inner=descent, growth=2).label == "s_l2-10-step0.1-growth2"


def smallest(**settings) -> SmallestDistance:
    return SmallestDistance(**{"name": "line", "inner": FastGradient(norm=Norm.L2, eps=None), **settings})


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: ProjectedGradient(norm="l3", eps=[1]), "norm"),
        (lambda: ProjectedGradient(norm=Norm.L1, eps=[1]), "norm"),
        (lambda: FastGradient(norm="l1", eps=[1]), "norm"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[0.1, -1]), "eps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[math.nan]), "eps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], steps=0), "steps"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], rel_stepsize=0), "rel_stepsize"),
        (lambda: ProjectedGradient(norm=Norm.L2, eps=[1], restarts=2, random_start=False), "restarts"),
        (lambda: FastGradient(norm=Norm.L2, eps=[1], loss="hinge"), "loss"),
        (lambda: FastGradient(norm=Norm.L2, eps=[1], images=0), "images"),
        (lambda: CarliniWagnerL2(batch_size=1.5), "batch_size"),
        (lambda: CarliniWagnerL2(confidence=-1), "confidence"),
        (lambda: DeepFoolL2(steps=0), "steps"),
        (lambda: DeepFoolL2(overshoot=-0.1), "overshoot"),
        (lambda: DeepFoolL2(overshoot=math.inf), "overshoot"),
        (lambda: DeepFoolL2(candidates=1), "candidates"),
        (lambda: DeepFoolL2(candidates=2.5), "candidates"),
        (lambda: DeepFoolL2(batch_size=0), "batch_size"),
        (lambda: DeepFoolL2(images=-1), "images"),
        (lambda: smallest(name="l2"), "name"),
        (lambda: smallest(name="line_l1"), "name"),
        (lambda: smallest(name=""), "name"),
        (lambda: smallest(inner=DeepFoolL2()), "inner"),
        (lambda: smallest(norm=Norm.L1), "norm"),
        (lambda: smallest(start=0.0), "start"),
        (lambda: smallest(start=math.nan), "start"),
        (lambda: smallest(growth=1.0), "growth"),
        (lambda: smallest(tries=0), "tries"),
        (lambda: smallest(bisections=-1), "bisections"),
        (lambda: smallest(images=0), "images"),
        (lambda: smallest()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "line_l2"),
        (lambda: BoundaryL2(steps=0), "steps"),
        (lambda: BoundaryL2(directions=0), "directions"),
        (lambda: BoundaryL2(adapt_every=0), "adapt_every"),
        (lambda: BoundaryL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "boundary_l2"),
        (lambda: DeepFoolL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "deepfool_l2"),
        (lambda: CarliniWagnerL2()(nn.Identity(), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)), "carlini"),
        (lambda: FastGradient(norm=Norm.L2, eps=[])(Linear(), torch.zeros(1, 1, 4, 4), torch.tensor([0])), "eps"),
    ],
)
def test_a_senseless_setting_names_its_key(build, key):
    with pytest.raises(ValueError, match=rf"`(attack\.)?{key}") as caught:
        build()
    assert "\n" not in str(caught.value)


def test_importing_the_attacks_does_not_import_foolbox():
    code = "import sys, lipcert.attacks.deep_fool, lipcert.attacks.boundary, lipcert.attacks.smallest\n"
    code += "import lipcert.attacks.projected_gradient, lipcert.evaluation.attack\n"
    code += "assert 'foolbox' not in sys.modules\n"
    code += "from lipcert.attacks.adapter import load_foolbox; load_foolbox(); assert 'foolbox' in sys.modules"
    environment = {**os.environ, "PATH": ""}  # no git binary either
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


# --- the judge


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(NORMS),
    spread=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    eps=st.lists(st.one_of(st.just(0.0), st.floats(1e-20, 10)), min_size=8, max_size=8),
)
def test_judged_images_are_legal_whatever_the_candidate(seed, norm, spread, eps):
    exact, _, x, y = problem(Linear(3), n=8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    candidate = x + spread * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    candidate[0] = torch.nan
    candidate[1, 0, 0] = torch.tensor([torch.inf, -torch.inf, torch.nan, 2.0])
    radius = torch.tensor(eps, dtype=torch.float64)
    judged = judge(exact, x, y, candidate, norm, radius)
    assert judged.images.dtype == torch.float64 and ((judged.images >= 0) & (judged.images <= 1)).all()
    assert (distance(norm, judged.images, x) <= radius).all()
    assert torch.equal(judged.success, exact(judged.images).argmax(1) != y)
    assert torch.equal(judged.distance.isinf(), ~judged.success)
    assert torch.equal(judged.images[0], x[0])
    free = judge(exact, x, y, candidate, norm).images  # and a legal one is left as it is
    legal = judge(exact, x, y, free, norm, distance(norm, free, x))
    assert torch.equal(legal.images, free)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_a_candidate_that_needs_the_whole_radius(norm):
    exact, _, x, y = problem(Linear(2), n=64)
    fits = exact_distance(exact, x, y, norm) < 0.3  # in l1 a single pixel moves by all of it, and stays in the box
    x, y = x[fits], y[fits]
    assert len(x) >= 16
    least = exact_distance(exact, x, y, norm)
    direction = exact.linear.weight.detach()[1 - y] - exact.linear.weight.detach()[y]
    if norm == Norm.LINF:
        direction = direction.sign()
    if norm == Norm.L1:
        direction = direction * (direction.abs() == direction.abs().amax(1, keepdim=True))
    step = (direction / distance(norm, direction, 0 * direction)[:, None]).reshape(x.shape)
    far = x + step * (3 * least)[:, None, None, None]
    assert judge(exact, x, y, far, norm, least * (1 + 1e-9)).success.all()
    assert not judge(exact, x, y, far, norm, least * (1 - 1e-9)).success.any()


@pytest.mark.parametrize("norm, order", [(Norm.L1, 1), (Norm.L2, 2), (Norm.LINF, np.inf)])
def test_distances_are_the_norms_rounded_up(norm, order):
    a, b = torch.rand(5, 3, 4, 4).double(), torch.rand(5, 3, 4, 4).double()
    expected = np.linalg.norm((a - b).flatten(1).numpy(), ord=order, axis=1)
    found = distance(norm, a, b).numpy()
    assert (found >= expected).all() and np.allclose(found, expected, rtol=1e-13)
    assert not distance(norm, a, a).any()
    difference = [
        [Fraction(p) - Fraction(q) for p, q in zip(*pair, strict=True)]
        for pair in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True)
    ]
    for value, row in zip(found.tolist(), difference, strict=True):
        exact = {1: sum(map(abs, row)), 2: sum(d * d for d in row), np.inf: max(map(abs, row))}[order]
        assert Fraction(value) ** (2 if order == 2 else 1) >= exact


@pytest.mark.parametrize("norm", NORMS)
def test_a_misclassified_clean_image_has_distance_zero(norm):
    exact, _, x, y = problem(Linear(3))
    wrong = (y + 1) % 3
    judged = judge(exact, x, wrong, torch.rand_like(x), norm, 0.5)
    assert judged.success.all() and not judged.distance.any() and torch.equal(judged.images, x)


def test_logits_that_are_not_finite_count_as_misclassified():
    class Explodes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([1 / (x.flatten(1).amax(1) - 1), -x.flatten(1).sum(1)], 1).abs() * torch.tensor([1.0, 0])

    x, y = torch.full((2, 1, 2, 2), 0.5).double(), torch.tensor([0, 0])
    candidate = x.clone()
    candidate[1, 0, 0, 0] = 1.0
    assert judge(Explodes().eval(), x, y, candidate, Norm.L2).success.tolist() == [False, True]


def test_the_judge_refuses_what_it_cannot_judge():
    exact, _, x, y = problem(Linear(3))
    for call, key in (
        (lambda: judge(lambda images: exact(images).float(), x, y, x, Norm.L2), "answer"),
        (lambda: judge(exact, x, y, x[:3], Norm.L2), "candidate"),
        (lambda: judge(exact, x + 1, y, x, Norm.L2), "x"),
        (lambda: judge(exact, x, y, x, Norm.L2, -0.1), "eps"),
    ):
        with pytest.raises(ValueError, match=f"`{key}`"):
            call()


# --- the loop


def attack_images(attack, network, exact, images, y, *, append, done=frozenset(), certified, norm, folder) -> None:
    proved = [Proved(norm, "pairwise", certified)] if certified else []
    loop = Attacking(
        attack=attack,
        network=network,
        exact=exact,
        images=images[: attack.images],
        labels=y,
        proved=proved,
        directory=RunDirectory(folder.parent),
    )
    loop.run([None] if attack.eps is None else attack.eps, append=append, done=done)


def loop(attack, model, images, y, tmp_path, *, certified=None, norm=Norm.L2, done=frozenset()) -> list[AttackRow]:
    rows: list[AttackRow] = []
    attack_images(
        attack,
        deepcopy(model).float(),
        model,
        images,
        y,
        append=rows.extend,
        done=done,
        certified=certified or {},
        norm=norm,
        folder=tmp_path / "counterexamples",
    )
    return rows


def test_a_row_for_every_image_and_eps(tmp_path):
    exact, images, x, y = problem(Linear(3), n=11)
    y[3] = (y[3] + 1) % 3
    least = exact_distance(exact, x, y, Norm.L2)
    radii = [0.0, 0.02, 1.0]
    rows = loop(ProjectedGradient(norm=Norm.L2, eps=radii, batch_size=4, seed=0), exact, images, y, tmp_path)
    assert [(r.index, r.eps) for r in rows] == [(i, eps) for eps in radii for i in range(11)]
    for row in rows:
        assert row.success == math.isfinite(row.distance)
        assert row.distance == 0 if row.index == 3 else row.distance >= least[row.index]
    assert all(r.success == (r.index == 3) for r in rows if r.eps == 0) and all(r.success for r in rows if r.eps == 1)
    few = loop(FastGradient(norm=Norm.L2, eps=[0.1], images=5), exact, images, y, tmp_path)
    assert [r.index for r in few] == list(range(5))


def test_a_killed_attack_resumes_by_image_with_the_same_rows(tmp_path):
    exact, images, _, y = problem(Linear(3), n=11)
    attack = ProjectedGradient(norm=Norm.L2, eps=[0.03, 0.1], steps=2, batch_size=4, seed=0)
    whole = loop(attack, exact, images, y, tmp_path)
    kept = whole[:15]  # killed after the first batch of the second radius
    rest = loop(attack, exact, images, y, tmp_path, done={(r.index, r.eps) for r in kept})
    assert kept + rest == whole
    assert not loop(attack, exact, images, y, tmp_path, done={(r.index, r.eps) for r in whole})
    least = CarliniWagnerL2(steps=5, binary_search_steps=1)
    assert not loop(least, exact, images, y, tmp_path, done={(i, None) for i in range(11)})


@pytest.mark.parametrize(
    "attack, certified_norm",
    [
        (ProjectedGradient(norm=Norm.L2, eps=[0.5], seed=0, batch_size=8), Norm.L2),
        (ProjectedGradient(norm=Norm.LINF, eps=[0.2], seed=0, batch_size=8), Norm.LINF),
        (FastGradient(norm=Norm.LINF, eps=[0.1], batch_size=8), Norm.L2),  # found in one norm, certified in another
        (CarliniWagnerL2(steps=50, binary_search_steps=5, batch_size=8), Norm.L2),
        (DeepFoolL2(batch_size=8), Norm.L2),
        (SmallestDistance(name="line", inner=FastGradient(norm=Norm.L2, eps=None), batch_size=8), Norm.L2),
        (BoundaryL2(steps=50, batch_size=8, seed=0), Norm.L2),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_a_false_certificate_is_caught_and_a_true_one_is_not(attack, certified_norm, tmp_path):
    exact, images, x, y = problem(Linear(3), n=12)
    least = exact_distance(exact, x, y, certified_norm)
    true = {i: d * (1 - 1e-12) for i, d in enumerate(least.tolist())}
    honest = loop(attack, exact, images, y, tmp_path, certified=true, norm=certified_norm)
    assert len(honest) == 12 and any(r.success for r in honest) and not (tmp_path / "counterexamples").exists()

    found = next(r.index for r in honest[8:] if r.success)
    false = {**true, found: 10.0}
    rows: list[AttackRow] = []
    arguments = {
        "append": rows.extend,
        "certified": false,
        "norm": certified_norm,
        "folder": tmp_path / "counterexamples",
    }
    with pytest.raises(CertificateBroken, match=f"image {found}: {attack.label} .*10.0") as caught:
        attack_images(attack, deepcopy(exact).float(), exact, images, y, **arguments)
    assert rows == honest  # the rows of the broken batch were appended first
    file = tmp_path / "counterexamples" / f"{attack.label}-{found}.npz"
    assert str(file) in str(caught.value)
    with np.load(file) as kept:
        x_adv = torch.from_numpy(kept["x_adv"])[None]
        assert np.array_equal(kept["x"], x[found]) and int(kept["label"]) == y[found]
        assert exact(x_adv).argmax(1).item() == int(kept["prediction"]) != y[found]
        assert float(kept["distance"]) == distance(certified_norm, x_adv, x[found][None]).item() <= kept["radius"]

    done = {(r.index, r.eps) for r in rows}  # a resumed run has nothing to attack, yet can't walk past the failure
    with pytest.raises(CertificateBroken, match=f"image {found}: {attack.label}"):
        attack_images(attack, deepcopy(exact).float(), exact, images, y, done=done, **arguments)
    attack_images(attack, deepcopy(exact).float(), exact, images, y, done=done, **{**arguments, "certified": true})


def test_a_certificate_for_a_misclassified_clean_image_is_broken(tmp_path):
    exact, images, _, y = problem(Linear(3), n=4)
    y[2] = (y[2] + 1) % 3
    attack = FastGradient(norm=Norm.L2, eps=[0.0])
    assert len(loop(attack, exact, images, y, tmp_path, certified={2: 0.0, 1: 5.0})) == 4
    with pytest.raises(CertificateBroken, match=r"image 2: .* distance 0\.0"):
        loop(attack, exact, images, y, tmp_path, certified={2: 1e-9})


def test_every_attack_of_the_configuration_builds():
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(
        name="attacks_only",
        node={"defaults": [{"attack": "none"}, "_self_"], "eps": [0.1], "seed": 3},
    )
    with initialize_config_module("lipcert.conf", version_base="1.3"):
        assert not compose("attacks_only").get("attack")
        searches = ("smallest_fgsm", "smallest_gradient", "smallest_ifgsm", "smallest_pgd_l2", "boundary_l2")
        for name in ("fgsm", "pgd_l2", "pgd_linf", "pgd_linf-20", "carlini_wagner_l2", "deepfool_l2", *searches):
            config = compose("attacks_only", overrides=[f"attack={name}", "attack.images=7"])
            attack = build(plain(config)["attack"])
            assert attack.images == 7 and isinstance(attack.norm, Norm) and attack_norm(attack.label) is attack.norm
            assert attack.label.startswith(name.removesuffix("_linf"))
        steps = compose("attacks_only", overrides=["attack=carlini_wagner_l2", "attack.steps=17"])
        assert build(plain(steps)["attack"]).label == "carlini_wagner_l2-17x9"
