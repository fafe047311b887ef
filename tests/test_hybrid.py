"""The hybrid classifier: what is proved of it against all that can be tried, its numbers, its attack, and refusals."""

import csv
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import certified, lipcert, refused
from torch import nn

from lipcert.analyses.hybrid import analysis
from lipcert.analyses.hybrid.attacking import Hybrid, attack_hybrid
from lipcert.analyses.hybrid.claims import Images, hybrid_radius, hybrid_right
from lipcert.analyses.hybrid.thresholds import at_all, at_threshold, shown
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import AttackRow, Norm
from lipcert.datasets.split import Split
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import load_run
from lipcert.frozen import freeze
from lipcert.runs.directory import RunDirectory

SMALL = ("dataset.subset=100", "schedule.epochs=2", "attack=none")
THRESHOLDS = (0.0, 0.02, 0.1, 0.3, 0.8, math.inf)


def network(seed: int, width: int = 6):
    """A small network of two pixels and three classes, whose answers differ all over the square."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3))
    with torch.no_grad():
        layers[1].weight.mul_(3)
        layers[1].bias.copy_(-layers[1].weight @ torch.rand(2))
        layers[3].bias.copy_(-layers[3](layers[2](layers[1](torch.rand(50, 2)))).mean(0) + layers[3].bias)
    return freeze(layers, (1, 1, 2))


def problem(seed: int, count: int = 150):
    """Two networks, images, labels and what is known of these, with `pairs` of the first."""
    first, second = network(2 * seed), network(2 * seed + 1)
    x = torch.rand(count, 1, 1, 2, dtype=torch.float64)
    votes = torch.stack([first(x).argmax(1), second(x).argmax(1), torch.randint(3, (count,))])
    y = votes.gather(0, torch.randint(3, (1, count)))[0]
    bounds = [Pairwise()(each) for each in (first, second)]
    mine, theirs = (bound.judge(x, y) for bound in bounds)
    images = Images(
        gap=mine.gap.numpy(),
        margin=mine.margin.numpy() - 2 * float(bounds[0].errors.max()),
        radius=mine.radius.numpy(),
        right=(mine.prediction == y).numpy(),
        other_radius=theirs.radius.numpy(),
        other_right=(theirs.prediction == y).numpy(),
    )
    return first, second, x, y, images, float(bounds[0].pairs.max())


def around(x: torch.Tensor, radius: np.ndarray, draws: int) -> torch.Tensor:
    """Points (draws, N, 1, 1, 2) of the circles and discs around x."""
    angle = torch.rand(draws, len(x), dtype=torch.float64) * 2 * math.pi
    length = torch.rand(draws, len(x), dtype=torch.float64).clamp_min(0.5).sqrt() * torch.from_numpy(radius)
    length[::2] = torch.from_numpy(radius)
    step = torch.stack([angle.cos(), angle.sin()], -1) * length[..., None]
    return x + step[:, :, None, None]


def survives(hybrid: Hybrid, x: torch.Tensor, y: torch.Tensor, radius: np.ndarray, draws: int = 400) -> np.ndarray:
    """Whether no point that is tried within the radii has another label."""
    with torch.no_grad():
        return np.array([(hybrid(points).argmax(1) == y).numpy() for points in around(x, radius, draws)]).all(0)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_within_a_radius_has_another_label(seed):
    first, second, x, y, images, steepest = problem(seed)
    for threshold in THRESHOLDS:
        hybrid = Hybrid(first, second, threshold)
        assert (hybrid_right(images, threshold) == (hybrid(x).argmax(1) == y).numpy()).all()
        radius = np.minimum(hybrid_radius(images, threshold, steepest), 10.0)
        assert survives(hybrid, x, y, radius)[radius > 0].all()


@pytest.mark.slow
def test_each_way_to_a_proof_is_used_and_wrong_ones_are_caught():
    """By A alone, by both, and by B where A is wrong; and what a careless formula would claim is refuted."""
    used, refuted = dict.fromkeys(("alone", "both", "other"), 0), dict.fromkeys(("own", "other"), 0)
    for seed in range(6):
        first, second, x, y, images, steepest = problem(seed)
        for threshold in (0.1, 0.3, 0.8):
            radius = hybrid_radius(images, threshold, steepest)
            without = hybrid_radius(images._replace(other_radius=np.zeros(len(x))), threshold, steepest)
            used["alone"] += int((without > 0).sum())
            used["both"] += int(((radius > without) & images.right).sum())
            used["other"] += int(((radius > 0) & ~images.right).sum())
            hybrid, kept = Hybrid(first, second, threshold), images.gap >= threshold
            careless = np.where(kept & images.right, images.radius, 0.0)  # as if the gap could not fall below τ
            refuted["own"] += int((~survives(hybrid, x, y, careless))[careless > 0].sum())
            careless = np.where(~kept & images.other_right, images.other_radius, 0.0)  # as if it could not rise above
            refuted["other"] += int((~survives(hybrid, x, y, careless))[careless > 0].sum())
    assert min(used.values()) > 20 and min(refuted.values()) > 3, (used, refuted)


def test_the_ends_are_the_networks_themselves():
    *_, images, steepest = problem(1)
    assert (hybrid_radius(images, 0.0, steepest) >= np.where(images.right, images.radius, 0.0)).all()
    assert (hybrid_radius(images, math.inf, steepest) == images.other_radius).all()
    alone = images._replace(other_radius=np.zeros(len(images.gap)))
    assert (hybrid_radius(alone, 0.0, steepest) == np.where(images.right, images.radius, 0.0)).all()
    found = at_all(images, steepest, [0.01, 0.1])
    assert [each["delegated"] for each in found] == sorted(each["delegated"] for each in found)
    assert (found[0]["delegated"], found[-1]["delegated"]) == (0.0, 1.0)
    assert (
        found[0]["clean_accuracy"] == images.right.mean() and found[-1]["clean_accuracy"] == images.other_right.mean()
    )
    assert shown(found)[0] == found[0] and shown(found)[-1] == found[-1] and len(shown(found)) == 11


def test_constant_logits_never_change_who_answers():
    images = Images(*(np.array([value]) for value in (0.0, 0.0, 0.0)), *(np.array([x]) for x in (False, 0.3, True)))
    assert hybrid_radius(images, 0.5, 0.0)[0] == pytest.approx(0.3)
    assert hybrid_radius(images._replace(margin=np.array([-0.7])), 0.5, 0.0)[0] == 0


def one(gap: float, margin: float, radius: float, right: bool, other_radius: float, other_right: bool) -> Images:
    return Images(*(np.array([value]) for value in (gap, margin, radius, right, other_radius, other_right)))


def test_a_threshold_a_few_roundings_below_the_margin():
    """There 1 − τ/m is smaller than its own rounding: in exact arithmetic, the gap must not fall below τ."""
    random = np.random.default_rng(0)
    for _ in range(300):
        margin, speed = random.uniform(0.1, 3), random.uniform(0.1, 5)
        radius = margin / speed * (1 - 12 * 2.0**-52)
        threshold = margin * (1 - int(random.integers(1, 40)) * 2.0**-53)
        found = float(hybrid_radius(one(margin, margin, radius, True, 0.0, False), threshold, 5.0)[0])
        assert Fraction(margin) - Fraction(speed) * Fraction(found) >= Fraction(threshold)
    computed = analysis.lowered(np.array([0.1 + 0.2]), 0.1)
    assert Fraction(computed[0].item()) < Fraction(0.1 + 0.2) * (1 - Fraction(1, 2**52)) - Fraction(0.1)


@pytest.mark.filterwarnings("error")
def test_the_radius_is_a_number_at_each_limit():
    still = one(1.0, 1.0, math.inf, True, 0.0, False)  # no logit moves, so the gap is 1 everywhere
    assert [hybrid_radius(still, threshold, 0.0)[0] for threshold in (0.0, 0.5, 1.0)] == [math.inf] * 3
    unknown = one(1.0, -math.inf, 0.0, False, 0.3, True)  # nothing is known of A's margins
    assert hybrid_radius(unknown, math.inf, 1.0)[0] == 0.3 and hybrid_radius(unknown, 2.0, 1.0)[0] == 0
    assert hybrid_radius(one(0.1, 0.1, 0.05, True, 0.3, True), 1e308, 2.0)[0] == 0.3


def test_the_attack_is_on_the_hybrid():
    first, second, x, y, *_ = problem(2, 40)
    pixels = (x * 255).round().to(torch.uint8)
    attack = ProjectedGradient(norm=Norm.L2, eps=[0.1, 0.4], steps=10, batch_size=16, seed=0)
    rows = attack_hybrid(attack, first, second, 0.2, Split(pixels, y), [0.1, 0.4], "cpu")
    assert [(row.index, row.eps) for row in rows] == [(i, eps) for eps in (0.1, 0.4) for i in range(40)]
    right = (Hybrid(first, second, 0.2)(pixels.double() / 255).argmax(1) == y).tolist()
    assert all((row.distance > 0) == right[row.index] for row in rows)
    assert all(row.success == (row.prediction != int(y[row.index])) for row in rows)
    assert sum(row.success and row.distance > 0 for row in rows) > 0
    radius = np.full(40, 1.0)
    with pytest.raises(CertificateBroken, match=r"beat the hybrid at l2 distance .*, within the radius 1\.0"):
        analysis.check_unbroken([row for row in rows if row.success], radius, "l2")
    analysis.check_unbroken(rows, radius, "linf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from lipcert import train

    place = tmp_path_factory.mktemp("hybrid")
    train("model=l2nnn", "model.depth=2", "model.width=16", *SMALL, f"output_dir={place / 'run'}")
    train("model=convnet", "model.channels=[4,4]", "certificate=nominal", *SMALL, f"output_dir={place / 'other'}")
    train("model=nearest_neighbour", "dataset.subset=50", "attack=none", f"output_dir={place / 'neighbours'}")
    return place


@pytest.fixture
def runs(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    for path in trained.iterdir():
        shutil.copytree(path, path.name)
    return RunDirectory("run")


ATTACK = ("attack=pgd_l2", "attack.steps=3", "attack.images=20")


def test_what_is_written(runs, capsys):
    told = lipcert(
        capsys, "certify", "run=run", "analysis=hybrid", "other=other", "threshold=0.2", "eps=[0.3]", *ATTACK
    )
    assert told.status == 0, told.err
    content = runs.read_json("hybrid.json")
    lines = list(csv.DictReader(Path("run/hybrid.csv").read_text().splitlines()))
    rows, theirs = certified(Path("run")), certified(Path("other"))
    assert list(lines[0]) == ["threshold", "delegated", "clean", *(f"certified_{e}" for e in (0.1, 0.3, 0.5, 1.0))]
    assert len(lines) == len({row.gap for row in rows} | {0.0, math.inf})
    for line in (lines[0], lines[len(lines) // 2], lines[-1]):
        delegated = [row.gap < float(line["threshold"]) for row in rows]
        pairs = zip(rows, theirs, delegated, strict=True)
        right = [other.prediction == row.label if sent else row.prediction == row.label for row, other, sent in pairs]
        assert float(line["delegated"]) == pytest.approx(np.mean(delegated))
        assert float(line["clean"]) == pytest.approx(np.mean(right))
    summary = runs.read_json("summary.json")
    assert content["thresholds"][0]["certified_accuracy"] == summary["certified_accuracy"]
    assert set(content["thresholds"][-1]["certified_accuracy"].values()) == {0.0}  # nothing is proved of the other one
    assert content["threshold"] == 0.2 and content["delegated"] == np.mean([row.gap < 0.2 for row in rows])
    ((attack, robust),) = content["robust_accuracy"].items()
    assert list(robust) == ["0.3"] and content["attacked_images"] == {attack: 20}
    kept = runs.read_rows("hybrid_attacks.csv", AttackRow)
    assert robust["0.3"] == np.mean([not row.success for row in kept])
    assert "delegated to other" in told.out and (runs / "hybrid.png").stat().st_size > 1000
    assert lipcert(capsys, "certify", "run=run", "analysis=hybrid", "other=neighbours").status == 0  # which has proofs
    content, theirs = runs.read_json("hybrid.json"), RunDirectory("neighbours").read_json("summary.json")
    assert content["thresholds"][-1]["certified_accuracy"] == theirs["certified_accuracy"]
    assert "threshold" not in content and not runs.has("hybrid_attacks.csv")


def test_without_a_threshold_nothing_is_attacked(runs, capsys):
    shutil.copytree("run", "same")
    assert lipcert(capsys, "certify", "run=run", "analysis=hybrid", "other=same").status == 0
    content = runs.read_json("hybrid.json")
    assert "threshold" not in content and "robust_accuracy" not in content and not runs.has("hybrid_attacks.csv")
    for each in content["thresholds"]:  # of the same network twice, all is as it was
        assert each["certified_accuracy"] == content["thresholds"][0]["certified_accuracy"]
        assert each["clean_accuracy"] == content["thresholds"][0]["clean_accuracy"]
    images = problem(3)[4]
    assert at_threshold(images, 0.3, 1.0, [0.1]).keys() <= content["thresholds"][0].keys()
    assert json.loads(Path("run/hybrid.json").read_text())["thresholds"][-1]["threshold"] is None  # infinite


REFUSED = {
    ("analysis=hybrid",): "`analysis=hybrid` needs a second run: other=RUN",
    ("analysis=hybrid", "other=nowhere"): "`other`: nowhere is not a run's directory",
    ("analysis=hybrid", "other=other", "threshold=-1"): "`threshold` must be at least 0, a gap of logits, got -1",
    ("analysis=hybrid", "other=other", "certificate=nominal"): "`analysis=hybrid` needs a proof of this run",
    ("analysis=hybrid", "other=other", "split=val"): "`analysis`=hybrid is of the test images",
    ("other=other",): "`other`=other is of a hybrid classifier: add analysis=hybrid",
    ("threshold=1", "analysis=deciles"): "`threshold`=1 is of a hybrid classifier: add analysis=hybrid",
    ("analysis=hybrid", "other=other", "threshold=1", "attack=pgd_l2", "eps=[-1]"): "`attack.eps`",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_is_no_hybrid(runs, capsys, arguments):
    assert REFUSED[arguments] in refused(capsys, "certify", "run=run", *arguments)


def test_a_run_on_other_images_is_no_other_one(runs, capsys):
    path = Path("other/manifest.json")
    content = json.loads(path.read_text())
    content["data"]["test"] = "0" * 64
    path.write_text(json.dumps(content))
    said = refused(capsys, "certify", "run=run", "analysis=hybrid", "other=other")
    assert said == "`other`: other has other test images than run, so no hybrid is made of them"


def test_a_run_without_a_certificate_is_no_other_one(runs, capsys):
    other = RunDirectory("other")
    with other.writing("test"):
        other.forget("certificates.csv")
        other.forget("certificates.json")
    said = refused(capsys, "certify", "run=run", "analysis=hybrid", "other=other")
    assert said == "`other`: other has no whole certificate: `lipcert certify run=other` computes one"


def test_it_loads_as_it_was_attacked(runs):
    """The attack is on the networks that are in the two runs."""
    first, second = load_run("run"), load_run("other")
    x = first.dataset.test.pixels()[:5].double() / 255
    assert (Hybrid(first.network, second.network, math.inf)(x) == second.network(x)).all()
    assert (Hybrid(first.network, second.network, 0.0)(x) == first.network(x)).all()
