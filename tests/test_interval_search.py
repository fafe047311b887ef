"""The search for the largest eps whose margin is above 0."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lipcert.certificates.interval import Search

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "line": lambda d: d,
    "root": lambda d: d.sign() * d.abs().sqrt(),
    "cube": lambda d: d**3,
    "step": lambda d: torch.where(d > 0, 1.0, -1e-9),
    "cliff": lambda d: torch.where(d > 0, 1e-9, -torch.inf),
    "exponential": lambda d: torch.expm1(40 * d),
    "bend": lambda d: torch.where(d > 0, d, 1e6 * d),
}


@pytest.mark.parametrize("start", [1e-6, 1 / 16, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_ends_within_the_tolerance_below_the_end_and_never_above(shape, start):
    g = torch.Generator().manual_seed(0)
    end = torch.rand(200, generator=g, dtype=torch.float64) ** 3
    low = end * torch.rand(200, generator=g, dtype=torch.float64)
    low[:3], end[:3] = torch.tensor([0.0, 0.2, 0.5]), torch.tensor([0.0, 0.2, 2.0])  # nothing; no more; more than all
    high = torch.where(low > 0, 1.0, 0.0).to(low)
    guess = torch.full_like(low, start)
    search, steps = Search(low, high, 1e-6, guess, guess), 0
    while len(todo := search.todo()):
        eps = search.next(todo)
        assert (eps >= search.low[todo]).all() and (eps <= search.high[todo]).all()
        search.tell(todo, eps, SHAPES[shape](end[todo] - eps), torch.zeros_like(eps))
        steps += 1
    due = torch.minimum(end, high)
    assert (search.low <= due).all() and (search.low >= due - 1e-6).all() and steps < 80
    assert shape != "line" or steps <= 15


def test_a_good_guess_takes_few_steps():
    end = torch.linspace(0.01, 0.9, 50, dtype=torch.float64)
    guess = end * (1 + 1e-6 * torch.linspace(-1, 1, 50))
    search, steps = Search(torch.full_like(end, 1e-7), torch.ones_like(end), 1e-6, guess, 2e-5 * guess), 0
    while len(todo := search.todo()):
        eps = search.next(todo)
        search.tell(todo, eps, torch.expm1(40 * (end[todo] - eps)), torch.zeros_like(eps))
        steps += 1
    assert steps <= 4 and ((end - search.low).abs() <= 1e-6).all()


def test_what_is_known_of_the_slope_counts():
    """A line of slope −1 that ends at 0.7: half of each margin is known to be left."""

    def one(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    first, end = torch.tensor([0]), 0.7
    search = Search(one(0.1), one(1.0), 1e-6, one(0.1), one(0.1))
    search.tell(first, one(0.1), one(end - 0.1), one((end - 0.1) / 2))
    assert math.isclose(float(search.low), 0.4) and float(search.low) <= 0.4
    at = search.next(first)
    assert math.isclose(float(at), 0.5)
    search.tell(first, one(0.8), one(end - 0.8), one((end - 0.8) / 2))
    assert math.isclose(float(search.high), 0.75)
