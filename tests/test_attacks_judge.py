"""The judge makes every candidate legal, and classifies and measures it again."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_problem import Linear, exact_distance, problem
from torch import Tensor, nn

from lipcert.attacks.judge import distance, judge
from lipcert.contracts import Norm

NORMS = list(Norm)


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
