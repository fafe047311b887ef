"""Carlini and Wagner's attack in l_inf: as close as the best of the others, exact where the distance is known."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from commandline import TINY, lipcert
from configurations import composed
from linear_problem import Linear, exact_distance, problem
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lipcert.attacks.carlini_wagner_linf import CarliniWagnerLinf
from lipcert.attacks.fast_minimum_norm import FastMinimumNorm
from lipcert.attacks.judge import distance, judge
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.smallest import SmallestDistance
from lipcert.configuration import build
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.models.linf_dist import LinfDist
from lipcert.runs.directory import RunDirectory

LINF = Norm.LINF
QUICK = {"steps": 30, "initial_const": 0.01}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network in float64 that is trained on digits, 20 other images and its own answers to them."""
    data = load_digits()
    images, labels = torch.tensor(data.images / 16)[:, None], torch.tensor(data.target)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(64, 10)).double()
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        batch = torch.randint(0, 1500, (128,), generator=generator)
        adam.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        adam.step()
    x = images[1500:1520]
    return model.eval(), x, model(x).argmax(1)


def test_it_comes_as_close_as_the_best_of_the_others(digits):
    model, x, y = digits
    descent = ProjectedGradient(norm=LINF, eps=None, loss="margin", rel_stepsize=0.1, random_start=False)
    others = [
        FastMinimumNorm(norm=LINF, seed=0),
        SmallestDistance(name="pgd", norm=LINF, inner=descent, start=0.05, bisections=8),
    ]
    single = deepcopy(model).float()

    def found(attack) -> Tensor:
        return judge(model, x, y, attack(single, x.float(), y), LINF).distance

    best = torch.stack([found(attack) for attack in others]).amin(0)
    ratio = found(CarliniWagnerLinf(**QUICK)) / best
    assert ratio.median() <= 1.03 and ratio.quantile(0.75) <= 1.06


@pytest.mark.parametrize(
    "dtype, scale",
    [
        pytest.param(torch.float64, 1.0, marks=pytest.mark.slow),
        (torch.float32, 1e9),
        pytest.param(torch.float32, 1e-9, marks=pytest.mark.slow),
    ],
)
def test_the_distance_of_a_plane_is_found(dtype, scale):
    exact, _, x, y = problem(Linear(2, scale), n=8)
    attack = CarliniWagnerLinf(steps=100, initial_const=0.01)
    judged = judge(exact, x, y, attack(deepcopy(exact).to(dtype), x.to(dtype), y), LINF)
    ratio = judged.distance / exact_distance(exact, x, y, LINF)
    assert (ratio >= 1).all() and (ratio <= 1.01).all()


def test_nothing_is_found_within_a_certified_radius():
    torch.manual_seed(0)
    network = LinfDist(input_shape=(1, 8, 8), num_classes=4, depth=2, width=16).eval()
    exact = freeze(network, (1, 8, 8), norm=LINF)
    x = torch.randint(0, 256, (20, 1, 8, 8)).double() / 255
    y = exact(x).argmax(1)
    radius = build(composed("model=linf_dist")["certificate"])(exact).judge(x, y).radius
    found = judge(exact, x, y, CarliniWagnerLinf(**QUICK)(exact.to(dtype=torch.float32), x.float(), y), LINF)
    assert (radius > 0).sum() >= 15 and found.success.sum() >= 10
    assert (found.distance > radius).all()


def test_images_leave_the_batch_and_are_attacked_as_if_alone(digits):
    model, x, y = digits
    sizes = []

    def answer(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return model(images)

    attack = CarliniWagnerLinf(**QUICK, bisections=1)
    found = attack(answer, x, y)
    assert sizes[1] == 20 and sizes[-1] < 10 and sizes[1:] == sorted(sizes[1:], reverse=True)
    assert torch.equal(attack(model, x, y), found)  # nothing is random
    alone = attack(model, x[3:4], y[3:4])
    assert torch.allclose(distance(LINF, alone, x[3:4]), distance(LINF, found, x)[3], rtol=0.02, atol=0)
    assert (found >= 0).all() and (found <= 1).all()


def test_what_is_misclassified_stays_and_what_cannot_be_is_returned():
    exact, _, x, y = problem(Linear(2), n=4)
    y[2] = 1 - y[2]
    found = CarliniWagnerLinf(**QUICK)(exact, x, y)
    assert torch.equal(found[2], x[2]) and not torch.equal(found[1], x[1])
    assert judge(exact, x, y, found, LINF).distance[2] == 0

    def constant(images: Tensor) -> Tensor:
        return torch.tensor([[2.0, 1.0, 0.0]], dtype=images.dtype).expand(len(images), 3) + 0 * images.sum()

    zeros = torch.zeros(4, dtype=torch.long)
    assert torch.equal(CarliniWagnerLinf(**QUICK)(constant, x, zeros), x)
    assert CarliniWagnerLinf()(constant, x[:0], zeros[:0]).shape == (0, 1, 4, 4)


def test_each_tau_is_a_tenth_below_what_was_reached_until_one_fails():
    class Ramp(nn.Module):  # falls where the only pixel has moved by 0.3
        def forward(self, x: Tensor) -> Tensor:
            moved = x.flatten(1)[:, 0] - 0.5
            return torch.stack([0.3 - moved, moved - 0.3, moved - 5], 1)

    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    for bisections, width in ((0, 0.1), (4, 0.01)):
        found = CarliniWagnerLinf(steps=50, initial_const=0.01, bisections=bisections)(Ramp().eval(), x, y)
        moved = found.item() - 0.5
        assert 0.3 < moved < 0.3 * (1 + width)


def test_a_record_reports_at_the_radii_of_the_attack_where_its_own_are_in_another_norm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lipcert(capsys, "train", *TINY, "model=lmt_convnet", "dataset=digits", "output_dir=run").status == 0
    arguments = ("attack=carlini_wagner_linf", "attack.steps=5", "attack.images=6", "attack.bisections=0")
    label = "carlini_wagner_linf-5-bisections0"
    for radii in ([], [0.01, 0.9], [0.02]):
        told = lipcert(capsys, "attack", "run=run", *arguments, f"attack.radii={radii or 'null'}")
        assert told.status == 0, told.err
        summary = RunDirectory("run").read_json("summary.json")
        assert list(summary["robust_accuracy"][label]) == list(map(repr, radii))
        assert summary["median_distance"][label] is not None and summary["attacked_images"][label] == 6
