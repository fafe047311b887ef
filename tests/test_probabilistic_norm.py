"""The example on LMT's Theorem 2: starts of random vectors can end below the norm, and proofs rest on none of them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import lipcert

EXAMPLE = Path(__file__).parent.parent / "examples" / "probabilistic_norm.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("probabilistic_norm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(tmp_path):
    """A classifier of one linear layer whose singular values are 3 and nine times 2.4."""
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(10, 10))[0], torch.linalg.qr(torch.randn(64, 10))[0]
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(left @ torch.diag(torch.tensor([3.0] + [2.4] * 9)) @ right.T)
    net = lipcert.freeze(nn.Sequential(nn.Flatten(), linear), (1, 8, 8), norm="l2")
    net.save(tmp_path / "net")
    return net, right


def test_some_starts_end_below_the_norm_and_none_of_many_iterations_does(example, tmp_path):
    net, right = saved(tmp_path)
    walk = example.Layers(net.network, net.network.norm)
    walk.constant(len(net.network.operations))
    ((operator, norm),) = walk.layers
    assert float(norm) == pytest.approx(3, rel=1e-5)
    starts = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)).double()
    few, many = example.values(operator, starts, [12, 300])
    assert 0 < float((few < 2.99).double().mean()) < 0.8  # the theorem allows 80 %
    assert float(many.min()) == pytest.approx(3, rel=1e-5) and float(many.max()) == pytest.approx(3, rel=1e-5)
    aside = starts - (starts @ right[:, :1].double()) @ right[:, :1].double().T
    (stuck,) = example.values(operator, aside[:50], [12])
    assert float(stuck.max()) < 2.5  # stands still at the second singular value


def test_it_is_run_as_its_first_lines_say(example, capsys, monkeypatch, tmp_path):
    saved(tmp_path)
    given = ["probabilistic_norm.py", str(tmp_path / "net"), "--starts", "200", "--iterations", "12", "300"]
    monkeypatch.setattr("sys.argv", given)
    example.main()
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["64", "->", "10"] and second.split()[4] == "300"
    assert float(second.split()[-1]) == pytest.approx(1, abs=1e-5)
