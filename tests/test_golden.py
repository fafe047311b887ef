"""Four small trainings give the numbers that are kept in golden/: of a proof in l2 and in l_inf, and of each estimate.

They were trained in float64, so that they come again on other processors. They do not start at orthogonal matrices:
there, the off-diagonal entries of W Wᵀ are nothing but rounding errors, and the first step follows the signs of these.
Whoever changes what is computed on purpose makes the files anew, and says why.
"""

import csv
import json
from pathlib import Path

import pytest
import torch
from commandline import attacked, certified, lipcert

GOLDEN = Path(__file__).parent / "golden"
SMALL = ("dataset.subset=300", "trainer=cpu", "trainer.precision=64-true")
RUNS = {
    "l2_proof": "model=l2nnn model.depth=3 model.width=32 schedule.epochs=4 attack.images=40 attack.steps=20 seed=3",
    "linf_proof": "model=linf_dist model.depth=3 model.width=48 schedule.epochs=6 attack.images=40 seed=4",
    "l2_nominal": "model=allcnn model.width=4 schedule.epochs=2 attack.images=20 loss.penalty=max seed=5",
    "l2_statistical": "model=lmt_convnet model.channels=[4,4] schedule.epochs=2 certificate=statistical "
    "attack.images=20 seed=6",
}
OF_THE_MACHINE = ("seconds", "versions", "git_commit", "device")
NUMBERS, NOISE = 1e-5, 1e-7  # relative and absolute: margins may be near 0
FLOAT32, SEARCHED = 2e-5, 1e-3  # of attacks: at a radius, and where they look for the smallest distance


def compare(rows, kept: Path) -> None:
    due = list(csv.DictReader(kept.read_text().splitlines()))
    for row, old in zip(rows, due, strict=True):
        for name, text in old.items():
            found = getattr(row, name)
            if not isinstance(found, float):
                assert ("" if found is None else str(int(found) if isinstance(found, bool) else found)) == text, old
            else:
                relative = NUMBERS if name != "distance" else FLOAT32 if old["eps"] else SEARCHED
                assert found == pytest.approx(float(text), rel=relative, abs=NOISE), (name, old)


def near(new, old, where: str) -> None:
    """All that the old record says, the new one says too; it may say more."""
    if isinstance(old, dict):
        assert new.keys() >= old.keys(), where
        for key, value in old.items():
            near(new[key], value, f"{where}.{key}")
    elif isinstance(old, list):
        for i, (one, other) in enumerate(zip(new, old, strict=True)):
            near(one, other, f"{where}[{i}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=SEARCHED if "median_distance" in where else NUMBERS, abs=NOISE), where
    else:
        assert new == old, where


RARE = ("l2_statistical",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in RARE else n for n in RUNS])
def test_the_numbers_are_those_that_are_kept(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda weight: torch.nn.init.normal_(weight, std=0.1))
    run = tmp_path / "run"
    told = lipcert(capsys, "train", *RUNS[name].split(), *SMALL, f"output_dir={run}")
    assert told.status == 0, told.err
    compare(certified(run), GOLDEN / name / "certificates.csv")
    compare(attacked(run), GOLDEN / name / "attacks.csv")
    new, old = (json.loads((folder / "summary.json").read_text()) for folder in (run, GOLDEN / name))
    assert new.keys() >= old.keys()
    near(new, {key: value for key, value in old.items() if key not in OF_THE_MACHINE}, name)
