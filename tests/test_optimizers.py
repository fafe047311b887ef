"""Muon steps in all directions at once, and retraction keeps a layer where its constraint costs nothing.

LpAdamW decays the norm that a layer computes in.
"""

from functools import partial

import pytest
import torch
from torch import nn

from lipcert.layers import BranchLinear, NonexpansiveConv2d, NonexpansiveLinear, UnitRowsLinear
from lipcert.optimizers.lp_adamw import LpAdamW, norm_gradient
from lipcert.optimizers.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 5, 5), (2, 8, 3)])
def test_orthogonalised_steps_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), 8))
    assert values.min() > 0.5 and values.max() < 1.3
    g = torch.randn(shape)
    torch.testing.assert_close(orthogonalise(g, 5), orthogonalise(100 * g, 5), rtol=1e-3, atol=1e-3)


def test_it_minimises_and_resumes_bit_for_bit():
    def train(steps, state=None):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
        optimizer = Muon(model.parameters(), lr=0.02)
        if state:
            model.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        x, y = torch.randn(32, 1, 4, 4), torch.randint(0, 3, (32,))
        losses = []
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses, (model.state_dict(), optimizer.state_dict())

    whole, _ = train(60)
    first, state = train(25)
    second, _ = train(35, state)
    assert whole == first + second
    assert whole[-1] < 0.7 * whole[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: NonexpansiveLinear(8, 5),
        lambda: NonexpansiveLinear(5, 8),
        lambda: BranchLinear(3, 6, 4),
        lambda: NonexpansiveConv2d(4, 6, 3, groups=2),
    ],
)
def test_retraction_makes_the_gram_bound_tight(make):
    layer = make()
    layer.weight.data += 0.05 * torch.randn_like(layer.weight)
    for _ in range(4):
        layer.retract()
    torch.testing.assert_close(layer.scale(), torch.ones_like(layer.scale()), rtol=1e-5, atol=1e-5)
    assert (torch.linalg.matrix_norm(layer.matrices(), 2) <= 1 + 1e-5).all()


def test_retraction_of_unit_rows_changes_no_answer():
    layer, x = UnitRowsLinear(6, 4), torch.randn(3, 6)
    layer.weight.data *= torch.tensor([[0.5], [1.0], [3.0], [2.0]])
    before = layer(x)
    layer.retract()
    torch.testing.assert_close(layer(x), before)
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(4))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        Muon([nn.Parameter(torch.zeros(2))], lr=-1.0)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0, 8.0, 100.0])
def test_the_decay_is_the_gradient_of_half_the_squared_norm(p):
    w = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    norms = torch.linalg.vector_norm(w.flatten(1), ord=p, dim=1)
    (expected,) = torch.autograd.grad(norms.square().sum() / 2, w)
    torch.testing.assert_close(norm_gradient(w.detach(), p), expected, rtol=1e-5, atol=1e-8)


def test_at_infinity_only_the_largest_entry_of_a_row_decays():
    w = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.25, 0.0]])
    assert norm_gradient(w, torch.inf).tolist() == [[0, -3, 0], [0.5, 0, 0]]
    torch.testing.assert_close(norm_gradient(w, 1e5), norm_gradient(w, torch.inf), rtol=1e-3, atol=1e-6)
    for scale in (1e-20, 1e15):  # no p over- or underflows
        assert norm_gradient(w * scale, 1000.0).isfinite().all()


def stepped(make, p: float | None, steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    if p is not None:
        weight.p = p
    optimizer = make([weight, bias])
    for _ in range(steps):
        optimizer.zero_grad()
        (weight.square().sum() / 10 + bias.exp().sum()).backward()
        optimizer.step()
    return [weight.detach(), bias.detach()]


def test_lp_adamw_is_adamw_at_p_2_and_follows_p():
    settings = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-10, "weight_decay": 0.5}
    plain = stepped(lambda params: torch.optim.AdamW(params, **settings), None)
    ours = partial(LpAdamW, **settings)
    for weights in (stepped(ours, None), stepped(ours, 2.0), stepped(partial(ours, follow_p=False), 8.0)):
        torch.testing.assert_close(weights, plain)
    followed = stepped(ours, 8.0)
    assert (followed[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(followed[1], plain[1])  # a bias decays by itself
    without = stepped(partial(LpAdamW, **settings | {"weight_decay": 0.0}), 8.0)
    adam = stepped(lambda params: torch.optim.Adam(params, lr=0.02, betas=(0.9, 0.99), eps=1e-10), None)
    torch.testing.assert_close(without, adam)


def test_lp_adamw_refuses_a_negative_decay():
    with pytest.raises(ValueError, match="`optimizer.weight_decay`"):
        LpAdamW([nn.Parameter(torch.zeros(2))], weight_decay=-1.0)
