"""`model=l2nnn_recurrent`: it reads rows, expands nothing, rounds as its bound says, and goes through every command."""

import pytest
import torch
from commandline import attacked, certified, lipcert
from test_layers import jacobian

from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.layers import NonexpansiveRNN
from lipcert.models.l2nnn_recurrent import L2NNNRecurrent, Rows, remember_rows

SHAPE = (2, 5, 3)


def network(readout: str, wild: float = 0.5, **options) -> L2NNNRecurrent:
    net = L2NNNRecurrent(input_shape=SHAPE, num_classes=4, **{"hidden": 9} | options, readout=readout)
    for p in net.parameters():
        p.data += wild * torch.randn_like(p)
    return net.double().eval()


def test_a_step_reads_a_row():
    x = torch.rand(4, *SHAPE)
    rows = Rows()(x)
    assert rows.shape == (4, 5, 6)
    assert torch.equal(rows[:, 2], x[:, :, 2].flatten(1))


@pytest.mark.parametrize("readout", ["all", "last"])
@pytest.mark.parametrize("wild", [0.0, 0.5])
def test_each_logit_moves_no_faster_than_1_and_is_frozen_as_it_is(readout, wild):
    net = network(readout, wild)
    frozen = freeze(net, SHAPE)
    x = torch.rand(6, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(frozen(x), net(x), rtol=1e-12, atol=1e-12)
    found = pair_bounds(Walk(frozen, Norm.L2))
    assert (found.of_logits <= 1 + 1e-9).all()
    rows = torch.stack([jacobian(lambda v, at=at: net(v + at), SHAPE, 0.0) for at in x])
    assert (rows.norm(dim=2) <= found.of_logits * (1 + 1e-12)).all()
    step = 1e-5 * rows[0, 0] / rows[0, 0].norm()  # a real movement, in the direction that moves the first logit most
    moved = (net(x[:1] + step.view(1, *SHAPE)) - net(x[:1])).detach()
    assert float(moved[0, 0].abs()) <= 1e-5 * float(found.of_logits[0]) * (1 + 1e-9)
    assert float(moved[0, 0].abs()) == pytest.approx(1e-5 * float(rows[0, 0].norm()), rel=1e-2)


def test_at_the_start_the_state_holds_the_last_rows_so_that_the_bound_is_reached():
    cell = NonexpansiveRNN(6, 30, t=0.6).double()
    remember_rows(cell.cell.linear.weight, 6, noise=0.0)
    x = torch.rand(1, 5, 6, dtype=torch.float64)
    values = cell(x)
    torch.testing.assert_close(values[:, 2, :6], 0.6 * x[:, 2])  # cos of what step 3 has read
    state = values[0, -1, :30].view(5, 6)
    torch.testing.assert_close(state, x[0].flip(0) * 0.8 ** torch.arange(1, 6).double()[:, None])
    matrix = torch.autograd.functional.jacobian(lambda v: cell(v).flatten(), x).reshape(-1, 30)
    torch.testing.assert_close(
        matrix.T @ matrix, torch.eye(30, dtype=torch.float64)
    )  # an isometry of all that it reads
    small = NonexpansiveRNN(6, 4)
    before = small.cell.linear.weight.clone()
    remember_rows(small.cell.linear.weight, 6)
    assert torch.equal(small.cell.linear.weight, before)


@pytest.mark.parametrize(("steps", "hidden"), [(3, 4), pytest.param(28, 16, marks=pytest.mark.slow)])
def test_rounding_errors_stay_below_a_bound_that_does_not_grow_with_every_step(steps, hidden):
    """Dense weights: the norm of |W| is about √hidden, whose power would have made the bound useless."""
    for seed in range(4):
        torch.manual_seed(seed)
        net = NonexpansiveRNN(5, hidden, t=0.3)
        net.cell.linear.bias.data.normal_(std=0.1)
        operation = freeze(torch.nn.Sequential(net, torch.nn.Flatten()), (steps, 5)).operations[0]
        single = operation.to(dtype=torch.float32, device="cpu")
        same = single.to(dtype=torch.float64, device="cpu")
        x = torch.randn(50, steps, 5) * torch.logspace(-3, 2, 50)[:, None, None]
        errors = (single.evaluate(x).double() - same.evaluate(x.double())).flatten(1).norm(dim=1)
        lengths = x.double().flatten(1).norm(dim=1)
        bound = same.rounded_in_norm(FLOAT32, Norm.L2, lengths)
        assert errors.max() > 0 and (errors <= bound).all()
        assert (bound < 0.05 * (1 + lengths)).all()
        assert (same.rounded_in_norm(FLOAT64, Norm.L2, lengths) < 1e-9 * (1 + lengths)).all()
        assert same.rounded_in_norm(FLOAT32, Norm.LINF, 1.0) == float("inf")


WRONG = [
    ({"hidden": 0}, "`model.hidden` must be at least 1, got 0"),
    ({"t": 1.5}, r"`model.t` must lie in \[0, 1\], got 1.5"),
    ({"readout": "mean"}, "`model.readout` must be all or last, got 'mean'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_does_not_fit_is_an_error_that_names_the_key(options, message):
    with pytest.raises(ValueError, match=message):
        network(**{"readout": "all"} | options)


@pytest.mark.slow
def test_it_is_trained_certified_attacked_exported_and_verified(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "net"
    small = ("dataset.subset=600", "schedule.epochs=2", "trainer=cpu", "model.hidden=24", "seed=1")
    commands = (
        ("train", "model=l2nnn_recurrent", "dataset=digits", "attack=none", *small, f"output_dir={run}"),
        ("certify", f"run={run}"),
        ("attack", f"run={run}", "attack=pgd_l2", "attack.images=20", "attack.steps=3", "eps=certified"),
        ("export", f"run={run}", "format=folder", f"output_dir={out}"),
        ("verify", str(out)),
    )
    for command in commands:
        told = lipcert(capsys, *command)
        assert told.status == 0, (command, told)
    rows = certified(run)
    assert sum(row.radius > 0.05 for row in rows) > len(rows) / 3
    assert all(row.radius_float32 > 0.9 * row.radius for row in rows if row.radius > 0.05)
    tried = [row for row in attacked(run) if row.factor]
    assert tried and not any(row.success for row in tried)  # none inside its radius
