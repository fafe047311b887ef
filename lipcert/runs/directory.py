"""A run's directory: its files, each known to the manifest by its hash, so that what is read is what was written.

A file that is replaced is registered before it takes its place, together with the one that is still there: whatever
moment a process is killed at, the manifest knows what lies on the disk. Of a file that grows, what the manifest counts
is what exists: a tail that a killed process wrote and did not register is overwritten by the next writer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from lipcert import files
from lipcert.runs import lock
from lipcert.runs.layout import CONFIG, MANIFEST, REMEDIES
from lipcert.runs.rows import format_rows, header, parse_rows

Row = TypeVar("Row", bound=NamedTuple)
VERSION = 1  # of the manifest
SMALL, LARGE, LARGEST = 1 << 26, 1 << 30, 1 << 38  # bytes: of texts, of rows, and of checkpoints


class RunDirectory:
    """The directory of one run.

    Methods that write expect that the lock is held, by `writing`. Names are those of `layout`, relative to `path`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def writing(self, command: str) -> Iterator[None]:
        """Holds the lock of the directory for a command that writes to it; see `lock.writing`."""
        with lock.writing(self.path, command):
            self.settle()
            yield
            self.settle()

    def has(self, name: str) -> bool:
        """Whether the manifest knows a file of this name: one that was written to its end at least once."""
        return name in self.manifest()["files"]

    def manifest(self) -> dict[str, Any]:
        """manifest.json; ValueError where it is missing or damaged."""
        path = self / MANIFEST
        try:
            content = json.loads(files.read_regular(path, SMALL))
        except FileNotFoundError:
            raise ValueError(f"{self} has no {MANIFEST}: it is no run of this version of lipcert") from None
        except (ValueError, RecursionError) as error:
            said = str(error) if str(path) in str(error) else f"{path} is not JSON"
            raise ValueError(said) from None
        known = isinstance(content, dict) and content.get("lipcert") == VERSION
        if not known or not isinstance(content.get("files"), dict) or not isinstance(content.get("data"), dict):
            raise ValueError(f"{path} is no manifest of this version of lipcert")
        for name, entry in content["files"].items():
            hashes = entry.get("sha256") if isinstance(entry, dict) else None
            whole = isinstance(hashes, list) and hashes and all(isinstance(each, str) for each in hashes)
            if not whole or not isinstance(entry.get("bytes", 0), int) or entry.get("bytes", 0) < 0:
                raise ValueError(f"{path} is damaged at `{str(name)[:100]}`")
        return content

    def create_manifest(self, data: Mapping[str, str]) -> None:
        """The manifest of a new run, which has no files yet. `data` maps each split to the hash of its images."""
        files.write_atomic(self / MANIFEST, files.as_json({"lipcert": VERSION, "files": {}, "data": dict(data)}))

    def read(self, name: str, limit: int = SMALL) -> bytes:
        """A file's content; ValueError, naming the file, where it is missing or is not what a writer registered."""
        while True:
            entry = self._entry(name)
            content = self._bytes(name, limit)
            registered = _registered(content, entry)
            if registered is not None:
                return registered
            if entry == self._entry(name):  # else a writer was between the two
                raise ValueError(self._damaged(name))

    def verify(self, name: str, limit: int = LARGEST) -> None:
        """The check of `read` of a file that is too large to be held."""
        if self._sha256(name, limit) not in self._entry(name)["sha256"]:
            raise ValueError(self._damaged(name))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file of JSON as a dictionary; ValueError, naming the file, where it holds something else."""
        try:
            content = json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{self / name} does not hold a JSON object")
        return content

    def read_rows(self, name: str, row_type: type[Row]) -> list[Row]:
        """The rows of a file; [] where there is none. ValueError, with file and line, where it holds other rows."""
        if not self.has(name):
            return []
        return parse_rows(self.read(name, LARGE), row_type, str(self / name))

    @contextlib.contextmanager
    def replacing(self, name: str, grows: bool = False) -> Iterator[files.Hashing]:
        """A new file, open for writing, which takes the place of `name` when the block ends without an error.

        grows  whether more may be appended to it
        """
        with files.replacing(self._place(name)) as file:
            sink = files.Hashing(file)
            yield sink
            manifest = self.manifest()
            there = manifest["files"].get(name, {"sha256": []})["sha256"][-1:]
            manifest["files"][name] = {"sha256": [*there, sink.sha256.hexdigest()]}
            if grows:
                manifest["files"][name]["bytes"] = sink.count
            self._write(manifest)

    def replace(self, name: str, content: str | bytes) -> None:
        """Replaces a file in one step (text as UTF-8)."""
        with self.replacing(name) as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replaces a file by readable JSON; what is not finite becomes null."""
        self.replace(name, files.as_json(content))

    def write_rows(self, name: str, row_type: type[Row], rows: Iterable[Row]) -> None:
        """Replaces a file by a header and `rows`; it can grow later."""
        with self.replacing(name, grows=True) as file:
            file.write((header(row_type) + format_rows(row_type, rows)).encode())

    def append_rows(self, name: str, rows: Iterable[NamedTuple]) -> None:
        """Adds rows of one type behind those in a file, which is made where missing; they are on the disk on return.

        ValueError where the file holds other rows, or is not what was written.
        """
        rows = list(rows)
        if not rows:
            return
        row_type = type(rows[0])
        manifest = self.manifest()
        before = self.read(name, LARGE) if name in manifest["files"] else header(row_type).encode()
        first = before[: before.find(b"\n") + 1]
        parse_rows(first, row_type, str(self / name))
        if first != header(row_type).encode():  # of an older version, with fewer columns
            return self.write_rows(name, row_type, [*self.read_rows(name, row_type), *rows])
        text = format_rows(row_type, rows).encode()
        if name not in manifest["files"]:
            files.append(self._place(name), before + text, 0)
        else:
            files.append(self._place(name), text, len(before))
        whole = before + text
        manifest["files"][name] = {"sha256": [hashlib.sha256(whole).hexdigest()], "bytes": len(whole)}
        self._write(manifest)

    def append_bytes(self, name: str, content: bytes) -> None:
        """Adds to a file that is no text, which is made where missing; it may be larger than memory."""
        manifest = self.manifest()
        known = self._known(name) if name in manifest["files"] else (0, hashlib.sha256())
        if known is None:
            raise ValueError(self._damaged(name))
        known[1].update(content)
        files.append(self._place(name), content, known[0])
        manifest["files"][name] = {"sha256": [known[1].hexdigest()], "bytes": known[0] + len(content)}
        self._write(manifest)

    def register(self, *names: str) -> None:
        """Takes the hashes of files that somebody else has written."""
        manifest = self.manifest()
        for name in names:
            manifest["files"][name] = {"sha256": [self._sha256(name)]}
        self._write(manifest)

    def forget(self, name: str) -> None:
        """Deletes a file, if it is there."""
        manifest = self.manifest()
        if manifest["files"].pop(name, None):
            self._write(manifest)
        self._place(name).unlink(missing_ok=True)

    def mend(self, label: str, facts: str, *names: str) -> None:
        """Deletes rows and facts of which one is damaged or gone, and says so on stderr: they are computed anew.

        label  of the certificate or attack that is computed now
        facts  the name of the file of facts, {split: {label: ...}}; `names` are the other files

        ValueError where that would lose what others found.
        """
        for name in filter(self.has, (facts, *names)):
            try:
                self.read(name, LARGE)
            except ValueError as error:
                if (self / name).exists():
                    self._check_nothing_is_lost(label, facts, name)
                print(f"lipcert: {error}; this is done now", file=sys.stderr)
                for each in (facts, *names):
                    self.forget(each)
                return

    def _check_nothing_is_lost(self, label: str, facts: str, name: str) -> None:
        try:
            others = {other for split in self.read_json(facts).values() for other in split} - {label}
        except (ValueError, AttributeError):
            others = {"what it speaks of"}
        if others:
            raise ValueError(
                f"{self._damaged(name)}. It was of {', '.join(sorted(others))} too: move it away, and compute each anew"
            )

    def settle(self) -> None:
        """Leaves each file what is known of it for certain: one hash where there were two, and no unregistered tail."""
        if not (self / MANIFEST).exists():  # of a run that is about to begin
            return
        manifest = self.manifest()
        before = json.dumps(manifest)
        for name, entry in manifest["files"].items():
            if not (self / name).exists() or ("bytes" not in entry and len(entry["sha256"]) == 1):
                continue
            if "bytes" not in entry:
                if (sha256 := self._sha256(name)) in entry["sha256"]:
                    entry["sha256"] = [sha256]
                continue
            if known := self._known(name):
                entry |= {"sha256": [known[1].hexdigest()], "bytes": known[0]}
                if known[0] < (self / name).stat().st_size:
                    files.append(self._place(name), b"", known[0])
        if json.dumps(manifest) != before:
            self._write(manifest)

    def _entry(self, name: str) -> dict[str, Any]:
        entry = self.manifest()["files"].get(name)
        if entry is None:
            raise ValueError(f"{self} has no {name} that was written to its end: `lipcert train resume={self}` goes on")
        return entry

    def _damaged(self, name: str) -> str:
        return (
            f"{self / name} is not what was written: its SHA-256 is not the one in {MANIFEST}. It was changed or "
            f"damaged: restore it, or {self._remedy(name)}"
        )

    def _remedy(self, name: str) -> str:
        return REMEDIES.get(name, REMEDIES.get(name.partition("/")[0], "train the run anew")).format(self)

    def _bytes(self, name: str, limit: int) -> bytes:
        with self._opened(name, limit) as file:
            return file.read(os.fstat(file.fileno()).st_size)

    def _known(self, name: str) -> tuple[int, Any] | None:
        entry = self._entry(name)
        with self._opened(name, LARGEST) as file:
            return files.beginning(file, entry["bytes"], entry["sha256"])

    def _sha256(self, name: str, limit: int = LARGE) -> str:
        with self._opened(name, limit) as file:
            return files.hashed(file).hexdigest()

    @contextlib.contextmanager
    def _opened(self, name: str, limit: int) -> Iterator[BinaryIO]:
        try:
            with files.opened(self / name, limit) as file:
                yield file
        except FileNotFoundError:
            raise ValueError(f"{self / name} is gone: restore it, or {self._remedy(name)}") from None

    def _place(self, name: str) -> Path:
        """The path of a file to write; its folders are made. ValueError where one of them is a link."""
        folder = self.path
        for part in Path(name).parts[:-1]:
            folder /= part
            if folder.is_symlink():
                raise ValueError(f"{folder} is a link: nothing is written through one")
            folder.mkdir(exist_ok=True)
        return self / name

    def _write(self, manifest: Mapping[str, Any]) -> None:
        files.write_atomic(self / MANIFEST, files.as_json(manifest))


def _registered(content: bytes, entry: Mapping[str, Any]) -> bytes | None:
    """What of a file's content a writer registered: all of it, or all but a tail of one that grows; None if neither."""
    for length in (entry.get("bytes", len(content)), len(content)):
        if hashlib.sha256(content[:length]).hexdigest() in entry["sha256"]:
            return content[:length]
    return None


def is_run(path: Path) -> bool:
    """Whether a directory is one of a run."""
    return (path / CONFIG).is_file() and not (path / CONFIG).is_symlink()
