"""A run's directory, written by several commands, killed and damaged: nothing is lost, doubled or passed off."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from commandline import attacked, certified, lipcert, refused

import lipcert as api
from lipcert.contracts import AttackRow, CertificateRow
from lipcert.runs.directory import RunDirectory
from lipcert.runs.results import read_results
from lipcert.training.module import Training

SMALL = ("model=l2nnn", "model.depth=2", "model.width=8", "dataset.subset=60", "schedule.epochs=1", "trainer=cpu")
ATTACK = ("attack", "run=run", "attack=pgd_l2", "attack.steps=2", "attack.images=5", "eps=[0.1]")


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    api.train(*SMALL, "attack.steps=2", "attack.images=5", "attack.eps=[0.1]", f"output_dir={folder / 'run'}")
    return folder / "run"


@pytest.fixture
def run(honest, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(honest, "run")
    return RunDirectory("run")


def summary(run: RunDirectory) -> dict:
    return run.read_json("summary.json")


def test_a_tail_behind_rows_that_were_rewritten_is_cut_off(run, capsys):
    """What a process leaves that is killed between writing rows and registering them."""
    before = certified(run.path)
    assert lipcert(capsys, "certify", "run=run").status == 0  # replaces the rows
    with (run / "certificates.csv").open("a") as file:
        file.write("test,0,l2,margin,proof,1,1,0.5,0.5,\ntest,1,l2,mar")
    assert certified(run.path) == before
    assert lipcert(capsys, "certify", "run=run", "certificate=margin").status == 0
    assert certified(run.path)[: len(before)] == before and len(certified(run.path)) == 2 * len(before)


def test_another_certificate_is_added_and_no_radius_gets_smaller(run, capsys):
    before = summary(run)
    assert lipcert(capsys, "certify", "run=run", "certificate=margin").status == 0
    after = summary(run)
    assert set(after["certificates"]) == {"pairwise", "pairwise-bounds=vector+logits"}
    for key in ("certified_accuracy", "mean_radius", "median_radius", "robust_accuracy", "lipschitz_bound"):
        assert after[key] == before[key]


def test_radii_that_get_smaller_are_not_passed_over(run, capsys):
    rows = [row._replace(radius=2 * row.radius) for row in certified(run.path)]
    run.write_rows("certificates.csv", CertificateRow, rows)
    told = lipcert(capsys, "certify", "run=run")
    larger = sum(row.radius > 0 for row in rows)
    assert told.status == 0 and f"{larger} radii of pairwise are smaller than they were before" in told.err


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_rows_are_computed_anew_unless_others_would_be_lost(run, capsys, damage):
    before = (run / "attacks.csv").read_bytes()

    def spoil() -> None:
        os.truncate(run / "attacks.csv", 50) if damage == "cut" else (run / "attacks.csv").unlink()

    spoil()
    told = lipcert(capsys, *ATTACK)
    assert told.status == 0 and "attacks.csv" in told.err and "this is done now" in told.err
    assert (run / "attacks.csv").read_bytes() == before
    assert lipcert(capsys, *ATTACK[:2], "attack=smallest_fgsm", "attack.images=5").status == 0
    spoil()
    if damage == "cut":
        assert "It was of smallest_fgsm" in refused(capsys, *ATTACK)
        (run / "attacks.csv").unlink()
    assert lipcert(capsys, *ATTACK).status == 0 and (run / "attacks.csv").read_bytes() == before


def test_a_broken_certificate_is_not_walked_past(run, capsys):
    """Neither by another certificate, nor by another attack, nor in a table; whole or not, the attack found it."""
    rows = [row._replace(radius=1e3, prediction=row.label) for row in certified(run.path)]
    run.write_rows("certificates.csv", CertificateRow, rows)
    attack = ("attack", "run=run", "attack=pgd_l2", "attack.steps=20", "eps=[2.0]", "attack.images=40")
    told = lipcert(capsys, *attack, "attack.batch_size=10")
    assert told.status == 3 and (run / "counterexamples").is_dir()
    assert len(read_results(run).unfinished) == 1
    other = ("attack", "run=run", "attack=smallest_fgsm", "attack.images=5")
    for command in (("certify", "run=run", "certificate=margin"), ("compare", "run", "output_dir=c"), other):
        told = lipcert(capsys, *command)
        assert told.status == 3 and "within the radius 1000.0" in told.err, told


@pytest.mark.slow
def test_a_larger_attack_that_stops_takes_nothing_away(run, capsys, monkeypatch):
    before = summary(run)["robust_accuracy"]
    append = RunDirectory.append_rows

    def full(self, name, rows):
        if len(self.read_rows(name, AttackRow)) >= 15:
            raise OSError(28, "No space left on device", name)
        append(self, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_rows", full)
        larger = [a for a in ATTACK if "images" not in a]
        told = lipcert(capsys, *larger, "attack.images=40", "attack.batch_size=5")
    assert told.status == 2 and "No space left on device" in told.err
    told = lipcert(capsys, "certify", "run=run")
    assert "the first 5 count" in told.err and summary(run)["robust_accuracy"] == before
    assert lipcert(capsys, *ATTACK).status == 0 and summary(run)["robust_accuracy"] == before
    assert lipcert(capsys, *larger, "attack.images=40").status == 0
    assert summary(run)["attacked_images"] == {"pgd_l2-2": 40} and len(attacked(run.path)) == 40


def test_another_eps_does_not_pass_off_what_stopped_as_finished(run, capsys, monkeypatch):
    def stop(self, name, rows):
        raise OSError(28, "No space left on device", name)

    before = summary(run)["robust_accuracy"]["pgd_l2-2"]["0.1"]
    larger = [a for a in ATTACK if "images" not in a]
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_rows", stop)
        assert lipcert(capsys, *larger, "attack.images=40").status == 2
    assert lipcert(capsys, *ATTACK[:-1], "eps=[0.5]").status == 0
    assert summary(run)["robust_accuracy"]["pgd_l2-2"]["0.1"] == before


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_another_precision_resumes_exactly(folder, capsys, monkeypatch, precision):
    line = ("train", *SMALL, "attack=none", f"trainer.precision={precision}", "schedule.epochs=3")
    assert lipcert(capsys, *line, "output_dir=whole").status == 0
    start = Training.on_train_epoch_start

    def stop(module):
        if module.current_epoch == 2:
            raise KeyboardInterrupt
        start(module)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "on_train_epoch_start", stop)
        assert lipcert(capsys, *line, "output_dir=run").status == 130
    assert lipcert(capsys, "train", "resume=run").status == 0
    assert certified(Path("run")) == certified(Path("whole"))


def test_rows_of_one_label_are_of_one_attack_and_one_certificate(run, capsys):
    assert "`attack.seed`: run has rows of pgd_l2-2 with seed=0" in refused(capsys, *ATTACK, "seed=7")
    Path("mine.py").write_text(
        "from lipcert.certificates.pairwise import Pairwise\nclass A(Pairwise): pass\nclass B(Pairwise): pass\n"
    )
    for name in ("A", "B"):
        assert lipcert(capsys, "certify", "run=run", f"+certificate._target_=mine.{name}").status == 0
    assert list(summary(run)["certificates"]) == ["pairwise", "mine.A", "mine.B"]


def test_rows_of_an_earlier_network_do_not_count(run, capsys):
    for name in ("certificates.json", "attacks.json"):
        facts = run.read_json(name)
        for item in facts["test"].values():
            item["network"] = "another"
        run.write_json(name, facts)
    results = read_results(run)
    assert not results.certificates and not results.attacks and "of an earlier network" in results.unfinished[0]
    before = certified(run.path)
    assert lipcert(capsys, "certify", "run=run").status == 0 and certified(run.path) == before
    assert lipcert(capsys, *ATTACK).status == 0 and len(attacked(run.path)) == 5


@pytest.mark.slow
def test_nothing_of_the_current_directory_is_imported(run, capsys, tmp_path):
    """Neither plugins of Hydra, nor what some library would take if it were installed."""
    (tmp_path / "hydra_plugins").mkdir()
    for name in ("hydra_plugins/x.py", "dill.py", "tensorflow.py", "pandas.py", "psutil.py", "onnx.py"):
        Path(name).write_text("open('executed', 'a').write(__name__)\nraise ImportError\n")
    done = api_elsewhere("certify", "run=run")
    assert done.returncode == 0, done.stderr
    assert not Path("executed").exists()


def api_elsewhere(*arguments: str):
    """The console script, as it is installed: the current directory is not on its path."""
    import subprocess

    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from lipcert.cli.main import main; main()"
    return subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True)


SWEEP = ("train", "-m", *SMALL, "attack=none", "output_dir=sweep")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_sweep_goes_on_with_what_is_left_of_it(folder, capsys):
    assert lipcert(capsys, *SWEEP, "seed=1,2").status == 0
    before = {job: (folder / "sweep" / job / "summary.json").read_bytes() for job in ("seed=1", "seed=2")}
    shutil.rmtree("sweep/seed=2")  # it never began
    unfinished = RunDirectory("sweep/seed=1")
    unfinished.forget("summary.json")  # it was stopped
    told = lipcert(capsys, *SWEEP, "seed=2,3,1")
    jobs = {p.name for p in Path("sweep").iterdir() if p.is_dir()}
    assert told.status == 0 and jobs == {"seed=1", "seed=2", "seed=3"}
    seeds = {job: RunDirectory(f"sweep/seed={job}").read_json("summary.json")["seed"] for job in (1, 2, 3)}
    assert seeds == {1: 1, 2: 2, 3: 3} and before.keys() == {"seed=1", "seed=2"}
    told = lipcert(capsys, *SWEEP, "seed=1,2,3")
    assert told.status == 0 and told.out.count("is finished: nothing to resume") == 3


@pytest.mark.slow
def test_a_sweep_that_was_killed_before_its_first_job_begins(folder, capsys):
    Path("sweep").mkdir()
    Path("sweep/multirun.yaml").touch()
    assert lipcert(capsys, *SWEEP, "seed=1").status == 0 and Path("sweep/job/summary.json").exists()


@pytest.mark.parametrize("name", ["job", ".lock", "sweep.json", "multirun.yaml"])
def test_a_sweep_writes_through_no_link(folder, capsys, name):
    Path("sweep").mkdir()
    Path("elsewhere").mkdir()
    Path("sweep", name).symlink_to(folder / "elsewhere")
    assert "is a link" in refused(capsys, *SWEEP, "seed=1")
    assert not any(Path("elsewhere").iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("seed=1", "hydra.sweep.dir=x"), "`hydra.sweep.dir`: say output_dir=PATH"),
        (("experiment=glob(none/*)",), "this sweep has no job"),
        (("training.epochss=1,2",), "conf/training; did you mean `training.epochs`?"),
    ],
)
def test_what_a_sweep_refuses(folder, capsys, words, line):
    told = lipcert(capsys, *SWEEP, *words)
    assert told.status == 2 and line in told.err and not Path("sweep").exists()
