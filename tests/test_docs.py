"""What the documentation shows is what happens: commands run, tables say what the code says, links lead somewhere."""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import lipcert

from lipcert.contracts import AttackRow, CertificateRow, StabilityRow
from lipcert.runs import layout

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MEASURED = [page for page in PAGES if page.parent.name in ("results", "benchmarks") or "results" in page.parts]
BY_CI = ("main", "tests")  # blocks of the README that `.ci/run` runs
LANGUAGES = ("sh", "python", "yaml", "text")
RUN_DOCS = ROOT / "scripts" / "run_docs.py"
run_docs = runpy.run_path(str(RUN_DOCS))
write_tables = runpy.run_path(str(ROOT / "scripts" / "write_tables.py"))


def blocks(page: Path) -> list:
    return list(run_docs["blocks"](page.read_text(encoding="utf-8")))


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_run_or_marked_as_long(page):
    """What is neither is run by `test_a_page_shows_what_happens`; no fence escapes by its form or its language."""
    found = blocks(page)
    assert len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.M)) == 2 * len(found)
    for block in found:
        assert block.language in LANGUAGES, block
        assert not block.mark or block.mark.startswith("long") or (page == README and block.mark in BY_CI), block


def test_the_two_commands_of_the_readme_are_those_that_ci_runs():
    assert [block.mark for block in blocks(README) if block.mark in BY_CI] == list(BY_CI)
    assert "<!-- tests -->" in (ROOT / ".ci/run").read_text()
    assert len(README.read_text().splitlines()) <= 150


def test_tables_say_what_the_code_says():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert write_tables["written"](text) == text, f"{page}: run scripts/write_tables.py"


def test_every_file_and_column_of_a_run_is_described():
    page = (ROOT / "docs/run.md").read_text(encoding="utf-8")
    passing = {layout.LOCK, layout.HOLDER, layout.FAILURE, layout.RANKS_LOG, layout.RANKS_FOLDER, layout.SWEEP}
    files = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)} - passing
    listed = set(re.findall(r"`([^`]+)`", page.split("## Files")[1].split("## Columns")[0]))
    assert all(any(each.startswith(file) for each in listed) for file in files), files
    for row in (CertificateRow, AttackRow, StabilityRow):
        name = {"CertificateRow": layout.CERTIFICATES, "AttackRow": layout.ATTACKS}.get(row.__name__, layout.STABILITY)
        table = re.search(rf"^`{name}`[^\n]*:\n\n((?:\|.*\n)+)", page, re.M)
        assert table, name
        columns = [
            column for line in table[1].splitlines()[2:] for column in re.findall(r"`(\w+)`", line.split("|")[1])
        ]
        assert columns == list(row._fields)


def test_links_lead_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", page.read_text(encoding="utf-8")):
            assert re.match(r"https?://", target) or (page.parent / target).exists(), (page, target)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("accuracy 97.1 %\n", "accuracy   3 %\n"),
        ("a\n…\nd 1\n", "a\nb\nc\nd 25\n"),
        ("…\n", "anything\nat all\n"),
        ("run: outputs/l2nnn-2026-01-01_00-00-00\n", "\nrun: outputs/l2nnn-2027-12-31_23-59-59\n"),
    ],
)
def test_numbers_may_differ_from_what_a_page_shows(page, printed):
    assert run_docs["shown"](page, printed).splitlines()[-1] in [*printed.splitlines(), "…"]


@pytest.mark.parametrize(
    ("page", "printed"),
    [("accuracy 97 %\n", "error 97 %\n"), ("a\n", "a\nb\n"), ("a\nb\n", "a\n"), ("a\n…\nd\n", "a\nb\n"), ("a\n", "")],
)
def test_words_may_not(page, printed):
    with pytest.raises(ValueError, match="first"):
        run_docs["shown"](page, printed)


RUN = [page for page in PAGES if page not in MEASURED and any(block.is_run for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=named)
def test_a_page_shows_what_happens(page):
    done = subprocess.run([sys.executable, RUN_DOCS, page], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="needs pip install -e '.[docs]'")
def test_the_notebook_shows_what_happens():
    command = [sys.executable, ROOT / "scripts" / "run_notebook.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


STUBS = 'lipcert() { printf "%s\\0" "$@" END; }; for n in pip pytest python tensorboard; do eval "$n() { :; }"; done'
INLINE = re.compile(r"`lipcert ([a-z]+ [^`\n…|]+)`")
OPEN = re.compile(r"NAME|TABLE|KEY|myconf|mlp")  # words that stand for what does not exist


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `lipcert` on a page that is not run, as bash would pass them."""
    text = page.read_text(encoding="utf-8")
    found = [shlex.split(words) for words in INLINE.findall(text) if not OPEN.search(words)]
    for block in blocks(page):
        if block.language == "sh" and (page in MEASURED or block.mark.startswith("long")) and "needs" not in block.mark:
            script = f"{STUBS}\n" + re.sub(r"^(mkdocs|ruff|OMP).*$", "", block.body, flags=re.M)
            told = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
            found += [words.strip("\0").split("\0") for words in told.split("END\0") if words]
    return found


@pytest.mark.slow
def test_commands_that_are_not_run_are_understood(tmp_path, monkeypatch, capsys):
    """Their configurations compose. Words like PATH stand for something."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for command, *arguments in commands(page):
            first = [re.sub(r"^([^=]+=[^,(\[{]+),.*", r"\1", word) for word in arguments if word != "-m"]  # of a sweep
            told = lipcert(capsys, command, *first, *([] if {"--cfg", "--help"} & {*first} else ["--cfg", "job"]))
            assert told.status == 0, (named(page), command, arguments, told.err)
