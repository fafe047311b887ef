"""The rows that every number is a query on: CSV files of one NamedTuple a line, in full precision.

Numbers are written so that they are read back bit for bit, bool as 0 or 1, None as nothing at all. A line is complete
when its newline is there: what a killed process left of its last line is no row, to the reader and to the next writer.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable
from operator import index
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

from lipcert.reporting.files import write_atomic

Row = TypeVar("Row", bound=NamedTuple)


def write_rows(path: str | Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Replaces `path` by a header and `rows`, in one step."""
    write_atomic(path, _header(row_type) + _lines(row_type, rows))


def append_rows(path: str | Path, rows: Iterable[NamedTuple]) -> None:
    """Adds rows of one type behind those in `path`, which is created where missing; they are on the disk on return.

    An incomplete last line is cut off first. ValueError where the file is one of other rows.
    """
    rows = list(rows)
    if not rows:
        return
    row_type = type(rows[0])
    text = _lines(row_type, rows)
    with open(path, "a+b") as file:
        file.seek(0)
        data = file.read()
        complete = data.rfind(b"\n") + 1
        _check_header(path, row_type, data)
        file.truncate(complete)
        file.write(((_header(row_type) if complete == 0 else "") + text).encode())
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: str | Path, row_type: type[Row]) -> list[Row]:
    """The rows of `path`, less an incomplete last line. ValueError, with file and line, if it holds anything else."""
    data = Path(path).read_bytes()
    _check_header(path, row_type, data)
    complete = data[: data.rfind(b"\n") + 1]
    try:
        lines = complete.decode().split("\n")
    except UnicodeDecodeError as error:
        number = complete.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number}: not UTF-8 text") from None
    parsers = [_parser(hint) for hint in get_type_hints(row_type).values()]
    names = row_type._fields
    rows = []
    for number, line in enumerate(lines[1:-1], start=2):
        try:
            texts = next(csv.reader([line], strict=True)) if '"' in line else line.rstrip("\r").split(",")
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if len(texts) != len(names):
            raise ValueError(f"{path}, line {number}: {len(texts)} values, due are {len(names)}: {','.join(names)}")
        values = []
        for name, parse, text in zip(names, parsers, texts, strict=True):
            try:
                values.append(parse(text))
            except (ValueError, KeyError):
                raise ValueError(f"{path}, line {number}: `{name}` can't be {text!r}") from None
        rows.append(row_type(*values))
    return rows


def _header(row_type: type[NamedTuple]) -> str:
    return ",".join(row_type._fields) + "\n"


def _check_header(path: str | Path, row_type: type[NamedTuple], data: bytes) -> None:
    """A header killed halfway is all that a file may have instead of the right one."""
    expected = _header(row_type).encode()
    line, newline, _ = data.partition(b"\n")
    if (line.rstrip(b"\r") + newline != expected) if newline else not expected.startswith(line):
        found = line[:80].decode(errors="replace")
        raise ValueError(f"{path}, line 1: header {found!r} where {expected.decode().rstrip()!r} is due")


def _lines(row_type: type[NamedTuple], rows: Iterable[NamedTuple]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    formats = [_formatter(hint) for hint in get_type_hints(row_type).values()]
    for row in rows:
        if type(row) is not row_type:
            raise ValueError(f"a {type(row).__name__} among rows of {row_type.__name__}")
        writer.writerow([form(value) for form, value in zip(formats, row, strict=True)])
    return out.getvalue()


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
