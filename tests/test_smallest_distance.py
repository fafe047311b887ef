"""Attacks that search for the smallest l2 distance: exact where it is known, never below a certificate, resumable."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from commandline import TINY, lipcert
from configurations import composed
from linear_problem import Linear, exact_distance, problem
from torch import Tensor, nn

from lipcert.attacks.boundary import BoundaryL2
from lipcert.attacks.judge import distance, judge
from lipcert.attacks.smallest import SmallestDistance
from lipcert.configuration import build
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.runs.directory import RunDirectory

SEARCHES = ("smallest_fgsm", "smallest_gradient", "smallest_ifgsm", "smallest_pgd_l2")
NAMES = (*SEARCHES, "boundary_l2")
MORE = ("model=convnet", "dataset=digits", "dataset.subset=500", "schedule.epochs=5")


def named(name: str, *overrides: str):
    return build(composed(f"attack={name}", *overrides)["attack"])


def convnet(seed: int = 2) -> tuple[nn.Module, Tensor, Tensor]:
    """A small ordinary network in float32, 40 images and its own answers to them."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(64, 10)).eval()
    x = torch.randint(0, 256, (40, 1, 8, 8)).double() / 255
    return model, x, deepcopy(model).double()(x).argmax(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e9, 1e-9])
@pytest.mark.parametrize("name", NAMES)
def test_the_distance_of_a_plane_is_found(name, scale, dtype):
    """Along the gradient the plane's own, along its signs gap / ||w||_1 times √n; Boundary's is random."""
    exact, _, x, y = problem(Linear(2, scale))
    few = "attack.steps=300" if name == "boundary_l2" else "attack.bisections=16"
    judged = judge(exact, x, y, named(name, few)(deepcopy(exact).to(dtype), x.to(dtype), y), Norm.L2)
    signs = name in ("smallest_fgsm", "smallest_ifgsm")
    expected = exact_distance(exact, x, y, Norm.LINF) * 4 if signs else exact_distance(exact, x, y, Norm.L2)
    ratio = judged.distance / expected
    assert (ratio >= 1 - 1e-12).all()
    assert (ratio <= (4 if name == "boundary_l2" else 1.001)).all()


@pytest.mark.parametrize("model", [pytest.param("lmt_convnet", marks=pytest.mark.slow), "l2nnn"])
def test_no_attack_comes_closer_than_is_proved(model):
    torch.manual_seed(0)
    config = composed(f"model={model}")
    network = build({**config["model"], **NARROW[model]}, input_shape=(1, 8, 8), num_classes=4).eval()
    exact = freeze(network, (1, 8, 8))
    x = torch.randint(0, 256, (20, 1, 8, 8)).double() / 255
    y = exact(x).argmax(1)
    radius = build(config["certificate"])(exact).judge(x, y).radius
    assert (radius > 0).sum() >= 15
    for name in NAMES:
        few = "attack.steps=200" if name == "boundary_l2" else "attack.bisections=10"
        found = judge(exact, x, y, named(name, few)(exact.to(dtype=torch.float32), x.float(), y), Norm.L2)
        assert found.success.sum() >= 10, name
        assert (found.distance > radius).all(), name


NARROW = {
    "lmt_convnet": {"channels": [4, 8], "kernels": [3, 3], "hidden": [16]},
    "l2nnn": {"depth": 2, "width": 32},
}


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
@pytest.mark.parametrize("name", SEARCHES)
def test_an_image_is_attacked_as_if_alone(name, scale):
    model, x, y = convnet()
    for p in model[-1].parameters():
        p.data *= scale
    exact = deepcopy(model).double()
    attack = named(name, "attack.bisections=10")
    judged = judge(exact, x, y, attack(model, x.float(), y), Norm.L2)
    assert judged.success.all()
    for i in (0, 30) if scale == 1 else ():
        alone = attack(model, x[i : i + 1].float(), y[i : i + 1])
        assert torch.allclose(distance(Norm.L2, alone, x[i : i + 1]), judged.distance[i : i + 1], rtol=1e-3, atol=0)


def test_what_is_bisected_to_the_last_bit_is_still_wrong_in_float64():
    model, x, y = convnet()
    found = named("smallest_gradient", "attack.bisections=40")(model, x.float(), y)
    assert judge(deepcopy(model).double(), x, y, found, Norm.L2).success.all()


class Asks:
    """An attack that fells image i at any radius of at least `falls[i]` and notes what it is asked for."""

    label, norm, eps, batch_size, images = "asks_l2-1", Norm.LINF, (), 1, None

    def __init__(self, falls: list[float]) -> None:
        self.falls, self.asked = torch.tensor(falls), []

    def __call__(self, answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: Tensor) -> Tensor:
        index = (x[:, 0, 0, 0] * 10).round().long()
        self.asked.append(dict(zip(index.tolist(), eps.tolist(), strict=True)))
        moved = x.clone()
        moved[:, 0, 0, 1] = torch.where(eps >= self.falls[index], 0.5 + eps / 100, 0.25)
        return moved


class Falls(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.5 - x[:, 0, 0, 1], x[:, 0, 0, 1] - 0.5, x[:, 0, 0, 1] - 3], 1)


def test_images_leave_the_batch_and_each_is_bisected_by_itself():
    falls = [0.2, 0.5, 1.5, 9.0]  # found at 1, 1, 2 and never
    x = torch.zeros(4, 1, 1, 2)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.arange(4) / 10, 0.25
    y = torch.zeros(4, dtype=torch.long)
    for growth, asked, low in ((2.0, [1.0, 2.0, 4.0], 0.0), (None, [1.0, 2.0, 3.0], 1.0)):
        inner = Asks(falls)
        attack = SmallestDistance(name="asks", inner=inner, start=1.0, growth=growth, tries=3, bisections=12)
        found = attack(Falls().eval(), x, y)
        assert inner.asked[:3] == [
            dict.fromkeys(rows, r) for rows, r in zip([range(4), (2, 3), (3,)], asked, strict=True)
        ]
        assert len(inner.asked) == 15 and all(set(rows) == {0, 1, 2} for rows in inner.asked[3:])
        assert inner.asked[3] == {0: 0.5, 1: 0.5, 2: (low + 2) / 2}
        assert torch.allclose(100 * (found[:3, 0, 0, 1] - 0.5), torch.tensor(falls[:3]), atol=2e-3)
        assert torch.equal(found[3], x[3])
    line = SmallestDistance(name="asks", inner=Asks(falls), start=1.0, growth=None, tries=3, bisections=0)
    assert torch.allclose(line(Falls().eval(), x, y)[:3, 0, 0, 1], torch.tensor([0.51, 0.51, 0.52]))


def test_a_radius_in_l2_is_a_change_of_every_pixel():
    inner = Asks([9.0])
    inner.norm = Norm.L2
    x = torch.tensor([[[[0.0, 0.25]]]])
    SmallestDistance(name="asks", inner=inner, start=1.0, growth=2.0, tries=2)(Falls().eval(), x, torch.tensor([0]))
    assert [asked[0] for asked in inner.asked] == pytest.approx([2**0.5, 2 * 2**0.5])


@pytest.mark.parametrize("name", NAMES)
def test_the_clean_image_is_returned_where_the_attack_fails(name):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[2.0, 1.0, 0.0]], dtype=x.dtype).expand(len(x), 3) + 0 * x.sum()

    x, zeros = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.long)
    attack = named(name, "attack.steps=3" if name == "boundary_l2" else "attack.bisections=2")
    assert torch.equal(attack(Constant().eval(), x, zeros), x)
    assert attack(Constant().eval(), x[:0], zeros[:0]).shape == (0, 1, 4, 4)
    exact, _, x, y = problem(Linear(2), n=8)
    y[3] = 1 - y[3]  # misclassified as it is
    found = attack(exact, x, y)
    assert torch.equal(found[3], x[3]) and not torch.equal(found[2], x[2])


def test_boundary_starts_from_another_image_where_all_noise_is_answered_alike():
    class Sums(nn.Module):  # noise sums to about half the pixels
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([0.6 - mean, mean - 0.6, mean - 3], 1)

    x = torch.cat([torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8) / 4 + 0.7]).double()
    y = Sums()(x).argmax(1)
    attack = BoundaryL2(steps=30, seed=0)
    judged = judge(Sums().eval(), x, y, attack(Sums().eval(), x.float(), y), Norm.L2)
    assert judged.success.all() and y.unique().tolist() == [0, 1]
    assert torch.equal(attack(Sums().eval(), x[:1].float(), y[:1]), x[:1].float())  # alone it has nowhere to start


def test_a_seed_decides_what_boundary_finds():
    model, x, y = convnet()
    runs = [BoundaryL2(steps=20, seed=seed)(model, x.float(), y) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    more = BoundaryL2(steps=200, seed=0)(model, x.float(), y)
    exact = deepcopy(model).double()
    assert (judge(exact, x, y, more, Norm.L2).distance < judge(exact, x, y, runs[0], Norm.L2).distance).all()


@pytest.mark.slow
def test_all_run_from_the_command_line_and_go_on_where_they_were_stopped(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lipcert(capsys, "train", *TINY, *MORE, "output_dir=run").status == 0
    few = {"boundary_l2": "attack.steps=20"}
    append, rows = RunDirectory.append_rows, Path("run/attacks.csv")
    for name in NAMES:
        arguments = ("run=run", f"attack={name}", "attack.images=20", "attack.batch_size=10")
        arguments += (few.get(name, "attack.bisections=4"),)
        assert lipcert(capsys, "attack", *arguments).status == 0
        whole = rows.read_bytes()
        found = [row for row in csv.DictReader(whole.decode().splitlines()) if row["attack"].startswith(name)]
        assert [int(row["index"]) for row in found] == list(range(20)) and all(row["eps"] == "" for row in found)
        if name not in ("smallest_fgsm", "boundary_l2"):
            continue
        lines = whole.splitlines(keepends=True)
        rows.write_bytes(b"".join(lines[:-20]))
        RunDirectory("run").register("attacks.csv")
        calls = []

        def stop(*args, calls=calls):
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            append(*args)

        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "append_rows", stop)
            assert lipcert(capsys, "attack", *arguments).status == 130
        assert rows.read_bytes() == b"".join(lines[:-10])
        assert lipcert(capsys, "attack", *arguments).status == 0
        assert rows.read_bytes() == whole
    summary = json.loads(Path("run/summary.json").read_text())
    assert len(summary["median_distance"]) == 5 and all(summary["median_distance"].values())
