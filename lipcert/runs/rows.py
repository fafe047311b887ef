"""The rows that every number is a query on, as text: CSV of one NamedTuple a line, in full precision.

Numbers are written so that they are read back bit for bit, bool as 0 or 1, None as nothing at all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from operator import index
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

Row = TypeVar("Row", bound=NamedTuple)


def header(row_type: type[NamedTuple]) -> str:
    """The first line: the names of the fields."""
    return ",".join(row_type._fields) + "\n"


def format_rows(row_type: type[Row], rows: Iterable[Row]) -> str:
    """The lines of `rows`, without the header. ValueError for a row of another type, or with a line break in it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    formats = [_formatter(hint) for hint in get_type_hints(row_type).values()]
    for row in rows:
        if type(row) is not row_type:
            raise ValueError(f"a {type(row).__name__} among rows of {row_type.__name__}")
        writer.writerow([form(value) for form, value in zip(formats, row, strict=True)])
    return out.getvalue()


def parse_rows(data: bytes, row_type: type[Row], source: str) -> list[Row]:
    """The rows of a file's content, which may lack the last fields that have a default: older versions knew fewer.
    ValueError, with `source` and line, if it holds anything else."""
    first, newline, rest = data.partition(b"\n")
    due = header(row_type)
    names = row_type._fields
    for count in range(len(names) - len(row_type._field_defaults), len(names) + 1):
        if first.rstrip(b"\r") + newline == (",".join(names[:count]) + "\n").encode():
            names = names[:count]
            break
    else:
        found = first[:80].decode(errors="replace")
        raise ValueError(f"{source}, line 1: header {found!r} where {due.rstrip()!r} is due")
    try:
        lines = rest.decode().split("\n")
    except UnicodeDecodeError as error:
        number = rest.count(b"\n", 0, error.start) + 2
        raise ValueError(f"{source}, line {number}: not UTF-8 text") from None
    if lines.pop():
        raise ValueError(f"{source}, line {len(lines) + 2}: the line is cut short")
    parsers = [_parser(hint) for hint in get_type_hints(row_type).values()]
    parsers = parsers[: len(names)]
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            texts = next(csv.reader([line], strict=True)) if '"' in line else line.rstrip("\r").split(",")
        except (csv.Error, StopIteration) as error:
            raise ValueError(f"{source}, line {number}: {error}") from None
        if len(texts) != len(names):
            raise ValueError(f"{source}, line {number}: {len(texts)} values, due are {len(names)}: {','.join(names)}")
        values = []
        for name, parse, text in zip(names, parsers, texts, strict=True):
            try:
                values.append(parse(text))
            except (ValueError, KeyError):
                raise ValueError(f"{source}, line {number}: `{name}` can't be {text[:80]!r}") from None
        rows.append(row_type(*values))
    return rows


def _split(hint: Any) -> tuple[type, bool]:
    """(type, may it be None) of an annotation T or T | None."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    return (parts[0], True) if parts else (hint, False)


def _parser(hint: Any) -> Callable[[str], Any]:
    plain, optional = _split(hint)
    parse: Callable[[str], Any] = {"0": False, "1": True}.__getitem__ if plain is bool else plain
    return (lambda text: parse(text) if text else None) if optional else parse


def _text(value: Any) -> str:
    text = str(value)
    if "\n" in text or "\r" in text:
        raise ValueError(f"a line break within a row: {text!r}")
    return text


# The declared type decides, so that a numpy number is written like Python's: repr(np.float64(1)) is "np.float64(1.0)".
_FORMATS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: str(int(bool(value))),
    int: lambda value: str(index(value)),
    float: lambda value: repr(float(value)),
    str: _text,
}


def _formatter(hint: Any) -> Callable[[Any], str]:
    plain, optional = _split(hint)
    form = _FORMATS[plain]
    return (lambda value: "" if value is None else form(value)) if optional else form
