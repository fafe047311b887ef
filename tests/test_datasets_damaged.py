"""Files of data sets that are damaged, huge, hostile or no files: one line, or a data set; never anything else."""

import io
import os
import random
import shutil
import socket
import struct
import time
import urllib.request
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lipcert.datasets.image_folder import image_folder
from lipcert.datasets.mnist import mnist
from lipcert.datasets.npz import npz
from lipcert.datasets.tiny_imagenet import tiny_imagenet

QUICK = settings(
    max_examples=60, deadline=10_000, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
NUMBERS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\1\0\0"]


@st.composite
def mutated(draw, content):
    """The content cut, emptied, lengthened, with some bits flipped, or with a number in its head replaced."""
    kind, place = draw(st.integers(0, 4)), draw(st.integers(0, len(content) - 1))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + draw(st.binary(max_size=16)) + content[place:]
    if kind == 2:
        place %= 64
        return content[:place] + draw(st.sampled_from(NUMBERS)) + content[place + 4 :]
    changed = bytearray(content)
    for bit in draw(
        st.lists(st.integers(0, 8 * (len(content) if kind == 3 else min(len(content), 64)) - 1), max_size=9)
    ):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)


def line(call, *args, **keys):
    """What is said where the files are refused; None where a data set is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            dataset = call(*args, **keys)
            assert dataset.train.pixels().shape[1:] == dataset.test.pixels().shape[1:]
        except ValueError as error:
            assert str(error) and "\n" not in str(error) and len(str(error)) < 900
            return str(error)
    assert len(dataset.train) and dataset.num_classes >= 2
    return None


def idx_files():
    found = {}
    for part, count in (("train", 20), ("t10k", 10)):
        found[f"{part}-images-idx3-ubyte"] = struct.pack(">4i", 0x803, count, 5, 4) + random.Random(0).randbytes(
            count * 20
        )
        found[f"{part}-labels-idx1-ubyte"] = struct.pack(">2i", 0x801, count) + bytes(i % 10 for i in range(count))
    return found


IDX = idx_files()


@pytest.fixture(scope="module")
def idx_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idx") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", IDX)
@QUICK
@given(data=st.data())
def test_mutated_idx_files(name, idx_folder, data):
    for other, content in IDX.items():
        (idx_folder / other).write_bytes(content)
    assert line(mnist, data_dir=idx_folder.parents[1]) is None
    (idx_folder / name).write_bytes(data.draw(mutated(IDX[name])))
    line(mnist, data_dir=idx_folder.parents[1])


def array(values):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(values), allow_pickle=True)
    return content.getvalue()


def header(shape, kind="'|u1'"):
    """An array's file that declares this shape, and holds 720 bytes."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(720)


def archive(changes=None, compression=zipfile.ZIP_STORED):
    x, y = np.arange(20 * 36, dtype=np.uint8).reshape(20, 6, 6), np.arange(20) % 4
    members = {"x_train.npy": array(x), "y_train.npy": array(y), "x_test.npy": array(x), "y_test.npy": array(y)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as opened:
        for name, member in (members | (changes or {})).items():
            opened.writestr(name, member)
    return content.getvalue()


def read_npz(folder, content, **keys):
    (folder / "own.npz").write_bytes(content)
    return line(npz, path=str(folder / "own.npz"), **keys)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@QUICK
@given(data=st.data())
def test_mutated_archives(compression, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    read_npz(folder, data.draw(mutated(archive(compression=compression))))
    name = data.draw(st.sampled_from(["x_train.npy", "y_train.npy"]))
    content = array(np.zeros((20, 6, 6) if name[0] == "x" else 20, np.uint8))
    read_npz(folder, archive({name: data.draw(mutated(content))}))


SHAPES = ["(2**70,)", "(1099511627776,)", "(4294967296, 4294967296)", "(-1, 6, 6)", "(-2, -10)", "(True,)", "'x'"]
SHAPES += ["(9223372036854775807, 2)", "((((20,),),),)", "(20, 6, 6)" * 2000, "[" * 5000]


@pytest.mark.parametrize("kind", ["'|u1'", "'<f8'", "'|O'", "'V0'", "'|S0'", "'evil'", "[('a', '<f8')]"])
def test_arrays_that_declare_what_they_do_not_hold(kind, tmp_path):
    for shape in SHAPES:
        assert read_npz(tmp_path, archive({"x_train.npy": header(shape, kind)}))


def test_arrays_of_every_type_and_rank(tmp_path):
    for kind in ("O", "U3", "S4", "M8[s]", "m8[s]", "V3", "?", "c8", "f2", "g", ">f8", "u8", ">i8", [("a", "i4")]):
        for shape in ((), (0,), (20,), (20, 6), (20, 6, 6), (20, 0, 6), (20, 3, 6, 3), (1, 1, 1, 1, 1)):
            for name in ("x_train.npy", "y_train.npy"):
                said = read_npz(tmp_path, archive({name: array(np.zeros(shape, kind))}))
                plain = np.dtype(kind).kind in "iuf" and name[0] == "x" and shape == (20, 6, 6)
                assert (said is None) == plain, (kind, shape, said)


def test_archives_that_unpack_without_a_bound(tmp_path, monkeypatch):
    """Too large by what they say, by compressions that can't be stopped, or larger than they say."""
    assert "use dataset=image_folder" in read_npz(tmp_path, resized(archive(), "x_train.npy", 2**32 - 1, times=3))
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compressed otherwise" in read_npz(tmp_path, archive(compression=compression))
    bomb = archive({"x_train.npy": header("(20, 6, 6)") + bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert read_npz(tmp_path, resized(bomb, "x_train.npy", 848)) is not None
    assert (
        read_npz(tmp_path, archive({"bomb.npy": bytes(2**24), "nested.npz": archive(), "名/../../x.npy": b""})) is None
    )


def resized(content, name, size, times=1):
    """The archive with another uncompressed size in the directory's entries from `name` on."""
    changed, place = bytearray(content), 0
    for _ in range(times):
        place = changed.index(b"PK\1\2", place + 1)
        changed[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(changed)


def test_archives_that_are_none(tmp_path):
    encrypted = archive().replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")
    assert "encrypted" in read_npz(tmp_path, encrypted)
    for content in (b"", array(3), b"PK\5\6" + bytes(18), zlib.compress(b"x"), archive({"x_train.npy": archive()})):
        assert read_npz(tmp_path, content)
    assert "lacks the array x_train" in read_npz(tmp_path, archive().replace(b"x_train.npy", b"x_train.txt"))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, "a\0b", "x" * 300):
        assert line(npz, path=str(path))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "/dev/null", "/dev/null/x"])
def test_folders_that_can_not_be(name):
    assert "`data_dir=`" in line(image_folder, path=name)
    assert "`data_dir=`" in line(mnist, data_dir=name)


# Image folders


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth=8, colour=2):
    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(min(8 * width * height + height, 10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def encoded(kind, mode="RGB", frames=1, **keys):
    content = io.BytesIO()
    image, *others = (Image.new(mode, (8, 8), value) for value in range(frames))
    if others:
        keys |= {"save_all": True, "append_images": others}
    image.save(content, kind, **keys)
    return content.getvalue()


GOOD = encoded("PNG")


@pytest.fixture
def images(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(GOOD)
    return tmp_path


KINDS = {  # files: what must be said of them, if anything
    "a.png": (GOOD, None),
    "animated.png": (encoded("PNG", frames=3), None),
    "gif.png": (encoded("GIF", frames=3), None),
    "cmyk.jpg": (encoded("JPEG", "CMYK"), None),
    "palette.bmp": (encoded("BMP", "P"), None),
    "lzw.tif": (encoded("TIFF", compression="tiff_lzw"), None),
    "alpha.webp": (encoded("WEBP", "RGBA"), None),
    "lab.tif": (encoded("TIFF", "LAB"), None),
    "deep.png": (png(8, 8, 16), "more than 8 bits"),
    "deep.tif": (encoded("TIFF", "I;16"), "more than 8 bits"),
    "float.tif": (encoded("TIFF", "F"), "more than 8 bits"),
    "bomb.png": (png(9000, 10500, 1, 0), "decompression bomb"),
    "vast.png": (png(2**31 - 1, 2**31 - 1), "not a readable image"),
    "nothing.png": (png(0, 8), "not a readable image"),
    "empty.png": (b"", "its format is unknown"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "its format is unknown"),
    "note.txt": (b"not an image", None),
}


@pytest.mark.parametrize("name", KINDS)
def test_images_of_every_kind(name, images):
    content, expected = KINDS[name]
    (images / "train" / "b" / name).write_bytes(content)
    said = line(image_folder, path=str(images))
    assert said is None if expected is None else name in said and expected in said


@QUICK
@given(data=st.data())
def test_mutated_images(tmp_path_factory, data):
    root = tmp_path_factory.getbasetemp() / "mutated"
    shutil.rmtree(root, ignore_errors=True)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "1.png").write_bytes(GOOD)
    content = data.draw(
        st.sampled_from([KINDS[name][0] for name in KINDS if name[-3:] in ("png", "jpg", "bmp", "ebp")])
    )
    place = root / data.draw(st.sampled_from(["train/a/0.png", "test/b/0.png"]))
    place.write_bytes(data.draw(mutated(content)) if content else content)
    keys = data.draw(st.sampled_from([{}, {"mode": "L"}, {"image_size": 5}, {"memory_limit_mb": 0}]))
    line(image_folder, path=str(root), **keys)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


STRANGE = {  # what lies in a folder of images, at this path: what must be said of it, if anything
    "pipe": (os.mkfifo, "is not a regular file"),
    "socket": (bound_socket, "is not a regular file"),
    "device": (lambda path: os.symlink("/dev/zero", path), "is not a regular file"),
    "itself": (lambda path: os.symlink(path.name, path), "is not a regular file"),
    "nothing": (lambda path: os.symlink("/nowhere", path), "is not a regular file"),
    "parent": (lambda path: os.symlink("..", path), "is a link to a folder"),
    "an image": (lambda path: os.symlink(path.parents[3] / "test" / "a" / "0.png", path), None),
    "a folder": (lambda path: path.mkdir(), None),
    "folders": (lambda path: Path(path, *"x" * 14).mkdir(parents=True), None),
    "many folders": (lambda path: os.makedirs(f"{path}{'/x' * 900}"), "lie more than 16 deep"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_strange_things_in_a_folder_of_images(what, images, monkeypatch):
    monkeypatch.chdir(images)  # a socket's path must be short
    make, expected = STRANGE[what]
    (images / "train" / "a" / "sub").mkdir()
    make(images / "train" / "a" / "sub" / "x.png")
    started = time.monotonic()
    said = line(image_folder, path=str(images))
    assert said is None if expected is None else "train/a" in said and expected in said
    assert time.monotonic() - started < 10


def test_a_link_may_be_a_class_but_no_loop(images):
    os.symlink(images / "test" / "a", images / "train" / "c")
    assert image_folder(path=str(images)).num_classes == 3
    os.symlink("..", images / "train" / "d")
    assert "is a link to a folder" in line(image_folder, path=str(images))


def test_an_image_too_narrow_to_be_scaled(images):
    Image.new("RGB", (60000, 1)).save(images / "train" / "a" / "narrow.png")
    assert "narrow.png is 1 x 60000" in line(image_folder, path=str(images), image_size=4000)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_idx_files_that_are_no_files(make, idx_folder):
    for name, content in IDX.items():
        (idx_folder / name).write_bytes(content)
    path = idx_folder / "train-labels-idx1-ubyte"
    path.unlink()
    make(path)
    try:
        assert f"{path} is damaged" in line(mnist, data_dir=idx_folder.parents[1])
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def test_files_larger_than_memory(tmp_path, idx_folder):
    for name, content in IDX.items():
        (idx_folder / name).write_bytes(content)
    huge = idx_folder / "t10k-images-idx3-ubyte"
    os.truncate(huge, 2**40)
    assert "1,099,511,627,776 bytes" in line(mnist, data_dir=idx_folder.parents[1])
    huge.unlink()
    for path in (tmp_path / "own.npz",):
        path.touch()
        os.truncate(path, 2**40)
        assert "1,099,511,627,776 bytes" in line(npz, path=str(path))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"../../etc\n", b"a/b"])
def test_names_of_classes_that_are_none(text, tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "train").mkdir()
    (folder / "val" / "val_annotations.txt").touch()
    (folder / "wnids.txt").write_bytes(text)
    assert "wnids.txt" in line(tiny_imagenet, data_dir=tmp_path)
