"""The papers' tables as data: conf/table/<paper>/<table>.yaml has rows to train and what was published of each.

A file has the keys of `Table`, and its rows those of `Row`, some of which may stand before the rows to hold for all of
them. Where it has `variants`, each row is trained once for each variant, and its `published` and `uncertain` are given
by variant.
"""

import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from lipcert.configuration import nearest

MEAN, MEDIAN = "mean", "median"
SHARED = ("command", "recipe", "overrides", "seeds")  # keys of a row that may stand before the rows
BY_VARIANT = ("published", "uncertain")


@dataclass(frozen=True)
class Column:
    """A number of the table.

    title       its heading
    key         what answers to it in a run's summary.json, with parts separated by /, or in another of its files, as in
                `tightness.json:medians/certified_radius`; {radius} is the row's, {row} its name; None where no run
                records the number
    unit        percent (files have fractions of 1) or number
    complement  the paper prints 100 % minus the number
    times       what the number is multiplied by
    per         the key of what it is divided by, in the same file
    of          rows of other tables that it is of, as TABLE/ROW, where {row} is this row's name; the largest counts
    """

    title: str
    key: str | None
    unit: str
    complement: bool = False
    times: float = 1.0
    per: str = ""
    of: list[str] = field(default_factory=list)
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
    tune: dict[str, list] = field(
        default_factory=dict
    )  # {key: values}: trained with each, the best in validation counts
    radius: float | None = None
    published: dict[str, float] = field(default_factory=dict)  # by column
    uncertain: dict[str, str] = field(default_factory=dict)  # why the value of a column is not to be relied on
    at_least: list[str] = field(default_factory=list)  # columns whose value is a lower bound
    of: str = ""  # the row of another table, as TABLE/ROW, whose runs its numbers are of, if it is not trained itself
    analyses: list[list[str]] = field(default_factory=list)  # of this row, beside the table's; {TABLE/ROW} is a run
    reference: str = ""  # the row that its numbers are compared with; "": the first one that is trained
    note: str = ""

    def candidates(self) -> list[list[str]]:
        """The overrides of each combination of the values that are tuned; one that has none where nothing is."""
        choices = ([f"{key}={value}" for value in values] for key, values in self.tune.items())
        return [list(combination) for combination in itertools.product(*choices)]

    def arguments(self, recipe: str | list = "") -> list[str]:
        """The row as overrides of its command, by its own recipe or by `recipe`."""
        chosen = recipe or self.recipe
        chosen = chosen if isinstance(chosen, str) else f"[{','.join(chosen)}]"
        return [*([f"experiment={chosen}"] if chosen else []), *self.overrides]


@dataclass(frozen=True)
class Claim:
    """What a table is evidence for, and the comparison of its numbers that tests it ("": none does)."""

    text: str
    test: str = ""


@dataclass(frozen=True)
class Scale:
    """What a table is made smaller by, so that it can be trained on a laptop.

    note       which data and networks stand for which
    reading    what we think of the numbers that were measured so
    minutes    of a processor, for all of it, as measured; None: not measured
    seeds      of every row
    recipe     in place of the rows' own
    overrides  added to every row
    rows       {row: {recipe, overrides}} of those that are trained, the latter added, or {row: {of: TABLE/ROW}} where
               another table's row is the same at this scale; {}: all of them
    keys       {column: key of summary.json}, where attacks have other settings
    radius     in place of the rows' own
    attacks, analyses  in place of the table's own; None: those
    without    tables whose rows are not looked at for columns that are of other tables' rows
    """

    note: str = ""
    reading: str = ""
    minutes: float | None = None
    seeds: list[int] = field(default_factory=list)
    recipe: str | list = ""
    overrides: list[str] = field(default_factory=list)
    rows: dict[str, dict] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    radius: float | None = None
    attacks: list[list[str]] | None = None
    analyses: list[list[str]] | None = None
    without: list[str] = field(default_factory=list)


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
    claims: list[Claim] = field(default_factory=list)
    attacks: list[list[str]] = field(default_factory=list)  # run on what is trained: overrides of `lipcert attack`
    analyses: list[list[str]] = field(default_factory=list)  # the same of `lipcert certify`
    variants: dict[str, Any] = field(default_factory=dict)
    command: str = "train"
    recipe: str | list = ""
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    statistic: str = MEAN  # over seeds, or median: what the paper prints
    laptop: Scale | None = None  # how it is trained on a laptop; None: no way is known

    def is_quoted(self, row: Row) -> bool:
        """Whether nothing of the row is computed here: others published its numbers."""
        return not (row.trained or row.of or any(column.of for column in self.columns.values()))


def names() -> list[str]:
    """The names of the shipped tables, <paper>/<table>, in the order in which a reader looks for them."""
    found = [path.relative_to(_folder()).with_suffix("").as_posix() for path in _folder().rglob("*.yaml")]
    return sorted(found, key=in_order)


def in_order(name: Any) -> str:
    """The key by which names and paths with numbers in them are sorted: table9 stands before table10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(3), str(name))


def load(name: str) -> Table:
    """The shipped table of that name. Raises ValueError if there is none (with the nearest name), or as `read` does."""
    if name not in names():
        raise ValueError(f"`table={name}`: there is no such table{nearest(name, names())}")
    return read(yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8")), f"conf/table/{name}.yaml")


def read(content: Any, where: str) -> Table:
    """The table that the content of a file says. Raises ValueError naming the file (`where`) and the key in error."""
    _check(content, Table, where)
    if content.get("statistic", MEAN) not in (MEAN, MEDIAN):
        raise ValueError(f"{where}: `statistic` must be mean or median, got {content['statistic']!r}")
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
            if not all(isinstance(values, list) and values for values in row.tune.values()):
                raise ValueError(f"{where}: `rows.{name}.tune` must give a list of values for each key, got {row.tune}")
            if row.trained and row.command == "train" and not row.recipe:
                raise ValueError(f"{where}: `rows.{name}.recipe` must be given, or trained: false")
    claims = [Claim(**_claim(node, where)) for node in content.get("claims", [])]
    laptop = _scale(content["laptop"], rows, columns, where) if content.get("laptop") is not None else None
    for row in rows.values():
        if row.reference and row.reference not in rows:
            raise ValueError(f"{where}: `rows.{row.name}.reference` names {row.reference}, which is no row")
    return Table(**{**content, "columns": columns, "rows": rows, "claims": claims, "laptop": laptop})


def _claim(node: Any, where: str) -> dict[str, Any]:
    return {"text": node} if isinstance(node, str) else _check(node, Claim, where, "claims.")


def _scale(node: Any, rows: Collection[str], columns: Collection[str], where: str) -> Scale:
    scale = Scale(**_check(node, Scale, where, "laptop."))
    for key, known in (("rows", rows), ("keys", columns)):
        if unknown := set(getattr(scale, key)) - set(known):
            raise ValueError(f"{where}: `laptop.{key}` names {unknown.pop()}, which is none of the table's")
    for name, change in scale.rows.items():
        if not isinstance(change, dict) or not (set(change) <= {"recipe", "overrides"} or set(change) == {"of"}):
            raise ValueError(f"{where}: `laptop.rows.{name}` may have recipe and overrides, or of, got {change!r}")
    return scale


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
        if not _fits(value, known[key].type):
            raise ValueError(f"{where}: `{path}{key}` is of the wrong type: {value!r}")
    for key, f in known.items():
        if key not in node and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: `{path}{key}` must be given")
    return node


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a file may stand where a field is of that type."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if is_dataclass(kind):
        return isinstance(value, dict)
    if kind is float:
        return type(value) in (int, float)
    return isinstance(value, get_origin(kind) or kind)


def _folder() -> Path:
    return Path(import_module("lipcert.conf").__path__[0]) / "table"
