"""The audit: what breaks a certificate is found, saved and confirmed; what was stopped goes on; a forgery is caught."""

import json
import math
import re
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commandline import TINY, lipcert, refused

from lipcert.analyses.audit import analysis, block, fixed_eps, near_ties, self_test, traps
from lipcert.analyses.audit.block import Claim, blocks
from lipcert.analyses.audit.counterexample import exact_distance
from lipcert.analyses.audit.forgeries import DroppedWalk, gains, without_a_norm
from lipcert.analyses.audit.judging import Nearest
from lipcert.analyses.audit.rows import AuditRow, FixedRow, broken, numbers
from lipcert.analyses.audit.search import Networks, Search
from lipcert.analyses.audit.settings import Settings
from lipcert.analyses.audit.suite import Suite, Trial
from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.cli import main
from lipcert.cli.compose import settings_of
from lipcert.commands import audit
from lipcert.contracts import CertificateRow, Norm
from lipcert.datasets.split import Split
from lipcert.evaluation import record
from lipcert.evaluation.load import load_run
from lipcert.frozen.lipschitz import Walk
from lipcert.reporting.plotting import drawn
from lipcert.runs import counterexamples
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import AUDIT, AUDIT_EPS, AUDIT_EPS_FACTS, AUDIT_FACTS, AUDIT_SELF_TEST, CERTIFICATES

NET = ("model=lmt_convnet", "model.channels=[2,4]", "model.kernels=[3,3]", "model.hidden=[8]", "trainer=cpu")
QUICK = ("run=run", "images=4", "batch_size=2", "steps=2", "factors=[0.999,1.25,2]")
SETTINGS = Settings(None, (0.999, 2.0), 3, 1, 20, 0, "cpu")


def small(network, norm: Norm, steps: int, restarts: int) -> Suite:
    """A suite of one attack, so that tests of what is around it are quick."""
    attack = AutoProjectedGradient(norm=norm, eps=[1.0], steps=6, loss="margin", targets=0)
    return Suite([], [Trial(attack, True)], [], [Trial(attack, True), Trial(attack, False)])


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Without figures, which take longer than all else."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (record, analysis):
            patched.setattr(module, "drawn", lambda figure, name: {f"{name}.png": b"a picture"})
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("audit") / "run"
    assert main.run("train", [*NET, *TINY, "logger=csv", f"output_dir={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def audited(trained, tmp_path_factory) -> Path:
    """The run after an audit that nobody disturbed."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("audited") / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(block, "suite", small)
        assert main.run("audit", [f"run={run}", *QUICK[1:]]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    return RunDirectory(shutil.copytree(trained, tmp_path / "run"))


def rows(run: Path | RunDirectory) -> list[AuditRow]:
    return RunDirectory(Path(str(run))).read_rows(AUDIT, AuditRow)


def forge(run: RunDirectory, **columns: float) -> None:
    """Multiplies columns of certificates.csv."""
    with run.writing("test"):
        before = run.read_rows(CERTIFICATES, CertificateRow)
        more = [row._replace(**{name: getattr(row, name) * k for name, k in columns.items()}) for row in before]
        run.write_rows(CERTIFICATES, CertificateRow, more)


def test_an_audit_says_what_it_found(audited):
    found, facts = rows(audited), json.loads((audited / AUDIT_FACTS).read_text())
    proofs = {row.index: row for row in RunDirectory(audited).read_rows(CERTIFICATES, CertificateRow)}
    assert [row.index for row in found] == [index for index, row in proofs.items() if row.radius > 0][:4]
    for row in found:
        proof = proofs[row.index]
        assert (row.radius, row.radius_float32, row.certificate) == (proof.radius, proof.radius_float32, "pairwise")
        assert row.radius < row.distance < math.inf and row.slack == row.distance / row.radius - 1
        assert row.radius_float32 < row.distance_float32 == pytest.approx(row.distance, rel=0.01)
        assert row.attack and row.attack_float32 and row.pairs >= 8
    assert facts["smallest_noticed"] == min(row.distance / row.radius for row in found) and facts["broken"] == 0
    assert facts["pairs"] == sum(row.pairs for row in found) == sum(a["tried"] for a in facts["attacks"].values())
    assert sum(a["nearest"] for a in facts["attacks"].values()) == 4
    summary = json.loads((audited / "summary.json").read_text())
    assert summary["audit"]["smallest_noticed"] == facts["smallest_noticed"] and summary["audit"]["images"] == 4


def test_what_was_stopped_goes_on_to_the_same_rows(run, audited, monkeypatch, capsys):
    append = RunDirectory.append_rows
    monkeypatch.setattr(block, "suite", small)

    def killed(self: RunDirectory, name: str, new: list) -> None:
        append(self, name, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "append_rows", killed)
    assert lipcert(capsys, "audit", *QUICK).status == 130
    assert rows(run) == rows(audited)[:2]
    monkeypatch.setattr(RunDirectory, "append_rows", append)
    told = lipcert(capsys, "audit", *QUICK)
    assert told.status == 0, told.err
    assert rows(run) == rows(audited)
    assert "would have been noticed" in told.out and "No image within a certified radius" in told.out
    says = (
        f"`seed`: {Path('run') / AUDIT} was made with seed=0, and can't have rows of seed=1 besides; give the same, or"
    )
    assert refused(capsys, "audit", *QUICK, "seed=1").startswith(says)


@pytest.mark.parametrize("claim", ["radius", pytest.param("radius_float32", marks=pytest.mark.slow)])
def test_a_broken_certificate_is_found_saved_and_confirmed(run, claim, monkeypatch, capsys):
    monkeypatch.setattr(block, "suite", small)
    forge(run, **{claim: 4000.0})
    told = lipcert(capsys, "audit", *QUICK, "images=2")
    assert told.status == 3 and f"within the {claim}" in told.err and told.err.count("\n") == 1, told.err
    assert all(map(broken, rows(run))) and not run.has("audit.png")
    file, *_ = sorted(Path("run/counterexamples").glob("*.npz"))
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert lipcert(capsys, "audit", *QUICK, "images=2").status == 3  # again, and at once
    told = lipcert(capsys, "audit", f"check={file}")
    assert told.status == 3 and "is confirmed" in told.err and f"{claim} " in told.out, told
    kept = dict(np.load(file))
    np.savez("moved.npz", **{**kept, "radius": kept["distance"] / 2})
    assert "does not lie in the counterexamples of a run" in refused(capsys, "audit", "check=moved.npz")
    told = lipcert(capsys, "audit", "check=moved.npz", "run=run")
    assert told.status == 0 and "not confirmed" in told.out
    file.write_bytes(file.read_bytes()[:-30])
    assert "can't be read as a counter-example" in refused(capsys, "audit", f"check={file}")


WRONG = {
    "`run` must be given": {"run": None},
    "there is no file none.npz": {"check": "none.npz"},
    "`images` must be a whole number": {"images": 0},
    "one of them at most 1": {"factors": [1.5]},
    "`factors` must be positive": {"factors": [0.999, -1.0]},
    "`norm` and `eps` go together": {"norm": "linf"},
    "`eps` must be positive": {"norm": "linf", "eps": 0.0},
    "leave out norm and eps": {"norm": "l2", "eps": 0.1, "self_test": True},
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_requests_are_refused(said):
    settings = settings_of("audit", ["run=run"]) | WRONG[said]
    with pytest.raises(ValueError, match=re.escape(said)):
        audit.run(**settings)


def test_damaged_facts_are_refused(run, audited):
    for name in (AUDIT, AUDIT_FACTS):
        with run.writing("test"):
            run.replace(name, RunDirectory(audited).read(name))
    for damage in ({"blocks": {"0": {}}}, {"settings": None}, {"blocks": {"0": {"attacks": {"a": 3}}}}):
        with run.writing("test"):
            run.write_json(AUDIT_FACTS, RunDirectory(audited).read_json(AUDIT_FACTS) | damage)
        with pytest.raises(ValueError, match="is damaged: again=true starts anew"), run.writing("test"):
            analysis.begin(run, Settings(4, (0.999, 1.25, 2.0), 2, 1, 2, 0, "cpu"), False, analysis.proved(run))


def test_a_run_without_a_radius_is_refused(run, capsys):
    forge(run, radius=0.0, radius_float32=0.0)
    assert "proves a radius of no test image" in refused(capsys, "audit", "run=run")


def test_distances_are_exact_and_rounded_up():
    a = np.array([[[0.3, 0.1]]])
    for norm in Norm:
        found = Fraction(exact_distance(norm, a, np.zeros_like(a)))
        gaps = [Fraction(0.3), Fraction(0.1)]
        true = {Norm.L1: sum(gaps), Norm.L2: sum(g * g for g in gaps), Norm.LINF: max(gaps)}[norm]
        power = 2 if norm is Norm.L2 else 1
        below = Fraction(float(np.nextafter(float(found), 0)))
        assert found**power >= true > below**power
    assert exact_distance(Norm.L2, np.array([[[0.75, 1.0]]]), np.zeros((1, 1, 2))) == 1.25
    assert exact_distance(Norm.L2, a, a) == 0


def linear(count: int = 4) -> Search:
    """Logits ±Σ(x − 0.4): another label lies at l2 distance 0.4 of images of 0.5 everywhere, and the radius is 0.2."""
    signs = torch.ones(2, 16).double()
    signs[1] *= -1
    bias = torch.tensor([-6.4, 6.4]).double()
    net = traps.network([(signs, bias)])
    x, radius = torch.full((count, 1, 4, 4), 0.5).double(), torch.full((count,), 0.2).double()
    labels = torch.zeros(count, dtype=torch.long)
    return Search(Networks.of(net, "cpu"), Norm.L2, x, labels, radius, radius, seed=0)


class Oracle:
    """An attack that finds the other label wherever it lies within eps, and notes what it was asked for."""

    label = "oracle"

    def __init__(self):
        self.asked = []

    def __call__(self, answer, x, y, eps):
        self.asked.append([round(float(each), 6) for each in eps])
        return x - (eps * (eps > 0.39)).view(-1, 1, 1, 1) / 4


def test_factors_are_bisected_and_decided_images_leave():
    search, oracle = linear(), Oracle()
    search.outside([Trial(oracle, True), Trial(oracle, True)], [1.01, 1.5, 2.05])
    assert oracle.asked == [[0.41] * 4, [0.202] * 4, [0.202] * 4, [0.3] * 4, [0.3] * 4]
    assert search.double.distance.tolist() == pytest.approx([0.4] * 4, rel=1e-3)  # drawn towards the clean image
    assert search.double.factor == [2.05] * 4 and search.pairs.tolist() == [5] * 4
    assert search.counts == {"oracle in float32": {"tried": 20, "found": 4}}


def test_random_numbers_are_those_of_the_block():
    """Whatever was drawn before, so that an audit which goes on computes what an uninterrupted one does."""

    def noise(seed: int) -> list[float]:
        drawn = []

        class Noise:
            label = "noise"

            def __call__(self, answer, x, y, eps):
                drawn.append(float(torch.rand(1)))
                return x

        torch.manual_seed(seed)
        search = linear()
        for _ in range(2):
            search.attack(Trial(Noise(), True), torch.arange(4), 1.0)
        return drawn

    first = noise(1)
    assert noise(2) == first and first[0] != first[1]


def test_candidates_are_made_legal_and_the_nearest_is_kept():
    search = linear(1)
    nearest, row = search.double, torch.tensor([0])
    bad = torch.full((1, 1, 4, 4), -3.0).double()
    bad[0, 0, 0] = math.nan
    assert nearest.offer(row, bad, ["far"], [None]).all()
    assert nearest.image.min() >= 0 and nearest.image[0, 0, 0].eq(0.5).all() and nearest.distance < 0.5
    before = float(nearest.distance)
    nearest.offer(row, torch.zeros(1, 1, 4, 4).double(), ["even"], [2.0])
    assert float(nearest.distance) < before and nearest.attack == ["even"] and nearest.factor == [2.0]
    single = search.single
    single.offer(row, nearest.image, ["single"], [None])
    assert single.image.float().double().equal(single.image)


def test_in_linf_a_change_is_cut():
    nearest = Nearest(linear().networks.double, linear().x, linear().y, Norm.LINF)
    change = torch.tensor([[[[0.5, -0.125]]]]).double()
    assert nearest.shorter(change, torch.full((1, 1, 1, 1), 0.5)).flatten().tolist() == [0.25, -0.125]


class Alone:
    """A network whose sums differ with the size of the batch: the other label is nearer in a batch of one."""

    dtype = torch.float32

    def __call__(self, images):
        far = images.flatten(1)[:, 0] - (0.25 if len(images) == 1 else 0.5)
        return torch.stack([-far, far], 1)


def test_other_orders_of_summation_are_tried_at_the_boundary():
    x = torch.zeros(3, 1, 1, 1).double()
    single = Nearest(Alone(), x, torch.zeros(3, dtype=torch.long), Norm.L2)
    every = torch.arange(3)
    single.offer(every[:2], torch.ones(2, 1, 1, 1).double(), ["a", "b"], [None, 2.0])
    assert single.distance[:2].tolist() == pytest.approx([0.5, 0.5], rel=1e-3)
    near_ties.search(single, every, torch.Generator().manual_seed(0))
    assert (single.distance[:2] < 0.5 + 1e-9).all() and single.distance[2] == math.inf
    assert single.attack == ["a", "b", ""] and single.factor == [None, 2.0, None]
    assert single.wrong(single.image[:2], every[:2], one_by_one=True).all()
    assert not single.wrong(single.image[:2], every[:2]).all()  # so near that only a batch of one sees it


def test_what_a_trap_of_floats_claims_is_caught(monkeypatch):
    monkeypatch.setattr(block, "suite", small)
    tied = [forgery for forgery in traps.traps(0) if "equal" in forgery.name or "1e6" in forgery.name]
    quick = SETTINGS._replace(batch_size=3, factors=(0.999,), steps=2)
    for forgery in tied:
        found = self_test.caught(forgery._replace(claims=forgery.claims[:3]), quick)
        assert found["caught"] > 0 and found["nearest"] < 1, found


def test_the_smallest_ratio_is_what_would_have_been_noticed():
    def row(distance: float, radius: float) -> AuditRow:
        return AuditRow("test", 0, "l2", "pairwise", radius, distance, 0.0, "a", None, radius, distance, "a", 7)

    found = numbers([row(1.2, 1.0), row(2.2, 2.0), row(math.inf, 1.0)])
    assert found["smallest_noticed"] == 1.1 and found["median_noticed"] == 1.2 and found["pairs"] == 21
    assert found["broken"] == 0 and found["found"] == 2 and found["noticed"]["1.25"] == 2
    assert numbers([row(math.inf, 1.0)])["smallest_noticed"] is None
    assert broken(row(1.0, 1.0)) and not broken(row(1.0, 0.9))


def test_the_norm_of_a_layer_is_dropped(run):
    loaded = load_run(run.path)
    proofs = analysis.proved(run)[:5]
    name, factors = without_a_norm(loaded, proofs)
    assert "taken to be 1" in name and len(factors) == 5 and min(factors) > 1
    walk = Walk(loaded.network, Norm.L2)
    (value, gain), *_ = gains(walk)
    dropped = DroppedWalk(loaded.network, value)
    assert dropped.constant(value) == pytest.approx(walk.constant(value) / gain)


@pytest.mark.slow
def test_the_whole_suite_in_pictures(run, monkeypatch, capsys):
    monkeypatch.setattr(analysis, "drawn", drawn)
    told = lipcert(capsys, "audit", *QUICK)
    assert told.status == 0, told.err
    names = " ".join(run.read_json(AUDIT_FACTS)["attacks"])
    for name in ("apgd_l2", "dlr", "margin", "square", "deepfool", "carlini", "fmn", "float64"):
        assert name in names
    assert run.read("audit.png")[:4] == b"\x89PNG" and b"<svg" in run.read("audit.svg")


@pytest.mark.slow
def test_an_audit_at_one_eps_claims_nothing(run, capsys):
    told = lipcert(capsys, "audit", *QUICK, "norm=linf", "eps=0.1")
    assert told.status == 0, told.err
    found = run.read_rows(AUDIT_EPS, FixedRow)
    assert [row.index for row in found] == list(range(4)) and {row.eps for row in found} == {0.1}
    assert "robust accuracy at linf 0.1" in told.out and "certified" not in told.out
    assert not run.has(AUDIT) and "audit" not in run.read_json("summary.json")
    assert lipcert(capsys, "audit", *QUICK, "norm=linf", "eps=0.1").out == told.out
    assert lipcert(capsys, "audit", *QUICK, "norm=l1", "eps=1.0").status == 0
    assert len(run.read_rows(AUDIT_EPS, FixedRow)) == 8


@pytest.mark.slow
def test_forged_certificates_are_caught_and_leave_no_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lipcert(capsys, "train", "model=l2nnn", *TINY, "logger=csv", "output_dir=run").status == 0
    run = RunDirectory("run")
    before = run.read(CERTIFICATES)
    told = lipcert(capsys, "audit", "run=run", "images=10", "steps=10", "self_test=true")
    assert told.status == 0, told.err
    found = {row["forged"]: row for row in run.read_json(AUDIT_SELF_TEST)["forgeries"]}
    assert sum(name.startswith("the bound × ") for name in found) == 4
    for name in ("radii × 5", "used twice", "underflow", "1e6", "equal logits"):
        assert any(name in forged and row["caught"] for forged, row in found.items()), (name, found)
    assert run.read(CERTIFICATES) == before and not run.has(AUDIT) and not Path("run/counterexamples").exists()


@pytest.mark.slow
def test_small_networks_with_other_norms_are_searched():
    for norm in Norm:
        net = traps.network([(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).double(), None)])
        images = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
        split = Split(images, net(images.double() / 255).argmax(1))
        claims = [Claim(index, 1e-3, 1e-3) for index in range(8)]
        for found in blocks(net, norm, split, claims, SETTINGS):
            assert (found.search.double.distance > 1e-3).all() and found.search.double.distance.isfinite().any()


def test_saved_counterexamples_of_older_versions_are_read(run):
    x = np.zeros((1, 8, 8))
    values = {"x": x, "x_adv": x, "label": 0, "prediction": 1, "distance": 0.0, "radius": 1.0, "norm": "l2"}
    path = counterexamples.save(run, values | {"attack": "a", "index": 3})
    assert counterexamples.read(path).claim == "radius" and analysis.SPLIT == "test"


def other(run: RunDirectory, change) -> None:
    """Changes the rows of certificates.csv."""
    with run.writing("test"):
        before = run.read_rows(CERTIFICATES, CertificateRow)
        run.write_rows(CERTIFICATES, CertificateRow, map(change, before))


def test_labels_of_other_images_are_refused(run, capsys):
    other(run, lambda row: row._replace(label=9 - row.label, prediction=9 - row.label))
    assert "its test data have no such image" in refused(capsys, "audit", "run=run", leaves=(Path("run"),))


def test_an_unbounded_radius_is_attacked_like_any_other(run, capsys):
    other(run, lambda row: row._replace(prediction=row.label, radius=math.inf, radius_float32=0.0))
    told = lipcert(capsys, "audit", "run=run", "images=2", "steps=5")
    assert told.status == 3 and "certified" in told.err
    assert list(Path("run/counterexamples").glob("*.npz"))


def test_a_fixed_eps_is_held_against_proofs_in_its_norm(run, capsys):
    other(run, lambda row: row._replace(prediction=row.label, radius=3.0, radius_float32=0.0))
    told = lipcert(capsys, "audit", "run=run", "norm=l2", "eps=3.0", "images=2", "steps=5")
    assert told.status == 3 and "within the radius 3.0" in told.err


def audit_row(**columns) -> AuditRow:
    found = AuditRow("test", 0, "l2", "pairwise", 1.0, 2.0, 1.0, "a", None, None, 2.0, "a", 7)
    return found._replace(**columns)


@pytest.mark.parametrize("nothing", [None, 0.0])
def test_where_float32_is_promised_nothing_it_breaks_nothing(nothing):
    """An image of black and white is one of float32 as it is: where float32 errs there, the distance is exactly 0."""
    assert not broken(audit_row(radius_float32=nothing, distance_float32=0.0))
    assert broken(audit_row(radius_float32=0.1, distance_float32=0.0))
    numbers([audit_row(radius_float32=nothing, distance_float32=0.0)])


def test_an_unbounded_proof_is_not_broken_by_finding_nothing(run):
    other(run, lambda row: row._replace(prediction=row.label, radius=math.inf, radius_float32=math.inf))
    proofs = fixed_eps.proofs_in(run, Norm.L2, (1, 8, 8)).values()
    assert proofs and all(8 < proof.radius < 9 and 8 < proof.radius_float32 < 9 for proof in proofs)


def test_rows_of_radii_that_no_longer_stand_are_dropped(run, audited):
    """Also of images beyond `images`, and of those of which nothing is proved any more."""
    before = rows(audited)
    gone = {before[1].index: 0.0, before[2].index: 0.5}
    with run.writing("test"):
        run.write_rows(AUDIT, AuditRow, [row._replace(distance=0.0) for row in before])
        run.write_json(AUDIT_FACTS, RunDirectory(audited).read_json(AUDIT_FACTS))
    other(run, lambda row: row._replace(radius=row.radius * gone.get(row.index, 1.0)))
    with run.writing("test"):
        analysis.begin(run, Settings(1, (0.999, 1.25, 2.0), 2, 1, 2, 0, "cpu"), False, analysis.proved(run))
    assert [row.index for row in rows(run)] == [before[0].index, before[3].index]


def test_an_image_that_breaks_when_its_block_is_searched_again_is_not_lost(run, monkeypatch, capsys):
    with monkeypatch.context() as blind:
        blind.setattr(block, "suite", lambda *args: Suite([], [], [], []))
        blind.setattr(block.NearestImages, "candidates", lambda *args: [])
        forge(run, radius=4000.0)
        assert lipcert(capsys, "audit", *QUICK, "images=2", "batch_size=9").status == 0
    assert not any(map(broken, rows(run)))
    monkeypatch.setattr(block, "suite", small)
    told = lipcert(capsys, "audit", *QUICK, "images=3", "batch_size=9")
    assert told.status == 3, told
    found = rows(run)
    assert len(found) == len({row.index for row in found}) == 3 and all(map(broken, found))


class Crowded(Alone):
    """The other label is nearer in a batch of several."""

    dtype = torch.float64

    def __call__(self, images):
        far = images.flatten(1)[:, 0] - (0.5 if len(images) > 1 else 0.5 + 1e-9)
        return torch.stack([-far, far], 1)


def test_what_a_batch_decides_is_confirmed_a_little_farther_out():
    every, x = torch.arange(2), torch.zeros(2, 1, 1, 1).double()
    double = Nearest(Crowded(), x, torch.zeros(2, dtype=torch.long), Norm.L2)
    double.keep(every, torch.full_like(x, 0.5 + 1e-12), torch.full((2,), 0.5), ["a", "a"], [None, None])
    assert 0.5 < analysis.verdict(double, 0) < 0.5 + 1e-8
    single = Nearest(Alone(), x, torch.zeros(2, dtype=torch.long), Norm.L2)
    single.keep(every, torch.full_like(x, 0.4999), torch.full((2,), 0.4999), ["a", "a"], [None, None])
    assert 0.5 < float(analysis.steady(single, 1, 1.0)) < 0.51  # by itself and in a crowd
    assert float(analysis.steady(single, 1, 0.49995)) == pytest.approx(0.4999)  # no room: as it was found
    assert single.wrong(analysis.steady(single, 1, 0.49995), every[:1]).all()


def test_a_forged_counterexample_is_told_from_the_certificates(run, capsys):
    row = next(row for row in run.read_rows(CERTIFICATES, CertificateRow) if row.radius > 0)
    x = np.full((1, 8, 8), 0.25)
    values = {"x": x, "x_adv": x, "label": row.label, "prediction": 1, "distance": 0.0, "norm": "l2", "attack": "a"}
    values |= {"index": row.index, "claim": "radius"}
    said = "prove no such radius of test image"
    for radius, due in ((row.radius, False), (row.radius * 1.5, True)):
        path = counterexamples.save(run, values | {"radius": radius})
        assert (said in lipcert(capsys, "audit", f"check={path}").out) == due
    path = counterexamples.save(run, values | {"radius": 1.0, "label": 10})
    assert "has a label that is none of the 10 classes" in refused(capsys, "audit", f"check={path}")


def test_rows_at_one_eps_never_outlive_their_facts(run, monkeypatch):
    rows_before = [FixedRow("test", 0, "linf", 0.1, 1, 1, 1.0, "a", 1.0, "a", 1)]
    loaded, forget, calls = load_run(run.path), RunDirectory.forget, []

    def killed(self: RunDirectory, name: str) -> None:
        calls.append(name)
        if len(calls) > 1:
            raise KeyboardInterrupt
        forget(self, name)

    monkeypatch.setattr(RunDirectory, "forget", killed)
    with run.writing("test"):
        run.write_rows(AUDIT_EPS, FixedRow, rows_before)
        run.write_json(AUDIT_EPS_FACTS, {})
        with pytest.raises(KeyboardInterrupt):
            fixed_eps.attack(loaded, Norm.LINF, 0.1, SETTINGS, again=True)
    assert not run.has(AUDIT_EPS)


def test_networks_that_float32_cannot_hold():
    wide = torch.eye(16).double()
    net = traps.network([(wide * 1e50, None), (wide[:3] * 1e-50, None)])
    with pytest.raises(ValueError, match="`norm` and `eps`: float32 can't hold the network of here"):
        fixed_eps.check_single(SimpleNamespace(network=net, directory="here"))
    x = torch.linspace(0, 1, 16).double().view(1, 1, 4, 4)
    search = Search(Networks.of(net, "cpu"), Norm.L2, x, torch.tensor([0]), x.new_ones(1), x.new_zeros(1), seed=0)
    search.run(Suite([], [], [], []), (0.999,), None)  # the clean image has another label than is claimed
    assert search.single is None and search.double.distance.tolist() == [0.0]
