"""Schedules are pure functions of progress, and reach exactly what they drive."""

import math

import pytest
import torch
from torch import nn

from lipcert.layers import NonexpansiveLinear
from lipcert.losses.l2nnn import L2NNNLoss
from lipcert.schedules import Constant, Cosine, Exponential, Linear, Milestones, Schedule, Step

RAMPS = {
    "constant": (Constant("loss.omega", 2.0), [(0, 2.0), (10, 2.0)]),
    "step": (Step("model.strict", at=0.5), [(0, 0.0), (4.999, 0.0), (5, 1.0), (10, 1.0)]),
    "linear": (Linear("loss.omega", 0.0, 3.0, over=0.5), [(0, 0.0), (2.5, 1.5), (5, 3.0), (10, 3.0)]),
    "cosine": (Cosine("optimizer.lr"), [(0, 1.0), (5, 0.5), (10, 0.0), (11, 0.0)]),
    "warm": (Cosine("optimizer.lr", warmup=0.2), [(0, 0.0), (1, 0.5), (2, 1.0), (6, 0.5), (10, 0.0)]),
    "restart": (
        Cosine("optimizer.lr", restart_at=0.5, restart_value=0.4),
        [(0, 1.0), (2.5, 0.5), (5, 0.4), (7.5, 0.2)],
    ),
    "milestones": (Milestones("optimizer.lr", [3, 6], 0.1), [(0, 1.0), (3, 0.1), (6, 0.01)]),
}


@pytest.mark.parametrize("name", RAMPS)
def test_ramps(name):
    ramp, points = RAMPS[name]
    for epoch, value in points:
        assert ramp(epoch, 10) == pytest.approx(value, abs=1e-12)


def test_a_schedule_sets_what_it_drives_and_can_be_applied_twice():
    model = nn.Sequential(NonexpansiveLinear(2, 2), nn.ReLU(), NonexpansiveLinear(2, 2))
    loss = L2NNNLoss(num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = Schedule(
        epochs=10,
        strict=Step("model.strict", 0.5),
        omega=Linear("loss.omega", 0.0, 1.0),
        lr=Cosine("optimizer.lr"),
        off=None,
    )
    for _ in range(2):
        schedule.apply(5, model=model, loss=loss, groups=optimizer.param_groups)
        assert [model[0].strict, model[2].strict] == [1.0, 1.0] and loss.omega == 0.5
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    schedule.apply(0, model=model)  # certifying: no loss, no optimizer
    assert model[0].strict == 0.0
    assert schedule.values(5) == {"strict": 1.0, "omega": 0.5, "lr": 0.5}


def test_a_ramp_that_drives_nothing_is_an_error():
    schedule = Schedule(epochs=1, strict=Step("model.strict", 0.5))
    with pytest.raises(ValueError, match="choose another `schedule`"):
        schedule.apply(0, model=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="optimizer.KEY"):
        Constant("lr", 1.0)
    with pytest.raises(ValueError, match="at least 0"):
        Schedule(epochs=-1)


def test_the_p_of_the_paper():
    """p is 8 for 50 epochs, 8·125^(t/300) for 300, infinite for 50 (ICML 2021, table 6)."""
    ramp = Exponential("model.p", 8.0, 1000.0, begin=50 / 400, finish=350 / 400, after=math.inf)
    assert [ramp(t, 400) for t in (0, 49.99, 50)] == [8, 8, 8]
    assert ramp(200, 400) == pytest.approx(8 * 125**0.5)
    assert ramp(349.9, 400) == pytest.approx(8 * 125 ** (299.9 / 300))
    assert ramp(350, 400) == ramp(400, 400) == math.inf
    assert Exponential("loss.weight", 0.05, 2e-4)(5, 10) == pytest.approx((0.05 * 2e-4) ** 0.5)
    assert Exponential("loss.weight", 0.05, 2e-4, finish=0.5)(9, 10) == 2e-4
    assert Exponential("model.p", 8, 1000, after=math.inf)(0, 0) == math.inf


def test_the_learning_rate_of_the_paper():
    """Held until p begins to grow, then half a cosine to zero."""
    ramp = Cosine("optimizer.lr", hold=50 / 400)
    assert ramp(0, 400) == ramp(50, 400) == 1
    assert ramp(225, 400) == pytest.approx(0.5)
    assert ramp(100, 400) == pytest.approx(0.5 * (1 + math.cos(math.pi * 50 / 350)))
    assert ramp(400, 400) == pytest.approx(0)


@pytest.mark.parametrize("bad", [{"begin": 0.6, "finish": 0.4}, {"finish": 2.0}, {"start": 0.0}])
def test_exponential_refuses_what_makes_no_sense(bad):
    with pytest.raises(ValueError, match=r"schedule\.\.\."):
        Exponential("model.p", **{"start": 8.0, "end": 1000.0} | bad)
