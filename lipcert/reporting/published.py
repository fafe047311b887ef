"""The papers' tables as data: conf/table/<paper>/<table>.yaml has rows to train and what was published of each.

A file has the keys of `Table`, and its rows those of `Row`, some of which may stand before the rows to hold for all of
them. Where it has `variants`, each row is trained once for each variant, and its `published` and `uncertain` are given
by variant.
"""

import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_origin

import yaml

from lipcert.configuration import nearest

SHARED = ("command", "recipe", "overrides", "seeds")  # keys of a row that may stand before the rows
BY_VARIANT = ("published", "uncertain")


@dataclass(frozen=True)
class Column:
    """A number of the table: its heading, and the `key` of summary.json that answers to it, with parts separated by /.

    `key` is None where a run does not record the number; {radius} in it is the row's. `unit` is percent (summary.json
    has fractions of 1) or number. `complement`: the paper prints 100 % minus the number.
    """

    title: str
    key: str | None
    unit: str
    complement: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row, or one of its variants: what computes it (nothing if not `trained`), and what the paper prints."""

    name: str
    title: str
    command: str = "train"  # or separation
    trained: bool = True
    recipe: str | list = ""  # of conf/experiment; those of a list are laid over each other
    overrides: list[str] = field(default_factory=list)  # what the row adds to its recipe
    seeds: list[int] = field(default_factory=list)  # of the runs behind a published mean or median
    radius: float | None = None
    published: dict[str, float] = field(default_factory=dict)  # by column
    uncertain: dict[str, str] = field(default_factory=dict)  # why the value of a column is not to be relied on
    at_least: list[str] = field(default_factory=list)  # columns whose value is a lower bound
    note: str = ""

    def arguments(self) -> list[str]:
        """The row as overrides of its command."""
        recipe = self.recipe if isinstance(self.recipe, str) else f"[{','.join(self.recipe)}]"
        return [*([f"experiment={recipe}"] if recipe else []), *self.overrides]

    def shell(self, *more: str) -> str:
        """The row as a line for the shell, with `more` overrides; a sweep where it has several seeds."""
        seeds = [f"seed={','.join(map(str, self.seeds))}"] if self.seeds else []
        sweep = ["-m"] if len(self.seeds) > 1 else []
        return shlex.join(["lipcert", self.command, *sweep, *self.arguments(), *seeds, *more])


@dataclass(frozen=True)
class Table:
    """A published table, its columns and rows by name."""

    name: str
    title: str
    source: str  # the paper and its year
    place: str  # the table in it, or the section whose text has the numbers
    columns: dict[str, Column]
    rows: dict[str, Row]
    note: str = ""
    claims: list[str] = field(default_factory=list)  # what the table is evidence for
    attacks: list[list[str]] = field(default_factory=list)  # run on what is trained: overrides of `lipcert attack`
    analyses: list[list[str]] = field(default_factory=list)  # the same of `lipcert certify`
    variants: dict[str, Any] = field(default_factory=dict)
    command: str = "train"
    recipe: str | list = ""
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def commands(self, row: Row, directory: str, *more: str) -> Iterator[str]:
        """The shell's lines that compute a row: its own, whose output goes to `directory`, then those on its runs."""
        if not row.trained:
            return
        yield row.shell(*more, f"output_dir={directory}")
        for run in [f"{directory}/{job}" for job in range(len(row.seeds))] if len(row.seeds) > 1 else [directory]:
            for command, ways in (("attack", self.attacks), ("certify", self.analyses)):
                for overrides in ways:
                    yield shlex.join(["lipcert", command, f"run={run}", *overrides, *more])


def names() -> list[str]:
    """The names of the shipped tables, <paper>/<table>, in the order in which a reader looks for them."""
    found = [path.relative_to(_folder()).with_suffix("").as_posix() for path in _folder().rglob("*.yaml")]
    return sorted(found, key=lambda name: re.sub(r"\d+$", lambda digits: digits[0].zfill(2), name))


def load(name: str) -> Table:
    """The shipped table of that name. Raises ValueError if there is none (with the nearest name), or as `read` does."""
    if name not in names():
        raise ValueError(f"`table={name}`: there is no such table{nearest(name, names())}")
    return read(yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8")), f"conf/table/{name}.yaml")


def read(content: Any, where: str) -> Table:
    """The table that the content of a file says. Raises ValueError naming the file (`where`) and the key in error."""
    _check(content, Table, where)
    columns, rows = {}, {}
    for name, node in content["columns"].items():
        columns[name] = Column(**_check(node, Column, where, f"columns.{name}."))
        if columns[name].unit not in ("percent", "number"):
            raise ValueError(f"{where}: `columns.{name}.unit` must be percent or number, got {columns[name].unit!r}")
    for name, node in content["rows"].items():
        for row in _rows(content, name, node, where):
            rows[row.name] = row
            for key in ("published", "uncertain", "at_least"):
                if unknown := set(getattr(row, key)) - set(columns):
                    raise ValueError(f"{where}: `rows.{name}.{key}` names {unknown.pop()}, which is no column")
            for column, value in row.published.items():
                if type(value) not in (int, float):
                    raise ValueError(f"{where}: `rows.{name}.published`: {column} must be a number, got {value!r}")
            if row.trained and row.command == "train" and not row.recipe:
                raise ValueError(f"{where}: `rows.{name}.recipe` must be given, or trained: false")
    return Table(**{**content, "columns": columns, "rows": rows})


def _rows(content: dict[str, Any], name: str, node: Any, where: str) -> Iterator[Row]:
    """The row, or all of its variants. What stands later wins, but titles and overrides add up."""
    _check(node, Row, where, f"rows.{name}.", given=("name",))
    shared = {key: content[key] for key in SHARED if key in content}
    variants, common = content.get("variants", {}), dict(node)
    own = {key: common.pop(key, {}) for key in BY_VARIANT} if variants else {}
    for key, values in own.items():
        if unknown := set(values) - set(variants):
            raise ValueError(f"{where}: `rows.{name}.{key}` names {unknown.pop()}, which is no variant")
    for which, variant in variants.items() if variants else [("", {})]:
        if variants:
            _check(variant, Row, where, f"variants.{which}.", given=("name",))
        layers = [shared, common, variant, {key: values[which] for key, values in own.items() if which in values}]
        merged = {key: value for layer in layers for key, value in layer.items()}
        merged["title"] = ", ".join(layer["title"] for layer in layers if "title" in layer)
        merged["overrides"] = [override for layer in layers for override in layer.get("overrides", [])]
        yield Row(**{**merged, "name": f"{name}_{which}" if which else name})


def _check(node: Any, form: type, where: str, path: str = "", given: Collection[str] = ()) -> dict[str, Any]:
    """The mapping itself, if it has the fields of `form`, but for those `given` otherwise, each of its type."""
    if not isinstance(node, dict):
        raise ValueError(f"{where}: `{path.removesuffix('.') or 'the file'}` must be a mapping, got {node!r}")
    known = {f.name: f for f in fields(form) if f.name not in given}
    for key, value in node.items():
        if key not in known:
            raise ValueError(f"{where}: `{path}{key}` is no key{nearest(str(key), list(known))}")
        kind: Any = known[key].type
        if not isinstance(value, kind if get_origin(kind) in (None, UnionType) else get_origin(kind)):
            raise ValueError(f"{where}: `{path}{key}` is of the wrong type: {value!r}")
    for key, f in known.items():
        if key not in node and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: `{path}{key}` must be given")
    return node


def _folder() -> Path:
    return Path(import_module("lipcert.conf").__path__[0]) / "table"
