"""A run's directory that somebody else made executes nothing, writes nothing outside, contacts nobody: one line each.

Every attack here knows the format: it signs what it forged, so that the manifest's hashes are right. What runs is
watched by an audit hook of Python: opening for writing outside the directory, sockets, processes and unpickling.
"""

import hashlib
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lipcert
from lipcert.cli.main import run as command_line
from lipcert.contracts import CertificateRow
from lipcert.runs.rows import format_rows, header, parse_rows

EVIL = "evil"  # the name of what an attack would leave behind
WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
seen: list[str] = []
place: list[Path] = []  # below which writing is allowed, while something is watched


def watch(event: str, arguments: tuple) -> None:
    if not place:
        return
    if event in WATCHED and "git" not in str(arguments[:2]):
        seen.append(f"{event} {arguments[:2]}")
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
        path = Path(os.path.realpath(arguments[0]))
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not any(path.is_relative_to(folder) for folder in (*place, Path("/dev"), Path("/proc"))):
            seen.append(f"writes {path}")
    if event in ("os.mkdir", "os.remove", "os.rename"):
        path = Path(os.path.realpath(str(arguments[0])))
        nothing = event == "os.mkdir" and path.is_dir()
        if not nothing and not any(path.is_relative_to(folder) for folder in place):
            seen.append(f"{event} {arguments[0]}")


sys.addaudithook(watch)


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """A finished run, and one that was stopped after two of three epochs."""
    folder = tmp_path_factory.mktemp("honest")
    keys = ["model.depth=2", "model.width=8", "dataset.subset=60", "schedule.epochs=2", "attack.images=5"]
    lipcert.train("model=l2nnn", *keys, "trainer=cpu", "attack.steps=2", f"output_dir={folder / 'run'}")
    return folder / "run"


@pytest.fixture
def forged(honest, tmp_path) -> Path:
    shutil.copytree(honest, tmp_path / "run")
    return tmp_path / "run"


def sign(run: Path, *names: str) -> None:
    """What an attacker does: the manifest knows what is there."""
    manifest = json.loads((run / "manifest.json").read_text())
    for name in names:
        manifest["files"][name] = {"sha256": [hashlib.sha256((run / name).read_bytes()).hexdigest()]}
    (run / "manifest.json").write_text(json.dumps(manifest))


def unfinished(run: Path) -> None:
    """Takes away what says that there is nothing to resume."""
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["files"]["summary.json"]
    (run / "manifest.json").write_text(json.dumps(manifest))


def config(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        change(content)
        (run / "config.yaml").write_text(yaml.safe_dump(content))
        sign(run, "config.yaml")

    return forge


def config_text(old: str, new: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new, 1))
        sign(run, "config.yaml")

    return forge


def node(key: str, target: str, **more: object) -> Callable[[Path], None]:
    return config(lambda content: content.update({key: {"_target_": target, **more}}))


def append(name: str, text: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        (run / name).write_text((run / name).read_text() + text)
        sign(run, name)

    return forge


class Reduced:
    def __reduce__(self):
        return os.system, (f"touch {EVIL}",)


def checkpoint(change: Callable[[dict], object], save: Callable = torch.save) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        content = torch.load(run / "checkpoints/last.ckpt", weights_only=False)
        content = change(content) or content
        save(content, run / "checkpoints/last.ckpt")
        sign(run, "checkpoints/last.ckpt")
        unfinished(run)

    return forge


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return checkpoint(lambda c: c.update(state_dict={name: change(value) for name, value in c["state_dict"].items()}))


def compressed(content: object, path: Path) -> None:
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        items = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in items:
            archive.writestr(name, data)


def link(name: str, remove: bool = True) -> Callable[[Path], None]:
    """Makes `name` a link to a file outside."""

    def forge(run: Path) -> None:
        outside = run.parent / "outside"
        outside.write_text("precious")
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if remove and path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(outside)

    return forge


def hard_link(run: Path) -> None:
    outside = run.parent / "outside"
    shutil.copy(run / "attacks.csv", outside)
    (run / "attacks.csv").unlink()
    os.link(outside, run / "attacks.csv")


def linked_folder(name: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        outside = run.parent / "outside"
        outside.mkdir()
        if (run / name).exists():
            shutil.rmtree(run / name)
        (run / name).symlink_to(outside)
        unfinished(run)

    return forge


def pipe(name: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return forge


def device(name: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to("/dev/zero")

    return forge


def rows(change: Callable[[list[CertificateRow]], list[CertificateRow]], signed: bool = True) -> Callable:
    def forge(run: Path) -> None:
        path = run / "certificates.csv"
        found = parse_rows(path.read_bytes(), CertificateRow, "")
        path.write_text(header(CertificateRow) + format_rows(CertificateRow, change(found)))
        if signed:
            sign(run, "certificates.csv")

    return forge


def flip(name: str) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run / name).write_bytes(data)

    return forge


def json_file(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def forge(run: Path) -> None:
        content = json.loads((run / name).read_text())
        content = change(content) or content
        (run / name).write_text(content if isinstance(content, str) else json.dumps(content))
        sign(run, name)

    return forge


def counterexample(run: Path) -> None:
    (run / "counterexamples").mkdir()
    np.savez(run / "counterexamples" / "x-0.npz", x_adv=np.array([Reduced()], dtype=object), index=0, attack="a")


def named_by_a_path(run: Path) -> None:
    """A counter-example whose attack's name leads out of the run; all images are certified for more."""
    outside = run.parent / "outside"
    outside.write_text("precious")
    (run / "counterexamples").mkdir()
    image = np.zeros((1, 8, 8))
    fields = {"x": image, "label": 0, "prediction": 1, "distance": 0.0, "radius": 1.0, "certificate": "pairwise"}
    path = run / "counterexamples" / "x-0.npz"
    np.savez(path, **fields, x_adv=image, norm="l2", attack=str(outside.with_suffix("")), index=0)
    rows(lambda found: [row._replace(prediction=row.label, radius=1e9) for row in found])(run)


def unpacks_to_a_gigabyte(run: Path) -> None:
    (run / "counterexamples").mkdir()
    with zipfile.ZipFile(run / "counterexamples" / "x-0.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_adv.npy", bytes(1 << 28))


def bomb(run: Path) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))
    (run / "config.yaml").write_text("l0: &l0 [x]\n" + levels)
    sign(run, "config.yaml")


CERTIFY = ("certify", "run={}")
ATTACK = ("attack", "run={}", "attack=pgd_l2", "attack.images=8", "attack.steps=2")
RESUME = ("train", "resume={}")
COMPARE = ("compare", "{}", "output_dir={}/../compare")

# what: how the directory is forged, and what a victim does with it
ATTACKS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    # H1: code
    "a tuple by !!pairs": (config_text("dataset:\n", "more: !!pairs [a: 1]\ndataset:\n"), CERTIFY),
    "a list by !!omap": (config_text("dataset:\n", "more: !!omap [a: 1]\ndataset:\n"), CERTIFY),
    "a set": (config_text("dataset:\n", "more: !!set {a}\ndataset:\n"), CERTIFY),
    "an object of Python": (
        config_text("dataset:\n", f"more: !!python/object/apply:os.system ['touch {EVIL}']\ndataset:\n"),
        CERTIFY,
    ),
    "os.mkdir": (node("dataset", "os.mkdir", path=EVIL), CERTIFY),
    "os.system in a list": (
        config(lambda c: c["dataset"].update(augment=[{"_target_": "os.system", "command": f"touch {EVIL}"}])),
        CERTIFY,
    ),
    "torch.load": (node("certificate", "torch.load", f=EVIL, weights_only=False), CERTIFY),
    "numpy.load": (node("dataset", "numpy.load", file=EVIL, allow_pickle=True), CERTIFY),
    "a function of ours that writes": (
        node("dataset", "lipcert.files.write_atomic", path=EVIL, content="x"),
        CERTIFY,
    ),
    "a private function of ours": (
        node("dataset", "lipcert.datasets.download._answer", address="http://127.0.0.1:9/"),
        CERTIFY,
    ),
    "a function of ours that downloads": (node("dataset", "lipcert.datasets.download.provide", root=EVIL), CERTIFY),
    "a way through a module of ours": (node("dataset", "lipcert.datasets.mnist.MNIST", root=EVIL), CERTIFY),
    "positional arguments": (
        config(lambda c: c["dataset"].update(_args_=[{"_target_": "os.mkdir", "path": EVIL}])),
        CERTIFY,
    ),
    "a partial where none is due": (config(lambda c: c["dataset"].update(_partial_=True)), CERTIFY),
    "a part out of place": (node("certificate", "lipcert.models.l2nnn.L2NNN"), CERTIFY),
    "a target that is no text": (config(lambda c: c["dataset"].update(_target_=["os", "mkdir"])), CERTIFY),
    "an interpolation": (config(lambda c: c["dataset"].update(seed="${oc.env:HOME}")), CERTIFY),
    "code in the model, when resumed": (
        lambda run: (unfinished(run), node("model", "os.system", command=f"touch {EVIL}")(run)),
        RESUME,
    ),
    "a foreign optimizer, when resumed": (
        lambda run: (unfinished(run), node("optimizer", "subprocess.Popen", args=["touch", EVIL], _partial_=True)(run)),
        RESUME,
    ),
    "a logger that tells a server, when resumed": (
        lambda run: (unfinished(run), node("logger", "lipcert.training.services.MLflow", tracking_uri="x")(run)),
        RESUME,
    ),
    "a logger that tells a server, when certified": (
        node("logger", "lipcert.training.services.MLflow", tracking_uri="http://127.0.0.1:9"),
        CERTIFY,
    ),
    "a foreign logger, when resumed": (
        lambda run: (unfinished(run), node("logger", "os.system", command=f"touch {EVIL}")(run)),
        RESUME,
    ),
    "a foreign logger, when certified": (node("logger", "os.system", command=f"touch {EVIL}"), CERTIFY),
    "code in the monitor, when resumed": (
        lambda run: (unfinished(run), config(lambda c: c["monitor"].update(attack={"_target_": "os.getcwd"}))(run)),
        RESUME,
    ),
    "a pickled call in the checkpoint": (checkpoint(lambda c: c.update(x=Reduced())), RESUME),
    "a checkpoint of plain pickle": (
        checkpoint(lambda c: None, lambda c, path: path.write_bytes(pickle.dumps(Reduced()))),
        RESUME,
    ),
    "a configuration in the checkpoint": (
        checkpoint(lambda c: c.update(config={"model": {"_args_": ({"_target_": "os.mkdir", "path": EVIL},)}})),
        RESUME,
    ),
    "a counter-example with an object": (counterexample, ATTACK),
    "a counter-example named by a path": (named_by_a_path, (*ATTACK, "attack.seed=0")),
    "a counter-example that unpacks to a gigabyte": (unpacks_to_a_gigabyte, ATTACK),
    "data that is not there": (
        config(lambda c: c.update(dataset={"_target_": "lipcert.datasets.mnist.mnist", "data_dir": "elsewhere"})),
        CERTIFY,
    ),
    "data that is not there, when resumed": (
        lambda run: (
            unfinished(run),
            config(lambda c: c.update(dataset={"_target_": "lipcert.datasets.mnist.mnist", "data_dir": "x"}))(run),
        ),
        RESUME,
    ),
    # H2, H3: plugins are in test_cli.py; links and special files
    "a link for the attacks": (link("attacks.csv"), ATTACK),
    "a link for the certificates": (link("certificates.csv"), CERTIFY),
    "a link for the summary": (link("summary.json"), CERTIFY),
    "a link for the manifest": (link("manifest.json"), CERTIFY),
    "a link for the lock": (link(".lock"), CERTIFY),
    "a link for who holds it": (link(".lock.json"), CERTIFY),
    "a link for a partial checkpoint": (lambda r: (unfinished(r), link("checkpoints/.last.ckpt.partial")(r)), RESUME),
    "a link for the log of the ranks": (lambda r: (unfinished(r), link("ranks.log")(r)), RESUME),
    "a link for the network": (link("network/network.json"), CERTIFY),
    "a hard link for the attacks": (hard_link, ATTACK),
    "a link for the checkpoints' folder": (linked_folder("checkpoints"), RESUME),
    "a link for the counter-examples' folder": (linked_folder("counterexamples"), ATTACK),
    "a link for the network's folder": (linked_folder("network"), RESUME),
    "a pipe for the configuration": (pipe("config.yaml"), CERTIFY),
    "a pipe for the network": (pipe("network/network.json"), CERTIFY),
    "a pipe for the rows": (pipe("attacks.csv"), COMPARE),
    "a device for the configuration": (device("config.yaml"), CERTIFY),
    "a device for the manifest": (device("manifest.json"), COMPARE),
    "aliases that grow": (bomb, CERTIFY),
    "a number to base 60 of a megabyte": (config_text("seed: 0", "seed: 1" + ":1" * 100_000), CERTIFY),
    "deep nesting": (config_text("dataset:\n", f"more: {'[' * 3000}{']' * 3000}\ndataset:\n"), CERTIFY),
    "a huge configuration": (append("config.yaml", "# " + "x" * (1 << 21) + "\n"), CERTIFY),
    "a number of 10,000 digits": (config_text("seed: 0", f"seed: {'9' * 10_000}"), CERTIFY),
    "a key twice": (config_text("seed: 0", "seed: 0\nseed: 1"), CERTIFY),
    "a checkpoint that grows": (checkpoint(lambda c: None, compressed), RESUME),
    # H5: rows and bits
    "rows with small radii left out": (rows(lambda r: [x for x in r if x.radius > 0.01], signed=False), COMPARE),
    "the same, signed": (rows(lambda r: [x for x in r if x.radius > 0.01]), COMPARE),
    "a row twice": (rows(lambda r: [*r, r[0]]), COMPARE),
    "a row of image −1": (rows(lambda r: [*r[1:], r[0]._replace(index=-1)]), COMPARE),
    "a row beyond the last image": (rows(lambda r: [*r[1:], r[0]._replace(index=10**9)]), COMPARE),
    "rows of another kind": (rows(lambda r: [x._replace(kind="nominal") for x in r]), COMPARE),
    "rows of a certificate without facts": (rows(lambda r: [x._replace(certificate="x") for x in r]), COMPARE),
    "a line that is cut": (append("certificates.csv", "test,1"), COMPARE),
    "a bit of the weights": (flip("network/network.safetensors"), CERTIFY),
    "a bit of the operations": (flip("network/network.json"), CERTIFY),
    "a bit of the rows": (flip("certificates.csv"), COMPARE),
    "a bit of the configuration": (flip("config.yaml"), CERTIFY),
    "a bit of the checkpoint": (lambda run: (unfinished(run), flip("checkpoints/last.ckpt")(run)), RESUME),
    "a bit of the summary": (flip("summary.json"), COMPARE),
    "facts without a number of images": (
        json_file("certificates.json", lambda c: c["test"]["pairwise"].pop("images") and None),
        COMPARE,
    ),
    "a label that moves the cursor": (
        json_file("certificates.json", lambda c: c["test"].update({"\x1b[2J": c["test"]["pairwise"]})),
        COMPARE,
    ),
    "layers without names": (
        json_file("certificates.json", lambda c: c["test"]["pairwise"].update(layers=[{}])),
        CERTIFY,
    ),
    "a bound that is a list": (
        json_file("certificates.json", lambda c: c["test"]["pairwise"].update(lipschitz_bound=[])),
        CERTIFY,
    ),
    "facts that are no dictionaries": (json_file("certificates.json", lambda c: {"test": [1]}), CERTIFY),
    "a summary of other numbers": (json_file("summary.json", lambda c: {**c, "certified_accuracy": [1]}), COMPARE),
    "a summary that is nested": (json_file("summary.json", lambda c: "[" * 100_000), COMPARE),
    "a manifest that is a list": (lambda run: (run / "manifest.json").write_text("[]"), CERTIFY),
    # a checkpoint of other numbers
    "weights of another shape": (weights(lambda v: v[:1] if v.dim() else v), RESUME),
    "meta tensors": (weights(lambda v: v.to("meta")), RESUME),
    "sparse tensors": (weights(lambda v: v.to_sparse()), RESUME),
    "weights that are no tensors": (checkpoint(lambda c: c.update(state_dict={"x": 1})), RESUME),
    "a negative epoch": (checkpoint(lambda c: c.update(epochs_done=-1)), RESUME),
    "an epoch of another type": (checkpoint(lambda c: c.update(epochs_done="2")), RESUME),
    "steps that are no multiple": (checkpoint(lambda c: c.update(global_step=3)), RESUME),
    "a state of no optimizer": (checkpoint(lambda c: c.update(optimizer_states=[])), RESUME),
    "moments of other parameters": (checkpoint(lambda c: c.update(optimizer_states=[{"state": {99: {}}}])), RESUME),
}  # fmt: skip

STATUS = {  # where it is not 2
    "a logger that tells a server, when certified": 0,  # which only training uses
    "a foreign logger, when certified": 0,
    "a configuration in the checkpoint": 0,  # which nobody reads
    "a counter-example named by a path": 3,  # rightly: the forged radius is a false one
}


@pytest.mark.parametrize("what", ATTACKS)
def test_nothing_is_executed_written_outside_or_contacted(forged, what, capfd, monkeypatch, tmp_path):
    forge, command = ATTACKS[what]
    forge(forged)
    outside = forged.parent / "outside"
    before = outside.read_bytes() if outside.is_file() else None
    monkeypatch.chdir(tmp_path)
    seen.clear()
    place[:] = [forged.resolve(), (tmp_path / "compare").resolve(), Path(os.path.realpath(os.devnull))]
    try:
        status = command_line(command[0], [argument.format(forged) for argument in command[1:]])
    finally:
        place.clear()
    error = capfd.readouterr().err
    assert status == STATUS.get(what, 2), error
    assert status == 0 or (error.startswith("lipcert: ") and error.count("\n") == 1), error
    assert "Traceback" not in error
    assert seen == []
    assert not Path(EVIL).exists() and not (forged / EVIL).exists()
    assert (outside.read_bytes() if outside.is_file() else None) == before
    assert not (outside.is_dir() and any(outside.iterdir()))


def test_the_watch_sees_what_an_attack_would_do(tmp_path):
    """The control: each of these is noticed."""
    place[:] = [tmp_path / "inside"]
    try:
        seen.clear()
        (tmp_path / "file").write_text("x")
        os.mkdir(tmp_path / "folder")
        with pytest.raises(OSError):
            __import__("socket").create_connection(("127.0.0.1", 9), timeout=0.1)
        os.system("true")
    finally:
        place.clear()
    assert len(seen) >= 4


def test_a_run_without_forgery_passes(forged, monkeypatch, tmp_path):
    """The control: what is refused above is refused for the forgery."""
    monkeypatch.chdir(tmp_path)
    for command in (CERTIFY, ATTACK, COMPARE, RESUME):
        assert command_line(command[0], [argument.format(forged) for argument in command[1:]]) == 0
