"""Rows survive everything, every number is the query it says it is, and nothing but a proof is called certified."""

import json
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcert.contracts import AttackRow, CertificateRow, Kind, Norm
from lipcert.files import as_json
from lipcert.reporting import curves
from lipcert.reporting.plotting import drawn
from lipcert.reporting.rounding import decimal, percent
from lipcert.reporting.run_table import run_table
from lipcert.runs import numbers
from lipcert.runs.config import PARTS
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import find_runs
from lipcert.runs.layout import ATTACK_FACTS, ATTACKS, CERTIFICATE_FACTS, CERTIFICATES, CONFIG, SUMMARY
from lipcert.runs.results import Results, write_facts
from lipcert.runs.summary import KEYS, summary
from lipcert.runs.tried import Tried

CW, PGD, PGD_LINF = "carlini_wagner_l2-1000x9", "pgd_l2-40", "pgd_linf-40"
ENVIRONMENT = {"device": "cpu", "versions": {"torch": "2"}, "git_commit": None, "seed": 1}


def certificates(n=60, scale=1.0, seed=0, kind="proof", norm="l2"):
    """Rows with about a tenth of the images wrong."""
    draw = np.random.default_rng(seed)
    right = draw.random(n) > 0.1
    radius = np.abs(draw.normal(scale, scale / 2, n)) * right
    return [
        CertificateRow(
            *("test", i, norm, "pairwise", kind, 3), 3 if ok else 4, float(r * math.sqrt(2)) if ok else -0.1, float(r)
        )
        for i, (ok, r) in enumerate(zip(right, radius, strict=True))
    ]


def attacked(rows, n=40, eps=(0.5, 1.0), seed=0):
    """What sound certificates allow: every distance beyond the radius; one attack in three finds nothing."""
    draw = np.random.default_rng(seed)
    out = []
    for row in rows[:n]:
        wrong, found = row.prediction != row.label, draw.random() < 2 / 3
        distance = 0.0 if wrong else row.radius * (1.01 + draw.random()) if found else math.inf
        out.append(AttackRow("test", row.index, "l2", CW, None, wrong or found, distance))
        for e in eps:
            hit = distance * 1.1 <= e
            out.append(AttackRow("test", row.index, "l2", PGD, e, hit, 0.0 if wrong else e if hit else math.inf))
        out.append(AttackRow("test", row.index, "linf", PGD_LINF, 0.1, wrong, 0.0 if wrong else math.inf))
    return out


def configuration(seed=1, model="l2nnn", **loss):
    return {part: {"_target_": f"lipcert.{part}"} for part in PARTS} | {
        "name": "mine",
        "tags": [],
        "chosen": {},
        "seed": seed,
        "eps": [0.5],
        "trainer": {},
        "model": {"_target_": f"lipcert.models.{model}.Model"},
        "dataset": {"_target_": "lipcert.datasets.digits.Digits", "seed": seed, "data_dir": f"data{seed}"},
        "loss": {"_target_": "lipcert.losses.l2nnn.Loss", "omega": 1.0} | loss,
    }


def facts_of(rows) -> dict:
    layers = [{"layer": "0", "norm": np.float64("nan"), "lipschitz": 0.8}]
    return {
        "certificate": "Pairwise",
        "target": "lipcert.certificates.pairwise.Pairwise",
        "images": len(rows),
        "kind": rows[0].kind,
        "norm": rows[0].norm,
        "device": "cpu",
        "network": "",
        "seconds": {"bound": 0.5, "certify": 2.0},
        "lipschitz_bound": 0.8,
        "enlargement": 1.25,
        "layers": layers,
    }


def summary_of(config, rows, attacks, **changes):
    results = Results({"pairwise": rows}, {"pairwise": facts_of(rows)}, attacks, [], [])
    eps = {"l2": [0.3, 1.0], "linf": [0.1]}[rows[0].norm]
    return summary(results, config=config, eps=eps, seconds={"train": 1.5}, environment=ENVIRONMENT, **changes)


def put_attacks(run: RunDirectory, rows) -> None:
    """The rows, and the facts without which they say nothing."""
    run.write_rows(ATTACKS, AttackRow, rows)
    for label in {row.attack for row in rows}:
        mine = [row for row in rows if row.attack == label]
        images = {Tried(row.eps).key: sum(other.eps == row.eps for other in mine) for row in mine}
        facts = {"target": "x", "settings": {}, "network": "", "norm": mine[0].norm, "seconds": 0.0}
        write_facts(run, ATTACK_FACTS, label, {**facts, "images": images, "wanted": images})


def written(path: Path, config, *, scale=1.0, data_seed=0, finished=True, **changes) -> Path:
    rows = certificates(scale=scale, seed=data_seed, **changes)
    path.mkdir(parents=True)
    run = RunDirectory(path)
    run.create_manifest({})
    run.replace(CONFIG, yaml.safe_dump(config))
    run.write_rows(CERTIFICATES, CertificateRow, rows)
    write_facts(run, CERTIFICATE_FACTS, "pairwise", facts_of(rows))
    put_attacks(run, attacked(rows))
    run.write_json(SUMMARY, summary_of(config, rows, attacked(rows), finished=finished))
    return path


# ---------------------------------------------------------------------------------------------------------------- rows

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))
certificate_rows = st.builds(
    CertificateRow,
    *(words, st.integers(), words, words, words, st.integers(), st.integers(), st.floats(), st.floats()),
    st.none() | st.floats(),
)
attack_rows = st.builds(
    AttackRow, words, st.integers(), words, words, st.none() | st.floats(), st.booleans(), st.floats()
)


def same(a, b):
    """Equal bit for bit, NaN included."""
    return len(a) == len(b) and all(type(x) is type(y) and repr(x) == repr(y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    RunDirectory(tmp_path).create_manifest({})
    return RunDirectory(tmp_path)


@settings(deadline=None, max_examples=60)
@given(st.lists(certificate_rows, max_size=5), st.lists(attack_rows, min_size=1, max_size=5), st.binary(max_size=200))
def test_rows_round_trip_and_survive_what_a_killed_writer_left(tmp_path_factory, certificate, attack, tail):
    run = RunDirectory(tmp_path_factory.mktemp("rows"))
    run.create_manifest({})
    run.write_rows("c.csv", CertificateRow, certificate)
    assert same(run.read_rows("c.csv", CertificateRow), certificate)
    run.append_rows("a.csv", attack)
    run.append_rows("a.csv", attack)
    assert same(run.read_rows("a.csv", AttackRow), attack * 2)

    # Killed while it wrote, before the manifest knew: what is registered is left, and writing goes on behind it.
    with (run / "a.csv").open("ab") as file:
        file.write(tail)
    assert same(run.read_rows("a.csv", AttackRow), attack * 2)
    run.append_rows("a.csv", attack)
    assert same(run.read_rows("a.csv", AttackRow), attack * 3)
    assert sorted(path.name for path in run.path.iterdir()) == ["a.csv", "c.csv", "manifest.json"]

    data = (run / "a.csv").read_bytes()
    (run / "a.csv").write_bytes(data[:-1])
    for use in (lambda: run.read_rows("a.csv", AttackRow), lambda: run.append_rows("a.csv", attack)):
        with pytest.raises(ValueError, match="is not what was written"):
            use()
    assert (run / "a.csv").read_bytes() == data[:-1]


def test_rows_take_numpy_numbers(run):
    row = AttackRow("test", np.int64(3), "l2", PGD, np.float32(0.1), np.bool_(True), np.float64(0.1), np.float64(2))
    run.write_rows(ATTACKS, AttackRow, [row])
    assert (run / ATTACKS).read_text().splitlines()[1] == f"test,3,l2,{PGD},0.10000000149011612,1,0.1,2.0,"
    with pytest.raises(TypeError):
        run.write_rows(ATTACKS, AttackRow, [row._replace(index=3.7)])
    assert len(run.read_rows(ATTACKS, AttackRow)) == 1  # a failed write leaves the old file


HEADER = "split,index,norm,attack,eps,success,distance\n"
GOOD = "test,0,l2,a,,1,2.0\n"


@pytest.mark.parametrize(
    "text, line",
    [
        ("index,label\n", 1),
        ("something else", 1),
        (HEADER + "test,0,l2,a,,1\n", 2),
        (HEADER + GOOD + "\n", 3),
        (HEADER + GOOD + GOOD.replace(",1,", ",yes,"), 3),
        (HEADER + GOOD.replace("0,", "0.5,", 1), 2),
        (HEADER + GOOD.replace(",,", ",x,"), 2),
        (HEADER + GOOD.replace("2.0", ""), 2),
        (HEADER + GOOD.replace("a", '"a'), 2),
        (HEADER + GOOD + GOOD.replace("a", "\udcff"), 3),
        (HEADER + GOOD + GOOD[:-2], 3),
    ],
)
def test_malformed_rows_are_named(run, text, line):
    """Rows that somebody registered, whatever they are."""
    (run / ATTACKS).write_text(text, errors="surrogateescape")
    run.register(ATTACKS)
    with pytest.raises(ValueError, match=f"attacks.csv, line {line}: ") as error:
        run.read_rows(ATTACKS, AttackRow)
    assert "\n" not in str(error.value)
    if line == 1:
        with pytest.raises(ValueError, match="line 1"):
            run.append_rows(ATTACKS, [AttackRow("test", 0, "l2", "a", None, True, 1.0)])
        assert (run / ATTACKS).read_text() == text  # untouched


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_the_queries_they_say():
    rows = certificates()
    attacks = attacked(rows)
    for eps in [0.0, rows[0].radius, 0.5, 1.0, 2.0, math.inf]:
        by_hand = sum(1 for r in rows if r.prediction == r.label and r.radius >= eps) / len(rows)
        assert numbers.certified_accuracy(rows, eps) == by_hand == numbers.accuracy_within(rows, eps)
    assert numbers.certified_accuracy(rows, 0.0) == numbers.clean_accuracy(rows)
    wrong = [rows[0]._replace(prediction=4, radius=9.0, margin=-9.0)]  # whatever stands there, it counts 0
    assert numbers.mean_radius(wrong) == numbers.median_radius(wrong) == numbers.mean_gap(wrong) == 0
    assert numbers.certified_accuracy(wrong, 0.0) == 0
    assert numbers.attacks(attacks) == [(CW, ()), (PGD, (0.5, 1.0)), (PGD_LINF, (0.1,))]
    assert numbers.attacked_count(attacks, PGD) == 40 and numbers.attacked_count(attacks[:-2], PGD) == 39
    by_hand = sum(1 for r in attacks if r.attack == CW and not (r.success and r.distance <= 0.7)) / 40
    assert numbers.robust_accuracy(attacks, CW, 0.7) == by_hand
    with pytest.raises(ValueError, match=r"not tried at eps 0.7, only at 0.5, 1.0"):
        numbers.robust_accuracy(attacks, PGD, 0.7)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0, 3))
def test_robust_is_at_least_certified_where_no_certificate_is_broken(seed, eps):
    rows = certificates(seed=seed)[:40]
    attacks = attacked(rows, seed=seed, eps=(eps,))
    assert numbers.broken_certificates(rows, attacks, Norm.L2) == []
    for attack in (CW, PGD):
        assert numbers.robust_accuracy(attacks, attack, eps) >= numbers.certified_accuracy(rows, eps)


def test_a_broken_certificate_is_found():
    rows = certificates()
    i = next(r.index for r in rows if r.radius > 0.1)
    hit = AttackRow("test", i, "l2", CW, None, True, rows[i].radius)  # at the radius itself: certified radii are closed
    assert numbers.broken_certificates(rows, [hit], "l2") == [(rows[i], hit)]
    innocent = [
        hit._replace(success=False, distance=math.inf),
        hit._replace(distance=math.nextafter(rows[i].radius, 9)),
        hit._replace(attack=PGD_LINF),
        hit._replace(index=999),
        hit._replace(index=next(r.index for r in rows if r.radius == 0), distance=0.0),
    ]
    assert numbers.broken_certificates(rows, innocent, "l2") == []
    assert numbers.broken_certificates([r._replace(kind="nominal") for r in rows], [hit], "l2") == []
    with pytest.raises(ValueError, match="must name its norm"):
        numbers.attack_norm("pgd_l2_linf")


def test_what_is_no_proof_is_not_certified():
    rows = certificates()
    for kind in ("nominal", "statistical"):
        with pytest.raises(ValueError, match="only a proof may be called certified"):
            numbers.certified_accuracy([r._replace(kind=kind) for r in rows], 0.3)
    mixed = [*rows[:-1], rows[-1]._replace(kind="nominal")]
    for query in (numbers.mean_radius, numbers.median_radius, numbers.kind_of):
        with pytest.raises(ValueError, match="one kind of claim"):
            query(mixed)
    with pytest.raises(ValueError, match="each may be counted once"):
        numbers.clean_accuracy([*rows, rows[0]])
    with pytest.raises(ValueError, match="no rows"):
        numbers.clean_accuracy([])


@pytest.mark.parametrize("n", [1797, 10000])
def test_percent_of_a_claim_is_rounded_down(n):
    for k in range(0, n + 1, 7):
        assert round(float(percent(k / n, claim=True)) * 100) == 10000 * k // n  # in integers: exact
    assert (percent(2 / 3), percent(2 / 3, claim=True)) == ("66.67", "66.66")
    assert percent((0.0001 + 0.0003) / 2, claim=True) == "0.02"
    assert decimal(1.58409, claim=True) == "1.5840" and decimal(math.inf) == "inf"


# -------------------------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize("kind", ["proof", "statistical", "nominal"])
def test_summary_has_documented_keys_only(kind):
    rows = certificates(kind=kind)
    content = summary_of(configuration(), rows, attacked(rows))
    assert content.keys() <= KEYS.keys()
    assert any(key.startswith("certified") for key in content) == (kind == "proof") == ("mean_radius" in content)
    word = numbers.WORDS[Kind(kind)]
    smaller = [row._replace(radius=row.radius / 1.25) for row in rows]
    assert content[f"{word}_accuracy"]["0.3"] == numbers.accuracy_within(rows, 0.3)
    assert content[f"{word}_accuracy_by_construction"]["1.0"] == numbers.accuracy_within(smaller, 1.0)
    assert content["robust_accuracy"][PGD].keys() == {"0.5", "1.0"}
    assert content["robust_accuracy"][CW].keys() == {"0.3", "1.0"}
    assert content["certificates"] == {"pairwise": kind} and content["seconds"] == {
        "train": 1.5,
        "bound": 0.5,
        "certify": 2.0,
    }
    plain = json.loads(as_json(content))
    assert plain["layers"] == [{"layer": "0", "norm": None, "lipschitz": 0.8}]
    assert {**plain, "layers": None} == {**content, "layers": None}
    told = console(run_table(plain))
    assert ("certified" in told) == (kind == "proof") and f"{word} accuracy at l2 0.3" in told


def test_of_several_proofs_the_largest_radius_counts_and_a_proof_before_an_estimate():
    one, two = certificates(), [row._replace(certificate="other") for row in certificates(seed=1)]
    two = [
        b._replace(label=a.label, prediction=a.prediction, radius=b.radius * (a.radius > 0))
        for a, b in zip(one, two, strict=True)
    ]
    guess = [row._replace(certificate="guess", kind="nominal", radius=9.0 * (row.radius > 0)) for row in one]
    rows = {"guess": guess, "pairwise": one, "other": two}
    results = Results(rows, {label: facts_of(mine) for label, mine in rows.items()}, [], [], [])
    best = results.best(Kind.PROOF)
    assert [row.radius for row in best] == [max(a.radius, b.radius) for a, b in zip(one, two, strict=True)]
    assert {row.certificate for row in best} == {"pairwise", "other"}
    content = summary(results, config=configuration(), eps=[0.3], seconds={"train": 0.0}, environment=ENVIRONMENT)
    assert content["kind"] == "proof" and content["certificates"].keys() == rows.keys()
    assert content["certified_accuracy"]["0.3"] == numbers.certified_accuracy(best, 0.3)
    assert content["nominal_accuracy"]["0.3"] == numbers.accuracy_within(guess, 0.3)
    for own, other in ((two, one), (one, two)):  # what is no number hides no radius
        kept, own[0] = own[0], own[0]._replace(radius=math.nan)
        assert results.best(Kind.PROOF)[0].radius == other[0].radius
        own[0] = kept
    results.certificates["other"][0] = two[0]._replace(prediction=7)
    with pytest.raises(ValueError, match="disagree on image 0"):
        results.best(Kind.PROOF)


def console(what, width=120):
    from rich.console import Console

    target = Console(width=width)
    with target.capture() as captured:
        target.print(what)
    return captured.get()


# -------------------------------------------------------------------------------------------------------------- curves


def test_curves_are_the_numbers_at_every_radius():
    rows = certificates()
    attacks = attacked(rows)
    certified, cw, pgd = curves.curves(rows, attacks, "l2")
    for eps in [0.0, 0.3, 0.9, 2.0, *(r.radius for r in rows[:9]), *(a.distance for a in attacks[:9])]:
        if math.isfinite(eps):
            after = np.searchsorted(certified.x, eps, side="left")  # constant up to each x, with it
            assert ([*certified.y, 0.0])[after] == pytest.approx(numbers.certified_accuracy(rows, eps))
            before = np.searchsorted(cw.x, eps, side="right") - 1
            assert cw.y[before] == pytest.approx(numbers.robust_accuracy(attacks, CW, eps))
    assert list(pgd.x) == [0.0, 0.5, 1.0]
    assert pgd.y[0] == numbers.clean_accuracy(rows[:40])


def test_figures_are_written(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules  # by another test
    runs = find_runs(
        [written(tmp_path / "a", configuration()), written(tmp_path / "b", configuration(), kind="nominal")]
    )
    odd = [certificates()[0]._replace(prediction=0, label=1)]  # everything wrong
    endless = [certificates()[0]._replace(radius=math.inf)]
    figures = [
        curves.run_figure(runs[0].certificate_rows, runs[0].attack_rows, "l2", "title"),
        curves.run_figure(odd, [], "linf", ""),
        curves.run_figure(endless, [], "l2", ""),
        curves.overlay_figure([*runs, runs[0]], ["one name", "_$\\frac$ 漢\x1b " * 30, "one name"], "a $\\frac$ title"),
    ]
    for figure in figures:
        files = drawn(figure, "x")
        assert files["x.png"].startswith(b"\x89PNG") and ElementTree.fromstring(files["x.svg"]).tag.endswith("svg")
    one, two = (drawn(curves.overlay_figure(runs, ["a", "b"]), "x") for _ in range(2))
    assert one == two and b">certified (60 images)</text>" in one["x.svg"]
    labels = [text.get_text() for text in figures[3].legends[0].get_texts()]
    assert labels[0] == "one name" and labels.count("one name") == 1
    assert "certified (60 images)" in labels and "nominal (60 images)" in labels
    assert any(PGD_LINF in text.get_text() for text in figures[0].legends[0].get_texts())
    assert ("matplotlib.pyplot" in sys.modules) == loaded
