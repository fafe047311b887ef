"""The page of `lipcert report`: what it says, that kinds of claim are kept apart, and that it is whole HTML."""

import math
import re
from html.parser import HTMLParser

import pytest
from test_reporting import CW, PGD, attacked, certificates, configuration, put_attacks, written

from lipcert.contracts import AttackRow, Norm, StabilityRow
from lipcert.report import meanings, page
from lipcert.report.deciles import deciles
from lipcert.report.figures import accuracy_figure, layer_figure
from lipcert.report.record import reach, read_record, standing, together
from lipcert.report.svg import themed
from lipcert.reporting.table import Column, comparison
from lipcert.runs import numbers
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import find_runs
from lipcert.runs.layout import CERTIFICATES, STABILITY

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Checked(HTMLParser):
    """Asserts that tags are balanced, ids unique, headings in order, and that nothing is loaded from elsewhere."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.ids, self.levels, self.texts = [], [], [], []
        self.labels, self.targets, self.tags = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)) and set(self.targets) <= set(self.ids)
        assert self.levels[0] == 1 and self.levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(self.levels, self.levels[1:], strict=False))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.levels += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        for name in LOADING & given.keys():
            assert given[name].startswith(("data:", "#")), given[name]
            self.targets += [given[name][1:]] if given[name].startswith("#") else []
        self.targets += [given[name] for name in ("aria-describedby", "aria-labelledby") if name in given]
        assert not any(name.startswith("on") for name in given) and tag != "script"
        if tag == "img" or given.get("role") == "img":
            assert given.get("alt") or given.get("aria-label")
        if tag == "th":
            assert given["scope"] in ("row", "col", "rowgroup")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def checked(runs, **settings) -> tuple[Checked, str]:
    html = page.render(find_runs(runs), **settings)
    assert len(html.encode()) < 5_000_000 and "http" not in html and "url(" not in html.replace("url(#", "")
    assert '<html lang="en">' in html and "prefers-color-scheme: dark" in html and 'class="skip"' in html
    assert html.count("<main") == html.count("<header") == html.count("<nav") == 1
    found = Checked(html)
    return found, found.text


def test_a_run_with_proofs_and_attacks(tmp_path):
    path = written(tmp_path / "run", configuration())
    found, text = checked([path])
    run = find_runs([path])[0]
    assert meanings.KINDS["proof"] in text and meanings.KINDS["nominal"] not in text
    assert "nominal l2" not in text and "Estimated, no guarantee" not in text
    for heading in ("Accuracy against the radius", "Accuracy and robustness by gap", "Images", "Commands", "Glossary"):
        assert heading in text
    for cells in comparison([run]).shown():
        assert all(cell in text for cell in cells[2:])
    assert "There are no pictures: " in text  # nothing was trained here
    assert CW in text and PGD in text and "Error curves" in text
    assert found.tags.count("svg") == found.tags.count("figcaption") == 5  # two norms, deciles, layers, error curves
    rows, attacks = run.certificate_rows, run.attack_rows
    assert any(row.eps is None for row in attacks) and f"{numbers.clean_accuracy(rows):.2%}".replace("%", " %") in text


@pytest.mark.parametrize("kind", ["nominal", "statistical"])
def test_without_a_proof_nothing_is_called_certified(tmp_path, kind):
    path = written(tmp_path / "run", configuration(), kind=kind)
    _, text = checked([path])
    assert meanings.KINDS[kind] in text and f"{kind} accuracy at l2" in text
    told = text.partition("Glossary What the words mean")[0].replace(meanings.KINDS[kind], "")
    assert not re.search(r"[Cc]ertified", told.replace("no certified", "")), re.findall(r".{40}[Cc]ertified.{40}", told)
    assert "neither proved nor refuted" not in told and "Proved" not in told


@pytest.mark.slow
def test_several_runs_of_several_kinds(tmp_path):
    paths = [
        written(tmp_path / "a", configuration()),
        written(tmp_path / "b", configuration(2), data_seed=1),
        written(tmp_path / "c", configuration(model="tulip"), kind="nominal"),
        written(tmp_path / "d", configuration(model="linf_dist"), norm="linf"),
    ]
    found, text = checked(paths, images=0)
    assert "Side by side" in text and "4 runs" in text and "2 seeds" in text
    names = page.names_of(find_runs(paths))
    assert len(set(names)) == 4 and all(name in text for name in names)
    assert f"{names[2]}: {meanings.KINDS['nominal']}" in text
    assert found.levels.count(3) > 4 * 4 and "images=0" in text
    groups = [text.index(heading) for key, heading in meanings.GROUPS.items() if key != "statistical"]
    assert groups == sorted(groups)


@pytest.mark.slow
def test_what_comes_from_a_run_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    config = configuration() | {"name": evil, "chosen": {"model": '"><img src=x onerror=alert(1)>'}, "tags": [evil]}
    path = written(tmp_path / "run", config)
    run = RunDirectory(path)
    facts = run.read_json("certificates.json")
    facts["test"]["pairwise"]["layers"] = [{"layer": "<b>$x_1$</b>", "norm": 2.0, "lipschitz": 2.0, "cost": 2.0}]
    run.write_json("certificates.json", facts)
    found, text = checked([path])
    assert evil in text and "<b>$x_1$</b>" in text and "src=x onerror" in text
    assert {"script", "b"} & set(found.tags) == set()
    html = page.render(find_runs([path]), title="<i>", extra=[("<u>", "<p id='mine'>of the caller</p>")])
    assert "<h1>&lt;i&gt;</h1>" in html and "&lt;u&gt;" in html and "<p id='mine'>of the caller</p>" in html


def test_a_damaged_run_is_refused_by_name(tmp_path):
    path = written(tmp_path / "run", configuration())
    found = find_runs([path])
    (path / CERTIFICATES).write_text("a\n")
    with pytest.raises(ValueError, match=f"{path}/certificates.csv is not what was written"):
        page.build(found)
    with pytest.raises(ValueError, match="needs runs"):
        page.build([])


def test_sections_are_there_where_rows_exist(tmp_path):
    path = written(tmp_path / "run", configuration())
    assert "Stability" not in checked([path])[1]
    rows = [StabilityRow("test", i, 0.1, 1.0 + i, 2.0 + i, 1.5) for i in range(60)]
    RunDirectory(path).write_rows(STABILITY, StabilityRow, rows)
    _, text = checked([path])
    assert "Stability" in text and "61.0000" in text and "prove nothing" in text


def test_figures_are_given_as_files_too(tmp_path):
    made = page.build(find_runs([written(tmp_path / "run", configuration())]), figures=True)
    names = {"accuracy-l2", "accuracy-linf", "deciles", "errors"}
    assert names == {name.rpartition(".")[0] for name in made.figures} - {"layers"}
    for name in names:
        assert made.figures[f"{name}.png"].startswith(b"\x89PNG") and b"<svg" in made.figures[f"{name}.svg"]


@pytest.mark.slow
def test_a_page_stays_small(tmp_path, monkeypatch):
    paths = [written(tmp_path / f"{i}", configuration(i), data_seed=i) for i in range(2)]
    monkeypatch.setattr(page, "MOST_BYTES", 500_000)
    found, text = checked(paths, images=0)
    assert text.count("Left out, for a page below 5 MB") == 0
    monkeypatch.setattr(page, "MOST_BYTES", 200_000)
    fewer, text = checked(paths, images=0)
    assert text.count("Left out, for a page below 5 MB") == 1 and fewer.tags.count("svg") < found.tags.count("svg")


def test_attacks_together_are_an_upper_bound_on_the_images_they_looked_at(tmp_path):
    path = written(tmp_path / "run", configuration())
    record = read_record(find_runs([path])[0], "run")
    found = together(reach(record, Norm.L2))
    assert sorted(found) == list(range(40))
    rows = {row.index: row for row in record.rows}
    attacks = record.run.attack_rows
    for eps in (0.0, 0.5, 1.0):
        left = standing(found, eps)
        proved = numbers.certified_accuracy([rows[i] for i in found], max(eps, 1e-9))
        assert proved <= left <= min(numbers.robust_accuracy(attacks, label, eps) for label in (CW,))
        if eps:
            assert left <= numbers.robust_accuracy(attacks, PGD, eps)
    assert together({"a": {0: 1.0, 1: math.inf}, "b": {1: 0.5, 2: 0.0}}) == {0: 1.0, 1: 0.5, 2: 0.0}


def test_an_unfinished_image_of_an_attack_does_not_count(tmp_path):
    path = written(tmp_path / "run", configuration())
    rows = certificates()
    put_attacks(RunDirectory(path), [row for row in attacked(rows) if row.attack == PGD])
    record = read_record(find_runs([path])[0], "run")
    half = [row for row in record.run.attack_rows if not (row.eps == 1.0 and row.index == 3)]
    object.__setattr__(record.run, "attack_rows", half)
    assert set(range(40)) - set(reach(record, Norm.L2)[PGD]) == {3}


def test_deciles_are_queries_on_the_rows():
    rows = certificates(100)
    parts = deciles(rows, {row.index: row.radius for row in rows[:50]}, [0.5])
    assert [part.images for part in parts] == [10] * 10
    assert sum(part.accuracy for part in parts) / 10 == pytest.approx(numbers.clean_accuracy(rows))
    assert sum(part.within[0.5] for part in parts) / 10 == pytest.approx(numbers.certified_accuracy(rows, 0.5))
    assert sum(part.attacked for part in parts) == 50
    gaps = [edge for part in parts for edge in (part.smallest, part.largest)]
    assert gaps == sorted(gaps)
    wrong = rows[0]._replace(prediction=4, margin=-9.0, gap=0.25)  # its label is neither of the two largest
    assert deciles([wrong], {}, [])[0].largest == 0.25 and deciles([wrong._replace(gap=None)], {}, [])[0].largest == 9.0
    assert len(deciles(rows[:3], {}, [])) == 3 and deciles([], {}, []) == []
    assert deciles([rows[0]._replace(margin=math.nan)], {}, []) == []


def test_shading_lies_between_the_proofs_and_the_attacks(tmp_path):
    record = read_record(find_runs([written(tmp_path / "run", configuration())])[0], "run")
    axes = accuracy_figure(record, "l2").axes[0]
    (area,) = axes.collections
    assert area.get_label() == "neither proved nor refuted"
    assert accuracy_figure(record, "linf").axes[0].collections[:] == []  # nothing is proved in that norm


@pytest.mark.parametrize("count", [1, 5, 90])
def test_any_number_of_layers_is_drawn(count):
    layers = [{"layer": f"layer {i}", "lipschitz": 1.1**i, "norm": 1.1, "cost": 1.1} for i in range(count)]
    assert len(layer_figure(layers).axes[0].patches) == min(count, 40)
    assert layer_figure([layers[0] | {"lipschitz": 1.0}, {"layer": "none", "lipschitz": None}]).axes


def test_every_column_has_a_meaning(tmp_path):
    paths = [written(tmp_path / f"{i}", configuration(i), kind=kind) for i, kind in enumerate(["proof", "nominal"])]
    for column in comparison(find_runs(paths)).columns:
        told = meanings.of_column(column)
        assert told.endswith(".") and ("bounds the Lipschitz" not in told or "gradient" in column.title), column
        assert ("proved" in told) == column.claim, column
    assert "must be 0" in meanings.of_column(Column("broken pgd_l2-40 1 × certified"))


def test_an_inlined_figure_keeps_its_names_to_itself():
    svg = '<?xml?><svg xmlns="http://x" viewBox="0 0 1 1"><metadata>m</metadata><g id="a"><use xlink:href="#a"/>'
    svg += '<path clip-path="url(#a)" style="stroke: #000000; fill: #0072b2" d="M 0.123456 1"/></g></svg>'
    assert themed(svg, "k") == (
        '<svg viewBox="0 0 1 1" aria-hidden="true" focusable="false"><g id="k-a"><use href="#k-a"/>'
        '<path clip-path="url(#k-a)" style="stroke: currentColor; fill: var(--c0)" d="M 0.12 1"/></g></svg>'
    )


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_texts_and_lines_stand_out_in_both_themes():
    style = (page.HERE / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.S)
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", theme))
        for ground in ("page", "panel"):
            for text in ("ink", "soft", "link", "muted"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ink"], colours["note"]) >= 4.5
        for line in ("focus", *(f"c{i}" for i in range(9))):
            assert contrast(colours[line], colours["page"]) >= 3, line


def test_attacks_in_a_third_norm_have_a_figure_of_their_own(tmp_path):
    path = written(tmp_path / "run", configuration())
    label = "fmn_l1-200"
    extra = [AttackRow("test", i, "l1", label, None, True, 3.0) for i in range(40)]
    put_attacks(RunDirectory(path), [*attacked(certificates()), *extra])
    assert "l1 radius (pixels in [0, 1])" in page.render(find_runs([path]))
