"""The example that builds Theorem 4.1's net: it is as near to its function as it says, and 1-Lipschitz."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import lipcert

EXAMPLE = Path(__file__).parent.parent / "examples" / "universal_approximation.py"


def example():
    spec = importlib.util.spec_from_file_location("universal_approximation", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steep(x):
    """1-Lipschitz, with slope 1 nearly everywhere, and kinks."""
    return (x - 0.3).abs().amax(1).clamp_max(0.5)


@pytest.mark.parametrize(("dimension", "points"), [(1, 5), (2, 4), (3, 2)])
@pytest.mark.parametrize("name", ["waves", "steep"])
def test_the_net_is_within_its_bound_of_the_function(name, dimension, points):
    module = example()
    f = module.waves if name == "waves" else steep
    net = module.approximation(f, dimension, points)
    x = torch.rand(5000, dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        error = (net(x)[:, 0] - f(x)).abs()
    assert 0 < float(error.max()) <= 1 / (2 * points) + 1e-12
    assert all(layer.weight.shape[0] <= dimension + 2 for layer in net)
    bound = lipcert.lipschitz_bound(nn.Sequential(nn.Flatten(), net), (1, 1, dimension), norm="linf")
    assert 1 <= bound.vector <= 1 + 1e-9


def test_it_is_run_as_its_first_lines_say(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["universal_approximation.py", "--points", "3"])
    example().main()
    points, layers, width, error, bound, lipschitz = capsys.readouterr().out.splitlines()[1].split()
    assert (points, layers, width) == ("9", "19", "4") and float(error) <= float(bound) == 0.1667
    assert float(lipschitz) == 1.0
