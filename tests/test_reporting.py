"""Rows survive everything, every number is the query it says it is, and nothing but a proof is called certified."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcert.contracts import AttackRow, CertificateRow, Norm
from lipcert.reporting import curves, numbers, record
from lipcert.reporting.groups import differing_keys, group_by_seed, group_names
from lipcert.reporting.rows import append_rows, read_rows, write_rows
from lipcert.reporting.runs import find_runs, run_directories, unfinished
from lipcert.reporting.table import comparison

CW, PGD, PGD_LINF = "carlini_wagner_l2-1000x9", "pgd_l2-40", "pgd_linf-40"
ENVIRONMENT = {"device": "cpu", "versions": {"torch": "2"}, "git_commit": None, "seed": 1}


def certificates(n=60, scale=1.0, seed=0, kind="proof"):
    """Rows with about a tenth of the images wrong."""
    draw = np.random.default_rng(seed)
    right = draw.random(n) > 0.1
    radius = np.abs(draw.normal(scale, scale / 2, n)) * right
    return [
        CertificateRow(i, 3, 3 if ok else 4, float(r * math.sqrt(2)) if ok else -0.1, float(r), kind)
        for i, (ok, r) in enumerate(zip(right, radius, strict=True))
    ]


def attacked(rows, n=40, eps=(0.5, 1.0), seed=0):
    """What sound certificates allow: every distance beyond the radius; one attack in three finds nothing."""
    draw = np.random.default_rng(seed)
    out = []
    for row in rows[:n]:
        wrong, found = row.prediction != row.label, draw.random() < 2 / 3
        distance = 0.0 if wrong else row.radius * (1.01 + draw.random()) if found else math.inf
        out.append(AttackRow(row.index, CW, None, wrong or found, distance))
        for e in eps:
            hit = distance * 1.1 <= e
            out.append(AttackRow(row.index, PGD, e, hit, 0.0 if wrong else e if hit else math.inf))
        out.append(AttackRow(row.index, PGD_LINF, 0.1, wrong, 0.0 if wrong else math.inf))
    return out


def configuration(seed=1, model="l2nnn", **loss):
    return {
        "seed": seed,
        "output_dir": f"outputs/{seed}",
        "run": {"started": seed},
        "model": {"_target_": f"lipcert.models.{model}.Model"},
        "dataset": {"_target_": "lipcert.datasets.digits.Digits", "seed": seed},
        "loss": {"_target_": "lipcert.losses.l2nnn.Loss", "omega": 1.0} | loss,
    }


def summary_of(config, rows, attacks, norm="l2", **changes):
    return record.summary(
        config=config,
        certificate_rows=rows,
        attack_rows=attacks,
        norm=norm,
        eps={"l2": [0.3, 1.0], "linf": [0.1]},
        report={"lipschitz_bound": 0.8, "enlargement": 1.25, "layers": [{"name": "0", "norm": np.float64("nan")}]},
        seconds={"train": 1.5, "certify": 2.0},
        environment=ENVIRONMENT,
        **changes,
    )


def written(path: Path, config, *, scale=1.0, kind="proof", data_seed=0, **changes) -> Path:
    rows = certificates(scale=scale, kind=kind, seed=data_seed)
    attacks = attacked(rows)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    write_rows(path / "certificates.csv", CertificateRow, rows)
    write_rows(path / "attacks.csv", AttackRow, attacks)
    record.write_json_atomic(path / "summary.json", summary_of(config, rows, attacks, **changes))
    return path


# ---------------------------------------------------------------------------------------------------------------- rows

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))
certificate_rows = st.builds(
    CertificateRow, st.integers(), st.integers(), st.integers(), st.floats(), st.floats(), words
)
attack_rows = st.builds(AttackRow, st.integers(), words, st.none() | st.floats(), st.booleans(), st.floats())


def same(a, b):
    """Equal bit for bit, NaN included."""
    return len(a) == len(b) and all(type(x) is type(y) and repr(x) == repr(y) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.lists(certificate_rows, max_size=5), st.lists(attack_rows, min_size=1, max_size=5), st.integers(1, 200))
def test_rows_round_trip_and_survive_truncation(tmp_path_factory, certificate, attack, cut):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "c.csv", CertificateRow, certificate)
    assert same(read_rows(folder / "c.csv", CertificateRow), certificate)
    append_rows(folder / "a.csv", attack)
    append_rows(folder / "a.csv", attack)
    assert same(read_rows(folder / "a.csv", AttackRow), attack * 2)

    # Killed anywhere, even within a character: a prefix of the rows is left, and writing goes on behind it.
    data = (folder / "a.csv").read_bytes()[:-cut]
    (folder / "a.csv").write_bytes(data)
    left = read_rows(folder / "a.csv", AttackRow)
    assert same(left, (attack * 2)[: max(data.count(b"\n") - 1, 0)])
    append_rows(folder / "a.csv", attack)
    assert same(read_rows(folder / "a.csv", AttackRow), left + attack)
    assert sorted(p.name for p in folder.iterdir()) == ["a.csv", "c.csv"]


def test_rows_take_numpy_numbers(tmp_path):
    row = AttackRow(np.int64(3), PGD, np.float32(0.1), np.bool_(True), np.float64(0.1))
    write_rows(tmp_path / "a.csv", AttackRow, [row])
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == f"3,{PGD},0.10000000149011612,1,0.1"
    with pytest.raises(TypeError):
        write_rows(tmp_path / "a.csv", AttackRow, [row._replace(index=3.7)])
    assert len(read_rows(tmp_path / "a.csv", AttackRow)) == 1  # a failed write leaves the old file


HEADER = "index,attack,eps,success,distance\n"


@pytest.mark.parametrize(
    "text, line",
    [
        ("index,label\n", 1),
        ("something else", 1),
        (HEADER + "0,a,,1\n", 2),
        (HEADER + "0,a,,1,2.0\n\n", 3),
        (HEADER + "0,a,,1,2.0\n1,a,,yes,2.0\n", 3),
        (HEADER + "0.5,a,,1,2.0\n", 2),
        (HEADER + "0,a,x,1,2.0\n", 2),
        (HEADER + "0,a,,1,\n", 2),
        (HEADER + '0,"a,,1,2.0\n', 2),
        (HEADER + "0,a,,1,2.0\n1,\udcff,,1,2.0\n", 3),
    ],
)
def test_malformed_rows_are_named(tmp_path, text, line):
    path = tmp_path / "attacks.csv"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=f"attacks.csv, line {line}: ") as error:
        read_rows(path, AttackRow)
    assert "\n" not in str(error.value)
    if line == 1:
        with pytest.raises(ValueError, match="line 1"):
            append_rows(path, [AttackRow(0, "a", None, True, 1.0)])
        assert path.read_text() == text  # untouched


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
    hit = AttackRow(i, CW, None, True, rows[i].radius)  # at the radius itself: certified radii are closed
    assert numbers.broken_certificates(rows, [hit], "l2") == [(rows[i], hit)]
    innocent = [
        hit._replace(success=False, distance=math.inf),
        hit._replace(distance=math.nextafter(rows[i].radius, 9)),
        hit._replace(attack=PGD_LINF),
        hit._replace(index=999),
        AttackRow(next(r.index for r in rows if r.radius == 0), CW, None, True, 0.0),
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
        assert round(float(numbers.percent(k / n, claim=True)) * 100) == 10000 * k // n  # in integers: exact
    assert (numbers.percent(2 / 3), numbers.percent(2 / 3, claim=True)) == ("66.67", "66.66")
    assert numbers.percent((0.0001 + 0.0003) / 2, claim=True) == "0.02"
    assert numbers.decimal(1.58409, claim=True) == "1.5840" and numbers.decimal(math.inf) == "inf"


# -------------------------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize("kind", ["proof", "statistical", "nominal"])
def test_summary_has_documented_keys_only(tmp_path, kind):
    rows = certificates(kind=kind)
    content = summary_of(configuration(), rows, attacked(rows))
    assert content.keys() <= record.KEYS.keys()
    assert any(key.startswith("certified") for key in content) == (kind == "proof") == ("mean_radius" in content)
    word = numbers.WORDS[numbers.Kind(kind)]
    smaller = [row._replace(radius=row.radius / 1.25) for row in rows]
    assert content[f"{word}_accuracy"]["0.3"] == numbers.accuracy_within(rows, 0.3)
    assert content[f"{word}_accuracy_by_construction"]["1.0"] == numbers.accuracy_within(smaller, 1.0)
    assert content["robust_accuracy"][PGD].keys() == {"0.5", "1.0"}
    assert content["robust_accuracy"][CW].keys() == {"0.3", "1.0"}
    assert content["layers"] == [{"name": "0", "norm": None}]
    record.write_json_atomic(tmp_path / "summary.json", content)
    assert json.loads((tmp_path / "summary.json").read_text()) == content
    console(record.run_table(content, tmp_path))
    before = summary_of(configuration(), [], [], finished=False)
    assert before.keys() <= record.KEYS.keys() and not any("accuracy" in key for key in before if before[key])
    console(record.run_table(before))


def console(what):
    from rich.console import Console

    target = Console(width=120, record=True, quiet=True)
    with target.capture() as captured:
        target.quiet = False
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
        curves.overlay_figure([*runs, runs[0]], ["one name", "a name " * 30, "one name"], "title"),
    ]
    for i, figure in enumerate(figures):
        curves.save_png(figure, tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in figures[3].legends[0].get_texts()]
    assert labels[0] == "one name" and labels.count("one name") == 1
    assert "certified (60 images)" in labels and "nominal (60 images)" in labels
    assert any(PGD_LINF in text.get_text() for text in figures[0].legends[0].get_texts())
    assert ("matplotlib.pyplot" in sys.modules) == loaded


# ---------------------------------------------------------------------------------------------------- runs and tables


def test_runs_are_found(tmp_path):
    for name in ("sweep/0", "sweep/2", "sweep/10", "deep/x/0", "deep/x/1"):
        written(tmp_path / name, configuration())
    (tmp_path / "sweep/0/.hydra").mkdir()
    (tmp_path / "sweep/0/.hydra/config.yaml").touch()

    def names(*paths):
        return [str(run.relative_to(tmp_path)) for run in run_directories([tmp_path / path for path in paths])]

    assert names("sweep") == names("sweep/*") == ["sweep/0", "sweep/2", "sweep/10"]
    assert names("sweep/2", "*", "deep") == ["sweep/2", "deep/x/0", "deep/x/1", "sweep/0", "sweep/10"]
    for nothing in ("nowhere", "no*where", "sweep/0/.hydra/config.yaml", "sweep/0/summary.json"):
        with pytest.raises(ValueError, match=r"lipcert train"):
            names(nothing)


def test_unfinished_and_damaged_runs_are_named(tmp_path):
    written(tmp_path / "0", configuration())
    written(tmp_path / "1", configuration(), finished=False)
    (written(tmp_path / "2", configuration()) / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"/1, .*/2: `lipcert train resume=") as error:
        find_runs([tmp_path])
    assert "\n" not in str(error.value)
    assert [run.path.name for run in find_runs([tmp_path], skip_unfinished=True)] == ["0"]
    assert [path.name for path in unfinished(run_directories([tmp_path]))] == ["1", "2"]
    with pytest.raises(ValueError, match="lipcert train resume="):
        find_runs([tmp_path / "1"], skip_unfinished=True)
    for name, text in (("summary.json", "{"), ("summary.json", '{"finished": true}'), ("config.yaml", "a: [")):
        path = written(tmp_path / name / str(len(text)), configuration())
        (path / name).write_text(text)
        with pytest.raises(ValueError, match=name) as error:
            find_runs([path])
        assert "\n" not in str(error.value)


def test_only_seeds_are_averaged(tmp_path):
    configs = [configuration(1), configuration(2), configuration(1, omega=3.0), configuration(1)]
    runs = find_runs([written(tmp_path / str(i), c, data_seed=i) for i, c in enumerate(configs)])
    assert differing_keys(configs) == ["seed", "dataset.seed", "loss.omega"]
    groups = group_by_seed(runs)
    assert [[run.path.name for run in group] for group in groups] == [["0", "1"], ["2"], ["3"]]  # a repeat is no sample
    names, left_out = group_names(groups)
    assert names == [f"loss.omega=1.0 ({runs[0].path})", "loss.omega=3.0", f"loss.omega=1.0 ({runs[3].path})"]
    assert left_out == []
    table = comparison(runs[:3])
    values = [numbers.certified_accuracy(run.certificate_rows, 0.3) for run in runs[:2]]
    column = [c.title for c in table.columns].index("certified l2 0.3")
    mean, std, n = table.cells[0][column]
    assert (mean, std, n) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 2)
    assert table.cells[1][column].std is None
    first, second = table.markdown().splitlines()[2:]
    assert "±" in first and "±" not in second
    header, line, *_ = table.csv().splitlines()
    assert line.split(",")[header.split(",").index("certified l2 0.3 mean")] == repr(mean)
    assert all(name in console(table.rich()) for name in ("loss.omega=3.0", PGD))


def test_what_follows_from_the_model_is_not_in_the_name(tmp_path):
    configs = [configuration(1), configuration(1, "other", _target_="lipcert.losses.other.Loss", kappa=2)]
    configs += [configuration(1, "other", _target_="lipcert.losses.other.Loss", kappa=3)]
    groups = group_by_seed(find_runs([written(tmp_path / str(i), c) for i, c in enumerate(configs)]))
    names, left_out = group_names(groups)
    assert names == ["model=l2nnn loss.kappa=(absent)", "model=other loss.kappa=2", "model=other loss.kappa=3"]
    assert left_out == ["loss._target_"]
    assert group_names(groups[:1]) == (["model=l2nnn"], [])


def test_a_nominal_run_never_enters_a_certified_column(tmp_path):
    paths = [
        written(tmp_path / "0", configuration()),
        written(tmp_path / "1", configuration(1, "tulip"), kind="nominal"),
    ]
    paths += [written(tmp_path / "2", configuration(1, "distance"), norm="linf")]
    table = comparison(find_runs(paths))
    for j, column in enumerate(table.columns):
        filled = [row[j] is not None for row in table.cells]
        if column.title.startswith("certified"):
            assert filled == ([False, False, True] if "linf" in column.title else [True, False, False])
        elif column.title.startswith("nominal"):
            assert filled == [False, True, False]
    titles = [column.title for column in table.columns]
    assert {"nominal l2 0.3", "certified l2 0.3", "certified linf 0.1", "nominal median l2 radius"} <= set(titles)


def test_reporting_needs_no_torch():
    code = """
import sys
from lipcert.reporting import curves, files, groups, numbers, record, rows, runs, table
print(*({name.partition(".")[0] for name in sys.modules} & {"torch", "hydra", "omegaconf", "lightning", "matplotlib"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
