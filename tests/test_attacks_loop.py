"""An attack on a run: a row an image, resumable, and a broken certificate is never missed."""

from __future__ import annotations

import math
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import attacked, certified, lipcert, refused
from linear_problem import Linear, exact_distance, problem

from lipcert.attacks.boundary import BoundaryL2
from lipcert.attacks.carlini_wagner import CarliniWagnerL2
from lipcert.attacks.deep_fool import DeepFoolL2
from lipcert.attacks.fast_gradient import FastGradient
from lipcert.attacks.judge import distance
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.attacks.smallest import SmallestDistance
from lipcert.cli import main
from lipcert.contracts import AttackRow, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.attack import Attacking, Proved
from lipcert.reporting.table import comparison
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import find_runs
from lipcert.runs.layout import ATTACKS, SUMMARY
from lipcert.runs.results import read_results
from lipcert.runs.rows import parse_rows
from lipcert.runs.tried import Tried, read


def attack_images(attack, network, exact, images, y, *, append, done=frozenset(), certified, norm, folder) -> None:
    proved = [Proved(norm, "pairwise", certified)] if certified else []
    loop = Attacking(
        attack=attack,
        network=network,
        exact=exact,
        images=images[: attack.images],
        labels=y,
        proved=proved,
        directory=RunDirectory(folder.parent),
    )
    loop.run([Tried()] if attack.eps is None else list(map(Tried, attack.eps)), append=append, done=done)


def loop(attack, model, images, y, tmp_path, *, certified=None, norm=Norm.L2, done=frozenset()) -> list[AttackRow]:
    rows: list[AttackRow] = []
    attack_images(
        attack,
        deepcopy(model).float(),
        model,
        images,
        y,
        append=rows.extend,
        done=done,
        certified=certified or {},
        norm=norm,
        folder=tmp_path / "counterexamples",
    )
    return rows


def tried(row: AttackRow) -> tuple[int, Tried]:
    return row.index, Tried.of(row)


def test_a_row_for_every_image_and_eps(tmp_path):
    exact, images, x, y = problem(Linear(3), n=11)
    y[3] = (y[3] + 1) % 3
    least = exact_distance(exact, x, y, Norm.L2)
    radii = [0.0, 0.02, 1.0]
    rows = loop(ProjectedGradient(norm=Norm.L2, eps=radii, batch_size=4, seed=0), exact, images, y, tmp_path)
    assert [(r.index, r.eps) for r in rows] == [(i, eps) for eps in radii for i in range(11)]
    for row in rows:
        assert row.success == math.isfinite(row.distance)
        assert row.distance == 0 if row.index == 3 else row.distance >= least[row.index]
    assert all(r.success == (r.index == 3) for r in rows if r.eps == 0) and all(r.success for r in rows if r.eps == 1)
    few = loop(FastGradient(norm=Norm.L2, eps=[0.1], images=5), exact, images, y, tmp_path)
    assert [r.index for r in few] == list(range(5))


def test_a_killed_attack_resumes_by_image_with_the_same_rows(tmp_path):
    exact, images, _, y = problem(Linear(3), n=11)
    attack = ProjectedGradient(norm=Norm.L2, eps=[0.03, 0.1], steps=2, batch_size=4, seed=0)
    whole = loop(attack, exact, images, y, tmp_path)
    kept = whole[:15]  # killed after the first batch of the second radius
    rest = loop(attack, exact, images, y, tmp_path, done=set(map(tried, kept)))
    assert kept + rest == whole
    assert not loop(attack, exact, images, y, tmp_path, done=set(map(tried, whole)))
    least = CarliniWagnerL2(steps=5, binary_search_steps=1)
    assert not loop(least, exact, images, y, tmp_path, done={(i, Tried()) for i in range(11)})


@pytest.mark.parametrize(
    "attack, certified_norm",
    [
        (ProjectedGradient(norm=Norm.L2, eps=[0.5], seed=0, batch_size=8), Norm.L2),
        (ProjectedGradient(norm=Norm.LINF, eps=[0.2], seed=0, batch_size=8), Norm.LINF),
        (FastGradient(norm=Norm.LINF, eps=[0.1], batch_size=8), Norm.L2),  # found in one norm, certified in another
        (CarliniWagnerL2(steps=50, binary_search_steps=5, batch_size=8), Norm.L2),
        (DeepFoolL2(batch_size=8), Norm.L2),
        (SmallestDistance(name="line", inner=FastGradient(norm=Norm.L2, eps=None), batch_size=8), Norm.L2),
        (BoundaryL2(steps=50, batch_size=8, seed=0), Norm.L2),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_a_false_certificate_is_caught_and_a_true_one_is_not(attack, certified_norm, tmp_path):
    exact, images, x, y = problem(Linear(3), n=12)
    least = exact_distance(exact, x, y, certified_norm)
    true = {i: d * (1 - 1e-12) for i, d in enumerate(least.tolist())}
    honest = loop(attack, exact, images, y, tmp_path, certified=true, norm=certified_norm)
    assert len(honest) == 12 and any(r.success for r in honest) and not (tmp_path / "counterexamples").exists()

    found = next(r.index for r in honest[8:] if r.success)
    false = {**true, found: 10.0}
    rows: list[AttackRow] = []
    arguments = {
        "append": rows.extend,
        "certified": false,
        "norm": certified_norm,
        "folder": tmp_path / "counterexamples",
    }
    with pytest.raises(CertificateBroken, match=f"image {found}: {attack.label} .*10.0") as caught:
        attack_images(attack, deepcopy(exact).float(), exact, images, y, **arguments)
    assert rows == honest  # the rows of the broken batch were appended first
    file = tmp_path / "counterexamples" / f"{attack.label}-{found}.npz"
    assert str(file) in str(caught.value)
    with np.load(file) as kept:
        x_adv = torch.from_numpy(kept["x_adv"])[None]
        assert np.array_equal(kept["x"], x[found]) and int(kept["label"]) == y[found]
        assert exact(x_adv).argmax(1).item() == int(kept["prediction"]) != y[found]
        assert float(kept["distance"]) == distance(certified_norm, x_adv, x[found][None]).item() <= kept["radius"]

    done = set(map(tried, rows))  # a resumed run has nothing to attack, yet can't walk past the failure
    with pytest.raises(CertificateBroken, match=f"image {found}: {attack.label}"):
        attack_images(attack, deepcopy(exact).float(), exact, images, y, done=done, **arguments)
    attack_images(attack, deepcopy(exact).float(), exact, images, y, done=done, **{**arguments, "certified": true})


def test_a_certificate_for_a_misclassified_clean_image_is_broken(tmp_path):
    exact, images, _, y = problem(Linear(3), n=4)
    y[2] = (y[2] + 1) % 3
    attack = FastGradient(norm=Norm.L2, eps=[0.0])
    assert len(loop(attack, exact, images, y, tmp_path, certified={2: 0.0, 1: 5.0})) == 4
    with pytest.raises(CertificateBroken, match=r"image 2: .* distance 0\.0"):
        loop(attack, exact, images, y, tmp_path, certified={2: 1e-9})


def test_each_image_is_attacked_at_a_multiple_of_its_own_radius(tmp_path):
    exact, images, x, y = problem(Linear(2), n=12)
    own = {i: d for i, d in enumerate(exact_distance(exact, x, y, Norm.L2).tolist()) if i % 3}  # two in three have one
    attack = ProjectedGradient(norm=Norm.L2, eps=[], seed=0, batch_size=5)
    shared = {"network": deepcopy(exact).float(), "exact": exact, "images": images, "labels": y, "proved": []}
    run = Attacking(attack=attack, directory=RunDirectory(tmp_path), own=own, **shared)
    whole: list[AttackRow] = []
    factors = [Tried(None, 0.999), Tried(None, 1.02)]
    run.run(factors, append=whole.extend)
    assert [(r.index, r.factor, r.eps) for r in whole] == [(i, k, k * own[i]) for _, k in factors for i in own]
    assert all(r.success == (r.factor > 1) == (r.distance <= r.eps) for r in whole)
    rest: list[AttackRow] = []
    run.run(factors, append=rest.extend, done=set(map(tried, whole[:7])))
    assert whole[:7] + rest == whole


def test_eps_may_be_a_multiple_of_the_certified_radius():
    assert read("certified") == [Tried(None, 1.0)] and read(0.5) == [Tried(0.5)]
    assert read([0.5, "1.05*certified", "2 * certified"]) == [Tried(0.5), Tried(None, 1.05), Tried(None, 2.0)]
    for wrong in ("certifed", "0*certified", "x*certified", "1..5*certified", ["certified", "1*certified"], [-1.0]):
        with pytest.raises(ValueError, match=r"`attack\.eps`") as caught:
            read(wrong)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory) -> Path:
    """A run that needs no training, and whose proofs are in l2."""
    path = tmp_path_factory.mktemp("neighbours") / "run"
    shared = ("model=nearest_neighbour", "dataset.subset=50", "attack=none", "trainer=cpu", f"output_dir={path}")
    assert main.run("train", list(shared)) == 0
    return path


def test_certified_radii_are_attacked_by_command(neighbours, capsys):
    arguments = (f"run={neighbours}", "attack=fgsm", "attack.norm=l2", "attack.images=20")
    told = lipcert(capsys, "attack", *arguments, "eps=[0.1,certified,4*certified]")
    assert told.status == 0, told
    radii = {row.index: row.radius for row in certified(neighbours)}
    rows = attacked(neighbours)
    own = [i for i in range(20) if radii[i] > 0]
    assert [(r.index, r.eps, r.factor) for r in rows if r.factor] == [(i, k * radii[i], k) for k in (1, 4) for i in own]
    assert [r.index for r in rows if r.eps == 0.1] == list(range(20))
    broken = {k: sum(r.success for r in rows if r.factor == k) for k in (1.0, 4.0)}
    assert broken[1.0] == 0 < broken[4.0]
    line = f"broken at 4 × certified, fgsm_l2 {broken[4.0]} of {len(own)}"
    assert line in " ".join(told.out.split())

    summary = RunDirectory(neighbours).read_json(SUMMARY)
    assert summary["broken_at_multiples"]["fgsm_l2"]["4.0"] == {"broken": broken[4.0], "images": len(own)}
    assert list(summary["robust_accuracy"]["fgsm_l2"]) == ["0.1"]  # the multiples are no radii of it
    run = find_runs([neighbours])[0]
    table = comparison([run])
    at = [column.title for column in table.columns].index("broken fgsm_l2 4 × certified")
    assert table.cells[0][at].mean == broken[4.0] / len(own)


def test_stale_and_missing_multiples_are_computed_anew(neighbours, capsys, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(neighbours, path)
    directory = RunDirectory(path)
    arguments = (f"run={path}", "attack=fgsm", "attack.norm=l2", "attack.images=20", "eps=1.2*certified")
    assert lipcert(capsys, "attack", *arguments).status == 0
    rows = attacked(path)
    mine = [row for row in rows if row.factor == 1.2]
    kept = [row for row in rows if row != mine[-1]]
    directory.write_rows(ATTACKS, AttackRow, [row._replace(eps=2.0) if row == mine[0] else row for row in kept])
    assert "fgsm_l2 at 1.2*certified" in read_results(directory).unfinished[0]
    assert lipcert(capsys, "attack", *arguments).status == 0
    assert sorted(attacked(path)) == sorted(rows)


def test_multiples_need_a_proof_in_the_norm_of_the_attack(neighbours, capsys):
    shared = (f"run={neighbours}", "attack.images=5")
    line = refused(capsys, "attack", *shared, "attack=pgd_linf", "eps=certified", leaves=(neighbours,))
    assert line.startswith("`eps`: ") and "linf" in line and "its proofs are in l2" in line
    line = refused(capsys, "attack", *shared, "attack=pgd_l2", "attack.eps=[1.o5*certified]", leaves=(neighbours,))
    assert line.startswith("`attack.eps`: got '1.o5*certified'")


def test_rows_of_before_there_were_multiples_still_load(tmp_path):
    text = "split,index,norm,attack,eps,success,distance\ntest,0,l2,fgsm_l2,0.5,1,0.25\n"
    assert parse_rows(text.encode(), AttackRow, "rows") == [AttackRow("test", 0, "l2", "fgsm_l2", 0.5, True, 0.25)]
