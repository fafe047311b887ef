"""The labels that attacks leave, and the images that they found, which are kept on request."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import attacked, lipcert, refused

from lipcert.attacks.judge import distance, judge
from lipcert.contracts import AttackRow, Norm
from lipcert.evaluation.load import load_run
from lipcert.runs import adversarial
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import ATTACKS
from lipcert.runs.rows import header, parse_rows

SMALL = ("dataset.subset=100", "schedule.batch_size=50", "model.depth=2", "model.width=8", "attack=none")
ATTACK = ("run=run", "attack=pgd_l2", "attack.steps=5", "attack.images=30", "attack.batch_size=8", "eps=[0.3,1.0]")
LABEL = "pgd_l2-5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from lipcert import train

    path = tmp_path_factory.mktemp("adversarial") / "run"
    train(*SMALL, "schedule.epochs=3", f"output_dir={path}")
    return path


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    return RunDirectory("run")


def done(capsys, *arguments: str) -> str:
    told = lipcert(capsys, "attack", *ATTACK, *arguments)
    assert told.status == 0, told.err
    return told.err


def check(run: RunDirectory) -> None:
    """Each image is the one that its row speaks of, and no row lacks its image."""
    rows = attacked(run.path)
    assert len(rows) == len({adversarial.Place.of(row) for row in rows}) == 60
    images = adversarial.read(run, rows[0].attack)
    assert images.keys() == {adversarial.Place.of(row) for row in rows if row.success and row.distance > 0} != set()
    _, _, network, dataset = load_run("run")
    for row in rows:
        x = dataset.test.pixels()[[row.index]].double() / 255
        if (image := images.get(adversarial.Place.of(row))) is not None:
            found = torch.from_numpy(image.copy())[None]
            assert found.dtype == torch.float64 and found.min() >= 0 and found.max() <= 1
            assert float(distance(Norm.L2, found, x)) == row.distance <= row.eps
            x = found
        assert row.prediction == int(network(x).argmax(1))
        assert row.success == (row.prediction != int(dataset.test.labels[row.index]))


def test_the_label_after_the_attack_and_the_image_are_kept(run, capsys):
    done(capsys)
    before = attacked(run.path)
    assert not (run / "adversarial").exists()
    done(capsys, "save_images=true")  # rows without their images are computed anew, and are what they were
    assert sorted(attacked(run.path), key=repr) == sorted(before, key=repr)
    check(run)
    size = (run / adversarial.file_of(before[0].attack)).stat().st_size
    done(capsys, "save_images=true")
    assert (run / adversarial.file_of(before[0].attack)).stat().st_size == size


def test_a_stopped_attack_goes_on_with_its_images(run, capsys, monkeypatch):
    """Killed between the images of a batch and its rows, and with half of a block on the disk."""
    append, calls = RunDirectory.append_rows, []

    def killed(self, name, rows):
        calls.append(name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        append(self, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_rows", killed)
        assert lipcert(capsys, "attack", *ATTACK, "save_images=true").status == 130
    (label,) = {row.attack for row in attacked(run.path)}
    path = run / adversarial.file_of(label)
    with path.open("ab") as file:
        file.write(b"\x93NUMPY\x01\x00half a block")
    kept = adversarial.read(run, label)  # what is not registered does not count
    done(capsys, "save_images=true")
    check(run)
    assert adversarial.read(run, label).keys() > kept.keys()


def test_damaged_images_are_found_anew(run, capsys):
    done(capsys, "save_images=true")
    (label,) = {row.attack for row in attacked(run.path)}
    path = run / adversarial.file_of(label)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"save_images=true`, with the same attack, finds its images anew"):
        adversarial.read(run, label)
    done(capsys)  # without its images an attack does not look at them
    assert "finds its images anew; this is done now" in done(capsys, "save_images=true")
    check(run)


def test_multiples_of_a_radius_have_images_too(run, capsys):
    shared = ("run=run", "attack=pgd_l2", "attack.images=10", "eps=[30*certified]", "save_images=true")
    assert lipcert(capsys, "attack", *shared).status == 0
    rows = [row for row in attacked(run.path) if adversarial.is_kept(row)]
    assert rows and adversarial.read(run, rows[0].attack).keys() == {adversarial.Place.of(row) for row in rows}
    assert all(place.factor == 30 for place in adversarial.read(run, rows[0].attack))


def test_a_file_that_holds_something_else_is_refused(run):
    image, place = np.zeros((1, 2, 2)), adversarial.Place(3, None, None)
    with run.writing("test"):
        adversarial.append(run, "x y", {place: image})
        adversarial.append(run, "x y", {place: image + 1})
        assert adversarial.read(run, "x y")[place].tolist() == (image + 1).tolist()  # the last one counts
        with (run / adversarial.file_of("x y")).open("rb") as file:  # as numpy reads it
            assert [np.load(file)["image"][0, 0, 0, 0] for _ in range(2)] == [0.0, 1.0]
        assert adversarial.file_of("x y") != adversarial.file_of("x_y")
        for content in (b"", b"\x93NUMPY", b"PK\x03\x04"):
            run.append_bytes(adversarial.file_of("z"), content)
        with pytest.raises(ValueError, match="does not hold images of an attack: delete it"):
            adversarial.read(run, "z")


FORM = "[('index', '<i8'), ('eps', '<f8'), ('factor', '<f8'), ('image', '<f8', (1, 2, 2))]"


def block(text: str, body: int) -> bytes:
    """A block of an array with that header, and so many bytes of 0 behind it."""
    head = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(body)


@pytest.mark.parametrize(
    "content",
    [
        block(
            f"{{'descr': {FORM}, 'fortran_order': False, 'shape': (-1,), }}".replace("1, 2, 2", "21,"), 192
        ),  # a loop
        block(f"{{'descr': {FORM}, 'fortran_order': False, 'shape': (2,), }}", 100),  # of 112 bytes
        block(f"{{'descr': {FORM}, 'fortran_order': False, 'shape': (1,), }}".replace("1, 2, 2", "9" * 20 + ", 1"), 64),
        block("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8),
        block("[" * 9000, 0),
        block("-" * 9000 + "1", 0),
        block("{'descr': '", 0),
        block("{'descr': 01, }", 0),
    ],
    ids=range(8),
)
def test_a_header_that_numpy_would_choke_on_is_refused_at_once(content):
    with pytest.raises(ValueError, match=r"^F does not hold images of an attack: delete it$"):
        for number, _ in enumerate(adversarial._blocks(content, "F")):
            assert number < 3, "it never ends"
    whole = block(f"{{'descr': {FORM}, 'fortran_order': False, 'shape': (2,), }}", 112)
    assert [each.shape for each in adversarial._blocks(2 * whole, "F")] == [(2,), (2,)]


def test_rows_of_before_there_was_a_label_are_read():
    text = header(AttackRow).replace(",prediction", "") + "test,0,l2,fgsm_l2,0.5,1,0.25,\n"
    assert parse_rows(text.encode(), AttackRow, ATTACKS)[0].prediction is None


def test_logits_that_are_not_finite_have_a_label_too():
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    answer = lambda images: torch.full((len(images), 3), math.nan, dtype=torch.float64)  # noqa: E731
    judged = judge(answer, x, torch.tensor([0]), x, Norm.L2)
    assert judged.success.item() and judged.prediction.item() in (0, 1, 2)


def test_a_wrong_value_is_one_line(run, capsys):
    assert "save_images" in refused(capsys, "attack", *ATTACK, "save_images=perhaps", leaves=(run.path,))
