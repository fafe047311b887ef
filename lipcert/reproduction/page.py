"""The page of a table: published numbers, ours, verdicts, and how ours were computed; as Markdown, CSV and figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lipcert import files
from lipcert.reporting.plotting import drawn
from lipcert.reporting.published import Scale, Table, in_order
from lipcert.reproduction import printing
from lipcert.reproduction.cells import Cell, count
from lipcert.reproduction.claims import HOLDS
from lipcert.reproduction.figure import table_figure
from lipcert.reproduction.jobs import Job
from lipcert.reproduction.measured import counting
from lipcert.reproduction.running import STATE, State
from lipcert.runs.layout import SUMMARY

PAGE, CELLS, FIGURE, RESULT, INDEX = "table.md", "table.csv", "table.svg", "result.json", "tables.md"
MOST_BYTES = 1 << 24

Claims = Sequence[tuple[str, str]]  # text and verdict
Cells = Mapping[str, Mapping[str, Cell]]


def write(
    table: Table, name: str, scale: Scale, found: Cells, claims: Claims, due: Sequence[Job], folder: Path
) -> None:
    """Writes table.md, table.csv, table.svg and result.json into a folder.

    name    of the scale
    claims  each claim and its verdict
    due     the jobs behind ours
    """
    folder.mkdir(parents=True, exist_ok=True)
    minutes = minutes_of(due)
    text = "\n".join(_page(table, name, scale, found, claims, due, minutes))
    files.write_atomic(folder / PAGE, text + "\n")
    files.write_atomic(folder / CELLS, printing.as_csv(table, found))
    files.write_atomic(folder / FIGURE, drawn(table_figure(table, found), "table")["table.svg"])
    result: dict[str, Any] = {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "place": table.place,
        "scale": name,
    }
    result |= {"cells": count(found), "claims": [list(claim) for claim in claims], "minutes": minutes}
    files.write_atomic(folder / RESULT, files.as_json(result))


def minutes_of(due: Sequence[Job]) -> float:
    """What the commands of the jobs took, by the clock."""
    seconds = 0.0
    for folder in dict.fromkeys(job.folder for job in due):
        if (folder / STATE).exists():
            state = State(folder)
            seconds += sum(state.seconds(job) for job in due if job.folder == folder)
    return seconds / 60


def results(folder: Path) -> Iterator[str]:
    """A line for each scale at which a table was measured, where its pages are in `folder`."""
    for path in sorted(folder.glob(f"*/{RESULT}")):
        content = _result(path)
        claims = f"; {_claims(content)}" if content["claims"] else ""
        yield f"measured at scale={content['scale']}: {_cells(content)}{claims}"


def write_index(folder: Path) -> Path:
    """Writes tables.md into a folder: a line for each table that has a page below it. Returns its path."""
    found = {path: _result(path) for path in sorted(folder.rglob(RESULT), key=in_order)}
    lines = ["# The papers' tables", "", "Each beside what was published, as `lipcert reproduce` wrote them.", ""]
    words = [verdict for content in found.values() for _, verdict in content["claims"]]
    cells: dict[str, int] = {}
    for content in found.values():
        for word, number in content["cells"].items():
            cells[word] = cells.get(word, 0) + number
    lines += [f"- Cells: {', '.join(f'{number} {word}' for word, number in cells.items())}."]
    lines += [f"- Claims: {', '.join(f'{words.count(word)} {word}' for word in dict.fromkeys(words))}.", ""]
    lines += ["| table | what | scale | cells | claims | minutes by the clock |", "|---|---|---|---|---|---:|"]
    for path, content in found.items():
        link = f"[{content['table']}]({path.parent.relative_to(folder).as_posix()}/{PAGE})"
        row = [link, content["title"], content["scale"], _cells(content), _claims(content), f"{content['minutes']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    files.write_atomic(folder / INDEX, "\n".join(lines) + "\n")
    return folder / INDEX


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(files.read_regular(path, MOST_BYTES))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object")
    return content


def _result(path: Path) -> dict[str, Any]:
    """What `write` says of a table; ValueError where it is something else."""
    content = _read(path)
    texts = [content.get(key) for key in ("table", "title", "scale")]
    claims, counted = content.get("claims"), content.get("cells")
    pairs = claims if isinstance(claims, list) and all(isinstance(pair, list) for pair in claims) else [[None]]
    numbers = [*(counted.values() if isinstance(counted, dict) else [None]), content.get("minutes")]
    whole = all(isinstance(text, str) for text in [*texts, *(word for pair in pairs for word in pair)])
    if not whole or any(len(pair) != 2 for pair in pairs) or any(type(x) not in (int, float) for x in numbers):
        raise ValueError(f"{path} is damaged: delete it, and `lipcert reproduce` writes it again")
    return content


def _cells(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} {word}" for word, number in content["cells"].items())


def _claims(content: Mapping[str, Any]) -> str:
    held = sum(verdict == HOLDS for _, verdict in content["claims"])
    return f"{held} of {len(content['claims'])} claims hold" if content["claims"] else "none"


def _page(
    table: Table, name: str, scale: Scale, found: Cells, claims: Claims, due: Sequence[Job], minutes: float
) -> Iterator[str]:
    yield f"# {_authors(table.source)}: {table.place}"
    yield f"\n{table.title}. {table.source}. Written by `lipcert reproduce table={table.name} scale={name}`."
    if scale.note:
        yield f"\n**At this scale:** {scale.note}"
    yield ""
    yield from printing.as_markdown(table, found)
    yield ""
    for line in printing.counted(found):
        yield f"{line}\n"
    yield f"![Ours beside the published numbers]({FIGURE})"
    if claims:
        yield "\n## Claims\n"
        yield from (f"- **{verdict}**: {text}" for text, verdict in claims)
    if scale.reading:
        yield f"\n## Our reading\n\n{scale.reading}"
    if lines := list(printing.remarks(table)):
        yield "\n## Notes\n"
        yield from (f"- {line}" for line in lines)
    yield "\n## How\n"
    yield from _how(due, minutes)
    yield "\n<!-- long -->\n```sh"
    yield from commands(due)
    yield "```"


def _authors(source: str) -> str:
    """As a heading names them: one or two, or the first and others."""
    first, comma, _ = source.partition(",")
    return f"{first} et al." if comma and "&" not in first else first.partition(":")[0]


def _how(due: Sequence[Job], minutes: float) -> Iterator[str]:
    made = [content for job in due if (content := _summary(job))]
    seeds = sorted({job.seed for job in due if job.seed is not None})
    of = "" if len(made) == len(due) else f" of {len(due)}"
    yield f"- {len(made)}{of} runs, seeds {', '.join(map(str, seeds)) or 'none'}, {minutes:.0f} minutes by the clock"
    for job in counting(due):
        if job.tried:
            number = sum((other.table, other.row, other.seed) == (job.table, job.row, job.seed) for other in due)
            yield f"- {job.row.name}, seed {job.seed}: {', '.join(job.tried)}, by validation images, of {number} tried"
    if commits := sorted({_short(content["git_commit"]) for content in made if content.get("git_commit")}):
        yield f"- commit {', '.join(commits)}"
    for versions in {json.dumps(content["versions"], sort_keys=True) for content in made if content.get("versions")}:
        yield f"- {', '.join(f'{key} {value}' for key, value in json.loads(versions).items())}"
    devices = sorted({str(content.get("device")) for content in made if content.get("device")})
    vectors = torch.backends.cpu.get_cpu_capability()
    yield f"- device {', '.join(devices) or 'cpu'}; the processor of the machine that wrote this page has {vectors}"


def commands(due: Sequence[Job]) -> Iterator[str]:
    """The commands of each row, with one of its seeds."""
    first: dict[tuple, Job] = {}
    for job in due:
        first.setdefault((job.table, job.row.name, job.tried), job)
    for job in first.values():
        yield from _commands(job)


def _commands(job: Job) -> Iterator[str]:
    """The commands of a job, which say RUN for its directory, RUNS for that of all, and leave out where data lies."""
    runs = job.directory.parents[job.table.count("/") + 3]
    for line in job.shell():
        line = line.replace(str(job.directory), "RUN").replace(f"={runs}/", "=RUNS/")
        yield " ".join(word for word in line.split(" ") if not word.startswith("data_dir="))


def _short(commit: str) -> str:
    """A commit's first letters; where the source was changed after it, that is said."""
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def _summary(job: Job) -> dict[str, Any]:
    path = job.directory / SUMMARY
    return _read(path) if path.exists() else {}
