"""Whatever a command is given, it ends soon: done, in one line of an error, or with a certificate rightly broken.

A case is an input that works with something changed in it. What it must not do is raise, hang, print anything but lines
of lipcert's on stderr, or write elsewhere than where it was told to. All cases follow from LIPCERT_SEED; a failure says
which one it was and what had been changed.
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from test_datasets_damaged import IDX, archive, array, mutated
from test_foreign_runs import place, seen, sign, unfinished

from lipcert.cli import main
from lipcert.cli.arguments import complete
from lipcert.cli.choices import chosen
from lipcert.errors import RanksFailed

SEED = int(os.environ.get("LIPCERT_SEED", "0"))
LONGEST = 20  # seconds of a case
LONGEST_LINE = 2000  # characters of what is said of it
Draw = Callable[[st.SearchStrategy], Any]

TINY = ("dataset.subset=60", "schedule.epochs=1", "attack.images=3", "attack.steps=2", "trainer=cpu")
SMALL = ("model=l2nnn", "model.depth=1", "model.width=8")
NOTHING = ("model=nearest_neighbour", "attack=none")

# ---------------------------------------------------------------------------------------------------- what is changed

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]

LEAVES: list[Any] = [None, True, False, 0, -1, 1, 3, 0.5, -0.5, 2**31, 2**63, -(2**63), 2**64, 10**400]
LEAVES += [1e308, 5e-324, math.nan, math.inf, -math.inf, "", "x", "1", "nan", "../x", "é\u202e漢", "a\0b", "x\ny"]
LEAVES += ["x" * 5000, [], [[]], [None], [1, 2], {}, {"": None}, {"_target_": "os.getcwd"}, "${seed}", DEEP]


def spots(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield tree, key
        yield from spots(value)


def change(draw: Draw, tree: Any, leaves: list[Any] = LEAVES) -> str:
    """Changes something in a tree, in place; says what."""
    found = list(spots(tree))
    if not found:
        return "nothing"
    container, key = draw(st.sampled_from(found))
    kind = draw(st.sampled_from(("replace", "replace", "replace", "delete", "swap", "add", "wrap")))
    if kind == "delete":
        del container[key]
    elif kind == "swap":
        other, its = draw(st.sampled_from(found))
        container[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(container[key])
    elif kind == "add" and isinstance(container, dict):
        container[draw(st.sampled_from(("", "x", "_target_", "_args_", "seed", "é", "x" * 300)))] = container[key]
    elif kind == "add":
        container.insert(key, copy.deepcopy(container[key]))
    elif kind == "wrap":
        container[key] = draw(st.sampled_from(([container[key]], {"x": container[key]}, str(container[key]))))
    else:
        container[key] = copy.deepcopy(draw(st.sampled_from(leaves)))
    return f"{kind} {str(key)[:40]!r}: {str(container[key])[:60] if kind == 'replace' else ''}"


def change_file(draw: Draw, path: Path, read: Callable[[str], Any], write: Callable[[Any], str]) -> str:
    """Changes a file of text that holds a tree, or its bytes."""
    if draw(st.integers(0, 3)) == 0:
        path.write_bytes(draw(mutated(path.read_bytes())))
        return f"bytes of {path}"
    tree = read(path.read_text())
    changes = [change(draw, tree) for _ in range(draw(st.integers(1, 3)))]
    path.write_text(write(tree), encoding="utf-8", errors="surrogatepass")
    return f"{path}: {changes}"


def change_json(draw: Draw, path: Path) -> str:
    return change_file(draw, path, json.loads, json.dumps)


CELLS = ["", "0", "1", "-1", "2", "7", "400", "-0.0", "0.1", "1e300", "nan", "inf", "-inf", "1e999", "9" * 400, "0x1"]
CELLS += ["x", "proof", "nominal", "l2", "linf", "test", "train", "pgd_linf", '"', '"a,b"', "é", "\0", "a\rb", "1_0"]


def change_rows(draw: Draw, path: Path) -> str:
    """Changes a file of rows."""
    kind = draw(st.sampled_from(("cell", "cell", "cell", "delete", "repeat", "short", "bytes", "cut", "order")))
    if kind == "bytes":
        path.write_bytes(draw(mutated(path.read_bytes())))
        return f"bytes of {path}"
    lines = path.read_text().split("\n")
    at = draw(st.integers(0, len(lines) - 2))
    cells = lines[at].split(",")
    column = draw(st.integers(0, len(cells) - 1))
    if kind == "cell":
        cells[column] = draw(st.sampled_from(CELLS))
        lines[at] = ",".join(cells)
    elif kind == "short":
        lines[at] = ",".join(cells[:column])
    elif kind == "delete":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "cut":
        lines = [*lines[:at], ""]
    else:
        lines[1:-1] = lines[-2:0:-1]
    path.write_text("\n".join(lines))
    return f"{path}: {kind} line {at + 1}, column {column}: {cells[column][:60]!r}"


# ----------------------------------------------------------------------------------------------------- inputs by kind
# Each changes the input in the current directory, and returns what was changed and the command.

CERTIFY = ("certify", "run=run", "batch_size=400")
MARGIN = ("certify", "run=run", "certificate=margin", "device=cpu")
STABILITY = ("certify", "run=run", "analysis=stability")
TIGHTNESS = ("certify", "run=run", "analysis=tightness", "attack.images=3", "attack.steps=2", "draws=2")
AGAIN = ("attack", "run=run", "attack=pgd_l2", "attack.images=3", "attack.steps=2")
FURTHER = ("attack", "run=run", "attack=smallest_fgsm", "attack.images=4")
COMPARE = ("compare", "run", "other", "output_dir=compared")
RESUME = ("train", "resume=run")
AUDIT = ("audit", "run=run", "images=3", "steps=2")
EXPORT = ("export", "run=run", "images=3", "output_dir=out")
READING = (CERTIFY, MARGIN, STABILITY, TIGHTNESS, AGAIN, FURTHER, COMPARE, RESUME, AUDIT, EXPORT)


def stopped(draw: Draw, kinds: tuple[str, ...] = ("finished", "evaluating", "training")) -> None:
    """Sometimes the run is one that was stopped: in training, or after it."""
    kind = draw(st.sampled_from(kinds))
    if kind == "training":
        shutil.rmtree("run")
        shutil.copytree("half", "run")
    elif kind == "evaluating":
        unfinished(Path("run"))


def of_config(draw: Draw) -> tuple[str, tuple]:
    stopped(draw)
    path = Path("run/config.yaml")
    what = change_file(draw, path, yaml.safe_load, lambda tree: yaml.safe_dump(tree, allow_unicode=True))
    sign(Path("run"), "config.yaml")
    return what, draw(st.sampled_from(READING))


TENSORS: list[Any] = [
    *LEAVES,
    torch.zeros(0),
    torch.zeros(()),
    torch.zeros(3, 4, 5),
    torch.full((8, 64), math.nan),
    torch.full((8, 64), 1e38),
    torch.zeros(8, 64, dtype=torch.complex64),
    torch.zeros(8, 64, dtype=torch.bool),
    torch.zeros(8, 64, dtype=torch.float64),
    torch.zeros(1).expand(8, 64),
    torch.zeros(8, 64).to_sparse(),
    torch.zeros(8, 64, device="meta"),
    torch.tensor(-1),
    torch.tensor(2**62),
    (1, 2),
    {1: 2},
    {(1, 2): 3},
    b"x",
]


def of_checkpoint(draw: Draw) -> tuple[str, tuple]:
    path = Path("run/checkpoints/last.ckpt")
    stopped(draw, ("evaluating", "training", "training"))
    if draw(st.integers(0, 2)) == 0:
        path.write_bytes(draw(mutated(path.read_bytes())))
        what = "bytes"
    else:
        content = torch.load(path, weights_only=True)
        changes = [change(draw, content, TENSORS) for _ in range(draw(st.integers(1, 2)))]
        what = str(changes)
        torch.save(content, path)
    sign(Path("run"), "checkpoints/last.ckpt")
    return f"checkpoint: {what}", RESUME


def of_network(draw: Draw) -> tuple[str, tuple]:
    text, tensors = Path("run/network/network.json"), Path("run/network/network.safetensors")
    if draw(st.integers(0, 2)) == 0:
        content = draw(mutated(tensors.read_bytes()))
        tensors.write_bytes(content)
        described = json.loads(text.read_text())
        described["sha256"] = hashlib.sha256(content).hexdigest()
        text.write_text(json.dumps(described))
        what = "bytes of the tensors"
    else:
        what = change_json(draw, text)
    sign(Path("run"), "network/network.json", "network/network.safetensors")
    return what, draw(st.sampled_from((CERTIFY, MARGIN, STABILITY, TIGHTNESS, AGAIN, FURTHER)))


ROWS = ("certificates.csv", "attacks.csv", "stability.csv", "metrics.csv")
FACTS = ("certificates.json", "attacks.json", "summary.json", "manifest.json")


def of_rows(draw: Draw) -> tuple[str, tuple]:
    stopped(draw)
    run = Path("run")
    name = draw(st.sampled_from([name for name in (*ROWS, *FACTS) if (run / name).exists()]))
    what = (change_rows if name in ROWS else change_json)(draw, run / name)
    known = json.loads((run / "manifest.json").read_text()) if name != "manifest.json" else {"files": {}}
    if name in known["files"] and draw(st.integers(0, 3)):
        sign(run, name)
        what += " (signed)"
    return what, draw(st.sampled_from(READING))


def of_other_files(draw: Draw) -> tuple[str, tuple]:
    """What lies beside a run: a counter-example, a separation, a sweep, who holds a lock; links, pipes and folders."""
    kind = draw(st.sampled_from(("counterexample", "separation", "sweep", "holder", "type")))
    if kind == "counterexample":
        path = Path("run/counterexamples/fgsm-0.npz")
        path.parent.mkdir()
        image = draw(st.sampled_from((np.zeros((1, 8, 8)), np.zeros((1, 8, 8), np.float32), np.ones(3) * np.nan)))
        index = draw(st.sampled_from((0, -1, 10**6, 2**63, 0.5, "x", [1, 2])))
        np.savez(path, x_adv=image, index=index, attack=draw(st.sampled_from(("fgsm", "", "a/b", "x" * 999, 3))))
        if draw(st.booleans()):
            path.write_bytes(draw(mutated(path.read_bytes())))
        return f"{path} {image.shape} {index}", draw(st.sampled_from((AGAIN, FURTHER)))
    if kind == "separation":
        path = Path("separated") / draw(st.sampled_from(("separation.json", "separation.csv")))
        what = (change_rows if path.suffix == ".csv" else change_json)(draw, path)
        return what, (*COMPARE, "separation=separated")
    if kind == "sweep":
        what = change_json(draw, Path("sweep/sweep.json"))
        return what, ("train", *NOTHING, *TINY, "output_dir=sweep", "-m", "seed=1,2")
    if kind == "holder":
        path = Path("run/.lock.json")
        path.write_bytes(draw(st.sampled_from((b"", b"{}", b"[", b"[1]", b"\xff", b"{" * 9999))))
        return "holder", draw(st.sampled_from(READING))
    names = ("config.yaml", "manifest.json", "certificates.csv", "attacks.json", "network", "checkpoints", ".lock")
    names += ("checkpoints/last.ckpt", "metrics.csv", "curves.png", "network/network.json", "x", ".lock.json")
    path = Path("run") / draw(st.sampled_from(names))
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    how = draw(st.sampled_from(("gone", "link", "loop", "pipe", "folder", "empty", "unreadable")))
    if how == "link":
        path.symlink_to("/dev/zero")
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        (path / "x").mkdir(parents=True)
    elif how != "gone":
        path.touch(0o666 if how == "empty" else 0)
    return f"{path}: {how}", draw(st.sampled_from(READING))


def of_exported(draw: Draw) -> tuple[str, tuple]:
    """A folder of `lipcert export`, of which one file is another."""
    folder = Path("exported")
    path = draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    if path.suffix == ".json" and draw(st.integers(0, 3)):
        what = change_json(draw, path)
    elif path.suffix == ".csv" and draw(st.integers(0, 3)):
        what = change_rows(draw, path)
    else:
        path.write_bytes(draw(mutated(path.read_bytes())))
        what = str(path)
    manifest = json.loads((folder / "manifest.json").read_text()) if path.name != "manifest.json" else {"files": {}}
    name = path.relative_to(folder).as_posix()
    if name in manifest["files"] and draw(st.integers(0, 3)):
        manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        what += " (signed)"
    return what, ("verify", "folder=exported")


def of_idx(draw: Draw) -> tuple[str, tuple]:
    folder = Path("MNIST/raw")
    folder.mkdir(parents=True)
    for name, content in IDX.items():
        (folder / name).write_bytes(content)
    name = draw(st.sampled_from(sorted(IDX)))
    (folder / name).write_bytes(draw(mutated(IDX[name])))
    return f"IDX {name}", ("train", *NOTHING, "dataset=mnist", "dataset.val_size=0", "data_dir=.", "output_dir=out")


def of_npz(draw: Draw) -> tuple[str, tuple]:
    compression = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    name = draw(st.sampled_from(("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy")))
    kind = draw(st.sampled_from(("archive", "member", "array")))
    if kind == "archive":
        content = draw(mutated(archive(compression=compression)))
    elif kind == "member":
        whole = array(np.zeros((20, 6, 6) if name[0] == "x" else 20, np.uint8))
        content = archive({name: draw(mutated(whole))}, compression)
    else:
        shape = draw(st.lists(st.sampled_from((0, 1, 2, 3, 6, 20)), max_size=4))
        dtype = draw(st.sampled_from(("u1", "i8", "u8", "f2", "f8", "?", "c8", "S3", "U2", "M8[s]", "i1,f4")))
        content = archive({name: array(np.zeros(shape, dtype))}, compression)
        kind = f"array {shape} {dtype}"
    Path("own.npz").write_bytes(content)
    return f"npz {name} {kind}", ("train", *NOTHING, "dataset=npz", "dataset.path=own.npz", "output_dir=out")


def of_images(draw: Draw) -> tuple[str, tuple]:
    for part in ("train", "test"):
        for label in ("a", "b"):
            (folder := Path("images", part, label)).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    path = Path(draw(st.sampled_from(("images/train/a/0.png", "images/train/b/2.png", "images/test/a/1.png"))))
    kind = draw(st.sampled_from(("bytes", "bytes", "mode", "size", "name", "link", "pipe", "folder", "gone", "format")))
    if kind == "bytes":
        path.write_bytes(draw(mutated(path.read_bytes())))
    elif kind == "mode":
        mode = draw(st.sampled_from(("1", "L", "LA", "P", "RGB", "RGBA", "I;16")))
        Image.new(mode, (8, 8)).save(path)
        kind += f" {mode}"
    elif kind == "size":
        size = draw(st.sampled_from(((1, 1), (9, 8), (1, 3000))))
        Image.new("L", size).save(path)
        kind += f" {size}"
    elif kind == "name":
        path.rename(path.with_name(draw(st.sampled_from(("\udcff.png", "é\n.png", ".png", "x", "'$(x).jpg")))))
    elif kind == "format":
        Image.new("L", (8, 8)).save(path, draw(st.sampled_from(("GIF", "BMP", "TIFF", "JPEG", "WEBP", "ICO", "EPS"))))
    else:
        path.unlink()
        if kind == "link":
            path.symlink_to(draw(st.sampled_from((path.name, "/dev/zero", "..", "../..", "1.png", "nowhere"))))
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
    size = draw(st.sampled_from((None, 1, 5, 99, 0, -1)))
    more = () if size is None else (f"dataset.image_size={size}",)
    line = ("train", *NOTHING, "dataset=image_folder", "dataset.path=images", "output_dir=out", *more)
    return f"images: {path} {kind}", line


def words(text: str) -> list[str]:
    return text.split()


LINES = {
    "train": (*TINY, *SMALL, "output_dir=out"),
    "certify": ("run=run",),
    "attack": ("run=run", "attack=pgd_l2", "attack.images=3", "attack.steps=2"),
    "compare": ("run", "output_dir=out"),
    "separation": ("dataset.subset=40", "output_dir=out"),
    "reproduce": ("print=true",),
    "audit": AUDIT[1:],
    "export": EXPORT[1:],
    "verify": ("folder=exported",),
}
TEXTS = words(r"""null None true 0 -1 1 3 0.5 -0.0 nan inf -inf 1e308 1e400 1e-320 0x10 1_0 abc '' "" ' " [ ] { } []
    [[]] [[[1],[2]],[]] [1,2] [null] [a,b] [nan] {} {a:1} {a:{b:[1]}} {_target_:os.getcwd} [{_target_:os.x}]
    {_target_:lipcert.models.l2nnn.L2NNN} ${seed} ${nowhere} ${oc.env:HOME} ${ ${oc.env:NOWHERE} ${} ${a:b} $ ??? a,b
    ${options:model} ${options:..} ${groups:x} ${hydra:job.num} ${oc.decode:'1'} 1,2 range(3) range(0,1,0) choice(1,2)
    glob(*) glob('') interval(0,1) shuffle(1,2) int(x) float(1) json_str(x) sort(3,1) tag(a,1) f(x) extend_list(1) a=b
    a:b @x ~x \ \' é 漢字 a/b /dev/null . .. run {_target_:5}""")
TEXTS += ["", " ", "\t", "\n", "a\nb", "\0", "\u202e", "\ud800", "\udcff", "\x1b[31m", "x" * 3000, "[" * 300]
TEXTS += ["[" * 300 + "]" * 300]
HUGE = [str(2**31), str(2**63 - 1), str(2**63), str(-(2**63)), str(2**64), "9" * 400]
# What a large number makes a computation long of, not wrong: it is done, as it was asked for.
WORK = words("epochs depth steps draws images width restarts samples iterations searches workers")
STRANGE = words("""x seed.x model. .model model..x hydra hydra.run.dir hydra.sweep.dir hydra.verbose hydra.job.chdir $
    hydra/launcher hydra.output_subdir hydra.mode hydra.sweeper.max_batch_size hydra.searchpath hydra.job.name
    hydra/job_logging defaults _target_ model@x é 0""")
STRANGE += ["", "a b"]
FLAGS = words("""-m --multirun --help -h --cfg --cfg=job -c --resolve --info --info=all --config-dir --config-dir=x
    --config-dir=. -cd --run -- - -x --version --cfg=é -mm --info=plugins""")
KNOWN: dict[str, list[str]] = {}


def override(draw: Draw, command: str) -> str:
    if command not in KNOWN:
        KNOWN[command] = list(chosen(command).values)
    key = draw(st.sampled_from(KNOWN[command] if draw(st.integers(0, 4)) else STRANGE))
    huge = [] if key.rpartition(".")[2] in WORK else HUGE
    value = draw(st.sampled_from(TEXTS + huge) if draw(st.integers(0, 9)) else st.text(max_size=8))
    sign_ = draw(st.sampled_from(("", "", "", "", "+", "++", "~", "~~", "@")))
    return draw(st.sampled_from((f"{sign_}{key}={value}",) * 6 + (f"{sign_}{key}", value, f"{key}={value}={value}")))


def of_overrides(draw: Draw) -> tuple[str, tuple]:
    command = draw(st.sampled_from(("train", "train", "train", *LINES)))
    line = [*LINES[command], *(override(draw, command) for _ in range(draw(st.integers(1, 2))))]
    if draw(st.integers(0, 5)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(st.sampled_from(FLAGS)))
    return "overrides", (command, *line)


KINDS: dict[str, Callable[[Draw], tuple[str, tuple]]] = {
    "overrides": of_overrides,
    "configurations": of_config,
    "checkpoints": of_checkpoint,
    "networks": of_network,
    "rows": of_rows,
    "other files": of_other_files,
    "exported folders": of_exported,
    "IDX": of_idx,
    "npz": of_npz,
    "image folders": of_images,
}
# a certificate, rightly
MAY_BREAK = ("configurations", "checkpoints", "networks", "rows", "other files", "exported folders")
# Of all cases; the other kinds share what is left.
SHARES = {"overrides": 0.26, "configurations": 0.16, "checkpoints": 0.1, "networks": 0.1, "rows": 0.16}

# ------------------------------------------------------------------------------------------------ what happens then


class Hang(BaseException):
    pass


COMPOSED: dict[tuple, Any] = {}


def composed(line: tuple) -> int:
    """What `main.run` does where the line is known to be one: composing it takes longer than the rest, so once."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    command, *overrides = line
    if "-m" in line:
        return main.run(command, list(overrides))
    if line not in COMPOSED:
        GlobalHydra.instance().clear()
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            COMPOSED[line] = compose(command, complete(command, [], list(overrides)))
    try:
        main.run_job(command, copy.deepcopy(COMPOSED[line]), None)
    except Exception as error:
        return main.explain(error, command)
    return 0


def wrong(line: tuple, statuses: tuple[int, ...], whole: bool) -> str | None:
    """What is wrong with how a command ends; None if nothing."""
    out, err = io.StringIO(), io.StringIO()

    def expire(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, expire)
    seen.clear()
    place[:] = [Path(os.path.realpath(".."))]
    tempfile.tempdir = str(place[0])
    started = time.monotonic()
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.run(line[0], list(line[1:])) if whole else composed(line)
    except Hang:
        return f"hangs: {traceback.format_exc()[-1500:]}"
    except BaseException:
        return f"raises: {traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)
        place.clear()
        tempfile.tempdir = None
    SECONDS.append((time.monotonic() - started, line))
    said = err.getvalue()
    STATUSES[status] = STATUSES.get(status, 0) + 1
    if "Traceback" in said + out.getvalue() or status not in statuses:
        return f"status {status}: {said[-1500:]}"
    lines = [] if "hydra.verbose" in " ".join(line) and not status else said.splitlines()  # it asks for further ones
    lines = [text for text in lines if not re.match(r"epoch \d+/\d+: ", text)]  # what a training tells
    if not all(text.startswith("lipcert: ") and len(text) <= LONGEST_LINE for text in lines) or (status and not lines):
        return f"status {status} says: {said[:1500]!r}"
    return f"writes elsewhere: {seen}" if seen else None


SECONDS: list[tuple[float, tuple]] = []
STATUSES: dict[int, int] = {}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Runs, and what lies beside them, that are as they should be."""
    folder, here = tmp_path_factory.mktemp("inputs"), Path.cwd()
    os.chdir(folder)
    try:
        small = (*SMALL, *TINY, "dataset.label_noise=0.1")
        commands = [
            ("train", *small, "output_dir=run"),
            MARGIN,
            STABILITY,
            ("attack", "run=run", "attack=smallest_fgsm", "attack.images=3"),
            ("train", *small, "seed=2", "output_dir=other"),
            ("train", *small, "schedule.early_stopping=3", "output_dir=half"),
            ("separation", "dataset.subset=40", "output_dir=separated"),
            ("train", *NOTHING, *TINY, "output_dir=sweep", "-m", "seed=1,2"),
            ("export", "run=run", "images=5", "output_dir=exported"),
        ]
        for line in commands:
            assert main.run(line[0], list(line[1:])) == 0
        half = Path("half")
        manifest = json.loads((half / "manifest.json").read_text())
        kept = ("config.yaml", "checkpoints/last.ckpt")  # as if it had been stopped after the first of two epochs
        manifest["files"] = {name: manifest["files"][name] for name in kept}
        (half / "manifest.json").write_text(json.dumps(manifest))
        config = yaml.safe_load((half / "config.yaml").read_text())
        config["schedule"]["epochs"] = 2
        (half / "config.yaml").write_text(yaml.safe_dump(config))
        sign(half, "config.yaml")
        for path in half.iterdir():
            if path.name not in ("config.yaml", "checkpoints", "manifest.json", "metrics.csv"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.chdir(here)
    return folder


def no_launch(*_: Any) -> None:
    raise RanksFailed("no ranks are started here")


def failures(kind: str, count: int, inputs: Path, folder: Path) -> list[str]:
    """What goes wrong in `count` cases of a kind."""
    found: list[str] = []
    number = 0

    @seed(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def case(data: st.DataObject) -> None:
        nonlocal number
        number += 1
        here = folder / f"{kind}-{number}" / "here"
        needed = (
            ("run", "other", "half", "separated", "sweep", "exported")
            if kind not in ("IDX", "npz", "image folders")
            else ()
        )
        here.mkdir(parents=True)
        for name in needed:
            shutil.copytree(inputs / name, here / name)
        os.chdir(here)
        what, line = KINDS[kind](data.draw)
        said = wrong(line, (0, 2, 3) if kind in MAY_BREAK else (0, 2), whole=kind == "overrides")
        if said:
            shown = [word if len(word) < 200 else f"{word[:200]}..." for word in line]
            found.append(f"LIPCERT_SEED={SEED}, {kind}, case {number}: {what}\n  {shown!r}\n  {said}")
        os.chdir(folder)
        shutil.rmtree(here.parent, ignore_errors=True)

    case()
    return found


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", None)  # nothing is downloaded
    monkeypatch.setattr("lipcert.training.ranks.launch", no_launch)  # nor are ranks started, which takes long


def counted(total: int, kind: str) -> int:
    left = (1 - sum(SHARES.values())) / (len(KINDS) - len(SHARES))
    return round(total * SHARES.get(kind, left))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_ends_in_a_result_or_in_one_line(kind, inputs, tmp_path):
    found = failures(kind, counted(int(os.environ.get("LIPCERT_CASES", "2000")), kind), inputs, tmp_path)
    longest, line = max(SECONDS)
    print(f"{kind}: {len(found)} failures; exit statuses {STATUSES}; longest {longest:.1f} s: {line}")
    assert not found, "\n".join(found)
