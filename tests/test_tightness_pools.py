"""Pooling layers in the tightness analysis: bounds of known layers, and what a network with pooling is listed with."""

import math

import pytest
import torch
from torch import nn

from lipcert.analyses.tightness.figures import tightness_figure
from lipcert.analyses.tightness.layer_bounds import layer_bounds
from lipcert.analyses.tightness.pools import panel, pool_bounds, pools_in
from lipcert.analyses.tightness.rows import TightnessRow
from lipcert.analyses.tightness.tables import layer_table, pool_table
from lipcert.errors import CertificateBroken
from lipcert.frozen import freeze
from lipcert.frozen.ops.pooling import MaxPool
from lipcert.layers.pooling import NormPool2d

ROW = TightnessRow("test", 0, 1, 1, 2.0, 1.0, 1.5, 1.6, 2.0)
KEYS = ("proved", "corollary1", "parseval", "peck", "reached")


def bounds(layer: nn.Module, side: int = 8) -> dict[str, float]:
    """Of the one pooling layer of a network that begins with `layer`, on images of 1 x side x side."""
    entries = layer(torch.zeros(1, 1, side, side, dtype=torch.float64)).numel()
    head = nn.Linear(entries, 3).double()
    found = freeze(nn.Sequential(layer, nn.Flatten(), head), (1, side, side))
    ((first, last),) = pools_in(found)
    return pool_bounds(found, first, last)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MaxPool2d(2), (1, 1, 2, 4, 1)),
        (nn.MaxPool2d(3, 1), (3, 3, 3, 6, 3)),
        (nn.MaxPool2d(3, 2, 1), (2, 2, 3, 4, 2)),
        (nn.AvgPool2d(2), (0.5, 0.5, 1, 2, 0.5)),
        (nn.AdaptiveAvgPool2d(1), (1 / 8, 1 / 8, 1, 1 / 8, 1 / 8)),
        (nn.AdaptiveMaxPool2d(4), (1, 1, 2, 4, 1)),
        (NormPool2d(2), (1, 1, 2, 4, 1)),
        (NormPool2d(3, 1), (1, 1, 1, 2, 1)),
    ],
)
def test_bounds_of_pooling_are_those_of_the_formulas(layer, expected):
    found = bounds(layer.double())
    assert [found[key] for key in KEYS] == pytest.approx(expected, rel=1e-6)


def test_overlapping_averages_are_proved_below_theorem_3_and_above_what_is_reached():
    found = bounds(nn.AvgPool2d(3, 1).double())
    assert found["reached"] < found["proved"] < found["corollary1"] == pytest.approx(1)
    assert found["corollary1"] <= found["parseval"] * (1 + 1e-9)


def test_the_panel_is_of_windows_of_two_over_the_input():
    largest, average = panel((1, 28, 28))
    assert [largest[key] for key in KEYS] == pytest.approx([1, 1, 2, 14, 1])
    assert [average[key] for key in KEYS] == pytest.approx([0.5, 0.5, 1, 7, 0.5])
    assert [row["proved"] for row in panel((3, 7, 9))] == pytest.approx([1, 0.5])
    assert panel((10,)) == [] == panel((1, 1, 8))


def test_a_network_lists_its_pooling_among_its_layers():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(2, 3)
    )
    network = freeze(net.double(), (1, 8, 8))
    rows = layer_bounds(network)
    assert [("reached" in row) for row in rows] == [False, True, True, False, False]
    *layers, whole = rows
    assert whole["proved"] == pytest.approx(math.prod(row["proved"] for row in layers))
    assert [row["upto"] for row in rows] == pytest.approx(
        [math.prod(row["proved"] for row in layers[: i + 1]) for i in range(4)] + [whole["proved"]]
    )
    for table in (layer_table(rows), pool_table(panel((1, 8, 8)))):
        assert table.row_count in (2, 5)
    assert len(tightness_figure([ROW], rows, "deepfool_l2", "pooling", panel((1, 8, 8))).axes) == 4


def test_a_rule_that_proves_too_little_is_found_out(monkeypatch):
    monkeypatch.setattr(MaxPool, "lipschitz", lambda self, walk, number, part: 0.9)
    with pytest.raises(CertificateBroken, match=r"moves 1\.0 times as far as its input, above the 0\.9 proved"):
        panel((1, 8, 8))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), NormPool2d(3, 2)])
def test_no_pair_of_inputs_moves_farther_than_any_bound(layer):
    found, pool = bounds(layer.double()), layer.double()
    x, y = torch.randn(2, 500, 1, 8, 8, dtype=torch.float64)
    apart = (x - y).flatten(1).norm(dim=1)
    moved = float(((pool(x) - pool(y)).flatten(1).norm(dim=1) / apart).max())
    assert moved <= min(found[key] for key in KEYS[:-1]) * (1 + 1e-9)
