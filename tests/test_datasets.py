"""Every loader on small files in its format that the tests write; the keys they share; what they refuse."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import pickle
import shutil
import socket
import struct
import tarfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torchvision import datasets as tv

from lipcert.configuration import check
from lipcert.datasets import download, tiny_imagenet
from lipcert.datasets.batching import batches
from lipcert.datasets.cifar10 import cifar10
from lipcert.datasets.cifar100 import cifar100
from lipcert.datasets.digits import digits
from lipcert.datasets.fashion_mnist import fashion_mnist
from lipcert.datasets.image_folder import image_folder
from lipcert.datasets.mnist import mnist
from lipcert.datasets.npz import npz
from lipcert.datasets.options import Options
from lipcert.datasets.sampling import in_proportion, in_turns, stream
from lipcert.datasets.svhn import svhn
from lipcert.parts import parts

CONF = Path(__file__).parents[1] / "conf" / "dataset"
SHARED = Path(__file__).parents[2] / "shared" / "data"
TRAIN, TEST = 40, 10
TARGETS = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "tiny_imagenet": tiny_imagenet.tiny_imagenet,
    "image_folder": image_folder,
    "npz": npz,
}


def configured(name, data_dir, **keys):
    """The data set as `lipcert` builds it from its yaml."""
    return instantiate(configuration(name, data_dir, **keys), _convert_="all")


def configuration(name, data_dir, **keys):
    own = OmegaConf.merge(OmegaConf.load(CONF / "_base.yaml"), OmegaConf.load(CONF / f"{name}.yaml"), keys)
    del own["defaults"]
    whole = OmegaConf.create({"data_dir": str(data_dir), "seed": 0, "dataset": own})
    return OmegaConf.to_container(whole, resolve=True)["dataset"]


def refused(match, call, *args, **keys):
    with pytest.raises(ValueError, match=match) as caught:
        call(*args, **keys)
    assert "\n" not in str(caught.value)


def drawn(count, channels, side, classes, seed):
    """Random images uint8 (N, C, H, W) and labels in which every class of a small set turns up."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, channels, side, side), np.uint8)
    return images, np.arange(count) % min(classes, count)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


# Each writer lays down the files of a small data set under `root` and returns ((images, labels) of train, of test).


def write_idx(root, patch, kind=tv.MNIST):
    raw = root / kind.__name__ / "raw"
    raw.mkdir(parents=True)
    parts = drawn(TRAIN, 1, 28, 10, 0), drawn(TEST, 1, 28, 10, 1)
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        header = struct.pack(">4i", 0x803, *images[:, 0].shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, len(labels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
    return parts


def write_cifar(root, patch, kind=tv.CIFAR10, classes=10):
    """Pickles as old as the real ones. Torchvision knows those by their MD5: its tables are told ours."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind is tv.CIFAR10 else "fine_labels"
    train, test = drawn(TRAIN, 3, 32, classes, 0), drawn(TEST, 3, 32, classes, 1)

    def dump(name, content):
        old = pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")  # dtype(..., 0, 1)
        (folder / name).write_bytes(old)
        return name, md5(folder / name)

    def batch(images, labels):
        return {"data": images.reshape(len(images), -1), key: labels.tolist()}

    names = [name for name, _ in kind.train_list]
    indices = np.array_split(np.arange(TRAIN), len(names))
    sums = [dump(name, batch(train[0][i], train[1][i])) for name, i in zip(names, indices, strict=True)]
    patch.setattr(kind, "train_list", sums)
    patch.setattr(kind, "test_list", [dump(kind.test_list[0][0], batch(*test))])
    filename, digest = dump(kind.meta["filename"], {kind.meta["key"]: [str(i) for i in range(classes)]})
    patch.setattr(kind, "meta", {**kind.meta, "filename": filename, "md5": digest})
    return train, test


def write_svhn(root, patch):
    parts = {"train": drawn(TRAIN, 3, 32, 10, 0), "test": drawn(TEST, 3, 32, 10, 1), "extra": drawn(20, 3, 32, 10, 2)}
    root.mkdir(parents=True, exist_ok=True)
    table = {}
    for part, (images, labels) in parts.items():
        path = root / f"{part}_32x32.mat"
        tens = np.where(labels == 0, 10, labels).astype(np.uint8)  # SVHN writes the digit 0 as 10
        scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": tens[:, None]})
        table[part] = [tv.SVHN.split_list[part][0], path.name, md5(path)]
    patch.setattr(tv.SVHN, "split_list", table)
    return parts["train"], parts["test"]


def write_tiny(root, patch):
    folder = root / "tiny-imagenet-200"
    names = ["n02", "n01", "n03"]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(names) + "\n")
    parts = {"train": ([], []), "test": ([], [])}
    lines = []
    for part, count in (("train", TRAIN), ("test", TEST)):
        images, _ = drawn(count, 3, 64, 3, count)
        for i, image in enumerate(images):
            name = names[i % 3]
            path = folder / "val" / "images" / f"val_{i}.JPEG"
            if part == "train":
                path = folder / "train" / name / "images" / f"{name}_{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
            grey = i == 4  # a few of the real ones are grey
            Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)).save(path)
            lines += [f"val_{i}.JPEG\t{name}\t0\t0\t9\t9"] if part == "test" else []
            with Image.open(path) as saved:
                parts[part][0].append(np.asarray(saved.convert("RGB")).transpose(2, 0, 1))
            parts[part][1].append(sorted(names).index(name))
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return tuple(tuple(np.array(column) for column in columns) for columns in parts.values())


def write_folder(root, patch, parts=("train", "test"), channels=3, side=12):
    result = []
    for number, part in enumerate(parts):
        images, labels = drawn(TEST if part == "test" else TRAIN, channels, side, 4, number)
        order = np.argsort(labels, kind="stable")
        images, labels = images[order], labels[order]
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = root / part / f"class {label}" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(path)
        result.append((images, labels))
    return tuple(result)


def write_npz(root, patch, **arrays):
    parts = drawn(TRAIN, 3, 6, 4, 0), drawn(TEST, 3, 6, 4, 1)
    (x, y), (u, v) = parts
    root.mkdir(parents=True, exist_ok=True)
    own = {"x_train": x.transpose(0, 2, 3, 1), "y_train": y, "x_test": u.transpose(0, 2, 3, 1), "y_test": v}
    np.savez(root / "own.npz", **{key: array for key, array in (own | arrays).items() if array is not None})
    return parts


WRITERS = {
    "mnist": write_idx,
    "fashion_mnist": functools.partial(write_idx, kind=tv.FashionMNIST),
    "cifar10": write_cifar,
    "cifar100": functools.partial(write_cifar, kind=tv.CIFAR100, classes=100),
    "svhn": write_svhn,
    "tiny_imagenet": write_tiny,
    "image_folder": write_folder,
    "npz": write_npz,
}
SHAPES = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "tiny_imagenet": (3, 64, 64), "npz": (3, 6, 6)}
SHAPES |= {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "svhn": (3, 32, 32), "image_folder": (3, 12, 12)}
CLASSES = {"cifar100": 100, "tiny_imagenet": 3, "image_folder": 4, "npz": 4}


def own_keys(name, root):
    return {"path": str(root / "own.npz")} if name == "npz" else {}


@pytest.mark.parametrize("name", WRITERS)
def test_a_loader_returns_the_files_that_were_written(name, tmp_path, monkeypatch):
    train, test = WRITERS[name](tmp_path, monkeypatch)
    dataset = configured(name, tmp_path, val_size=8, **own_keys(name, tmp_path))
    assert dataset.name == name and dataset.input_shape == SHAPES[name]
    assert dataset.num_classes == CLASSES.get(name, 10)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (TRAIN - 8, 8, TEST)
    for split in (dataset.train, dataset.val, dataset.test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    assert np.array_equal(dataset.test.images.numpy(), test[0])
    assert np.array_equal(dataset.test.labels.numpy(), test[1])
    written = {image.tobytes(): int(label) for image, label in zip(*train, strict=True)}
    together = [(dataset.train, i) for i in range(TRAIN - 8)] + [(dataset.val, i) for i in range(8)]
    read = {split.images[i].numpy().tobytes(): int(split.labels[i]) for split, i in together}
    assert read == written


def test_the_extra_images_of_svhn_join_the_training_set(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    assert len(svhn(data_dir=tmp_path, extra=True).train) == TRAIN + 20


def test_digits_divides_alike_for_every_seed_and_keeps_all_images():
    one, two = digits(seed=1), digits(seed=2, val_size=0.1)
    assert torch.equal(one.test.images, two.test.images)
    assert (len(one.train), len(one.val), len(one.test)) == (1438, 0, 359)
    assert (len(two.train), len(two.val), len(two.test)) == (1294, 144, 359)
    assert one.input_shape == (1, 8, 8) and one.train.images.max() == 255
    counts = torch.bincount(one.test.labels)
    assert counts.min() >= 34 and counts.max() <= 37
    assert configured("digits", "nowhere").eps == [0.1, 0.3, 0.5, 1.0]


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="real MNIST is not in ../shared/data")
def test_the_real_mnist():
    dataset = configured("mnist", SHARED, val_size=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (60000, 0, 10000)
    pixels = dataset.train.images.to(torch.float32) / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.1307, 0.3081)
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_every_yaml_gives_radii_and_no_path_of_this_machine():
    for path in CONF.glob("*.yaml"):
        assert ": /" not in path.read_text(), path
        if path.stem != "_base":
            radii = configuration(path.stem, "data")["eps"]
            assert radii and all(radius > 0 for radius in radii), path
    assert configuration("cifar10", "data")["eps"] == [36 / 255, 72 / 255, 108 / 255]


@pytest.mark.parametrize(("val_size", "count"), [(0, 0), (100, 100), (0.25, 360), (1437, 1437)])
def test_validation_images_are_taken_from_training_in_proportion(val_size, count):
    whole, dataset = digits(), digits(val_size=val_size, seed=3)
    assert len(dataset.val) == count and len(dataset.train) == 1438 - count
    pool = torch.cat([dataset.train.images, dataset.val.images]).flatten(1).sort(0).values
    assert torch.equal(pool, whole.train.images.flatten(1).sort(0).values)
    share = torch.bincount(whole.train.labels) * count / 1438
    assert (torch.bincount(dataset.val.labels, minlength=10) - share).abs().max() <= 1


def test_choices_depend_on_the_seed_and_on_nothing_else():
    keys = {"val_size": 100, "subset": 300, "label_noise": 0.4}
    torch.manual_seed(0)
    one, state = digits(seed=5, **keys), torch.get_rng_state()
    torch.manual_seed(1)
    again = digits(seed=5, **keys)
    other = digits(seed=6, **keys)
    for split in ("train", "val"):
        a, b, c = (getattr(dataset, split) for dataset in (one, again, other))
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        assert not torch.equal(a.images, c.images)
    assert torch.equal(one.val.images, digits(seed=5, val_size=100).val.images)  # whatever becomes of the rest
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())  # and the global stream was left alone


def test_subsets_are_balanced_and_nested():
    small, large = digits(seed=4, subset=95), digits(seed=4, subset=500)
    assert sorted(torch.bincount(small.train.labels).tolist()) == [9] * 5 + [10] * 5
    rows = {image.numpy().tobytes() for image in large.train.images}
    assert len(large.train) == 500 and all(image.numpy().tobytes() in rows for image in small.train.images)


def test_a_class_that_runs_out_leaves_its_place_to_the_others():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    first = labels[in_turns(labels, stream(0))[:23]]
    assert torch.bincount(first).tolist() == [10, 3, 10]


def test_a_rare_class_comes_when_its_share_is_due():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    order = labels[in_proportion(labels, stream(0))]
    assert [(order[:n] == 1).sum() for n in (15, 51, 53, 103)] == [0, 1, 2, 3]


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.75, 1.0])
def test_label_noise_replaces_that_fraction_uniformly_and_says_where(fraction):
    clean, noisy = digits(seed=7, val_size=50), digits(seed=7, val_size=50, label_noise=fraction)
    count = len(clean.train)
    indices, before, after = noisy.label_noise
    assert len(indices) == len(indices.unique()) == round(fraction * count)
    assert torch.equal(clean.train.labels[indices], before) and torch.equal(noisy.train.labels[indices], after)
    rest = torch.ones(count, dtype=torch.bool).index_fill(0, indices, False)
    assert torch.equal(clean.train.labels[rest], noisy.train.labels[rest])
    assert torch.equal(clean.val.labels, noisy.val.labels) and torch.equal(clean.test.labels, noisy.test.labels)
    if fraction:
        changed = (before != after).double().mean()  # one in ten is drawn right by chance
        assert abs(changed - 0.9) < 4 * (0.09 / len(indices)) ** 0.5
        frequency = torch.bincount(after, minlength=10) / len(after)
        assert (frequency - 0.1).abs().max() < 4.5 * (0.09 / len(after)) ** 0.5


def test_a_crop_is_random_in_training_and_central_elsewhere(tmp_path, monkeypatch):
    _, (images, _) = write_cifar(tmp_path, monkeypatch)
    dataset = configured("cifar10", tmp_path, val_size=8, crop=28)
    assert dataset.input_shape == dataset.test.input_shape == (3, 28, 28)
    x, _ = next(iter(batches(dataset.test, TEST, device="cpu")))
    assert np.array_equal((x * 255).round().numpy(), images[:, :, 2:30, 2:30])
    x, _ = next(iter(batches(dataset.train, 32, device="cpu", augment=dataset.augment)))
    assert x.shape == (32, 3, 28, 28)
    assert torch.equal(dataset.train.pixels(), dataset.train.images[:, :, 2:30, 2:30])
    bare = configured("cifar10", tmp_path, val_size=8, crop=28, augment=[])
    assert [item.size for item in bare.augment] == [28]  # a crop that nobody asked for is one without padding


def test_an_image_folder_may_have_its_own_validation_images_and_stay_on_disk(tmp_path, monkeypatch):
    _, val, test = write_folder(tmp_path, monkeypatch, parts=("train", "val", "test"))
    dataset = configured("image_folder", "nowhere", path=str(tmp_path), val_size=0.5, memory_limit_mb=0)
    assert len(dataset.train) == TRAIN and not isinstance(dataset.train.images, torch.Tensor)
    for split, (images, labels) in ((dataset.val, val), (dataset.test, test)):
        x, y = next(iter(batches(split, 100, device="cpu")))
        assert np.array_equal((x * 255).round().numpy(), images) and np.array_equal(y.numpy(), labels)
    part = image_folder(path=str(tmp_path), memory_limit_mb=0, subset=12, label_noise=0.5, seed=1).train
    whole = image_folder(path=str(tmp_path), subset=12, label_noise=0.5, seed=1).train
    assert torch.equal(whole.images, part.pixels()) and torch.equal(whole.labels, part.labels)


def test_an_image_folder_may_be_grey_or_resized(tmp_path, monkeypatch):
    write_folder(tmp_path / "grey", monkeypatch, channels=1)
    assert image_folder(path=str(tmp_path / "grey")).input_shape == (1, 12, 12)
    assert image_folder(path=str(tmp_path / "grey"), mode="RGB").input_shape == (3, 12, 12)
    write_folder(tmp_path / "mixed", monkeypatch)
    Image.new("RGB", (20, 14), (7, 8, 9)).save(tmp_path / "mixed" / "train" / "class 0" / "wide.png")
    dataset = image_folder(path=str(tmp_path / "mixed"), image_size=10)
    assert dataset.input_shape == (3, 10, 10)
    assert dataset.train.images[TRAIN // 4].flatten(1).unique(dim=1).flatten().tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("layout", "convert"),
    [
        (None, lambda x: x),
        (None, lambda x: x.transpose(0, 3, 1, 2)),
        ("NCHW", lambda x: x.transpose(0, 3, 1, 2)),
        (None, lambda x: (x / 255).astype(np.float32)),
        (None, lambda x: x.astype(np.int64)),
    ],
)
def test_npz_takes_either_layout_and_floats_that_are_pixels(layout, convert, tmp_path, monkeypatch):
    (x, _), _ = parts = write_npz(tmp_path, monkeypatch)
    last = x.transpose(0, 2, 3, 1)
    write_npz(tmp_path, monkeypatch, x_train=convert(last), x_test=convert(parts[1][0].transpose(0, 2, 3, 1)))
    dataset = npz(path=str(tmp_path / "own.npz"), layout=layout)
    assert np.array_equal(dataset.train.images.numpy(), x)
    grey = last[..., 0]
    own = {"x_val": grey[:5], "y_val": np.arange(5) % 4}
    write_npz(tmp_path, monkeypatch, x_train=grey, x_test=grey[:TEST], **own)
    dataset = npz(path=str(tmp_path / "own.npz"), val_size=0.5)
    assert dataset.input_shape == (1, 6, 6) and (len(dataset.train), len(dataset.val)) == (TRAIN, 5)


BAD_KEYS = {
    "val_size": [-1, 1.0, 1438, 5000, "many", None, float("nan"), float("inf")],
    "subset": [0, -3, 1439, 0.5, "all"],
    "label_noise": [-0.1, 1.1, float("nan"), "half", None],
    "seed": [-1, 0.5, "one", None, 2**63, 2**64],
    "crop": [0, 9, 2.5, [6]],
    "data_dir": [None, 3],
    "workers": [-1, None],
    "eps": [[-0.1], [float("nan")], [float("inf")], ["far"], [None], 0.3, "0.3"],
    "eps_linf": [[-0.1], [None], 0.3],
    "mean": [["dark"], [float("inf")], 0.5],
    "std": [0, -1, "wide", float("nan")],
    "augment": [[torch.nn.Identity()], ["flip"], 3],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_KEYS.items() for value in values])
def test_a_wrong_value_is_refused_by_its_key(key, value):
    refused(f"`dataset.{key}`", digits, **{key: value})


def test_the_largest_seed_is_a_seed():
    assert len(digits(seed=2**63 - 1, val_size=10, label_noise=0.5).val) == 10


@pytest.mark.parametrize("name", [*WRITERS, "digits"])
def test_a_configuration_is_checked_against_all_keys_of_its_data_set(name):
    whole = configuration(name, "data")
    check(whole, "dataset")
    refused("`dataset.val_sise` is not a key of .*`val_size`", check, whole | {"val_sise": 2}, "dataset")
    refused("`dataset.epochs` is not a key", check, whole | {"epochs": 2}, "dataset")
    refused("`dataset.seed` must be int", check, whole | {"seed": "one"}, "dataset")
    refused("`dataset.eps` must be a list of float", check, whole | {"eps": [None]}, "dataset")


def test_wrong_values_are_refused_before_anything_is_read():
    refused("`dataset.label_noise`", mnist, data_dir="/nowhere", label_noise=2)
    with pytest.raises(TypeError, match="val_sise"):
        mnist(data_dir="/nowhere", val_sise=2)
    assert str(Options(data_dir="~/x").root).startswith(str(Path.home()))


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("npz", "image_folder")])
def test_missing_files_offline_are_one_line_that_names_them(name, tmp_path, monkeypatch):
    def unreachable(*args, **keys):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    refused(f"{tmp_path}/a/b lacks .*no answer from .*`data_dir=`", TARGETS[name], data_dir=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("silent", ["server", "name look-up"])
def test_where_nothing_answers_is_given_up(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(tv.MNIST, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        if silent == "name look-up":
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args: time.sleep(5))
        started = time.monotonic()
        refused("MNIST/raw/train-images-idx3-ubyte.*no answer", mnist, data_dir=tmp_path / "new")
        assert time.monotonic() - started < 3
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_can_not_send_a_request(monkeypatch):
    """What downloads is no part that a configuration may name; and plain data is no `Path`, without which it fails."""
    sent = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **keys: sent.append(args))
    for files in (["x"], []):
        with contextlib.suppress(TypeError, AttributeError):
            download.provide("here", files, [["x", "http://127.0.0.1:9/", "0"]])
    assert not sent and not any("download" in part for part in parts())


@pytest.fixture
def server(tmp_path):
    """A folder and the address that serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as serving:
        threading.Thread(target=serving.serve_forever, args=[0.02], daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_address[1]}/"
        serving.shutdown()


WRITTEN = [f"{part}-{kind}-ubyte" for part in ("t10k", "train") for kind in ("images-idx3", "labels-idx1")]


def test_what_is_missing_is_downloaded(server, tmp_path, monkeypatch):
    served, address = server
    (images, _), _ = write_idx(tmp_path, monkeypatch)
    resources = []
    for path in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        packed = served / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, md5(packed)))
    monkeypatch.setattr(tv.MNIST, "mirrors", [address])
    monkeypatch.setattr(tv.MNIST, "resources", resources)
    assert np.array_equal(mnist(data_dir=tmp_path / "new").train.images.numpy(), images)
    assert sorted(path.name for path in (tmp_path / "new").rglob("*") if path.is_file()) == sorted(WRITTEN)
    (tmp_path / "new" / "MNIST" / "raw" / WRITTEN[1]).unlink()
    (served / resources[0][0]).write_bytes(b"not what it was")
    assert len(mnist(data_dir=tmp_path / "new").train) == TRAIN  # only what is missing is downloaded
    (served / resources[3][0]).write_bytes(b"not what it was")
    refused("downloading failed .*MD5", mnist, data_dir=tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    served, address = server
    (served / "train-images-idx3-ubyte.gz").write_bytes(bytes(1000))
    monkeypatch.setattr(tv.MNIST, "mirrors", [address])
    sizes = []

    def interrupted(path, digest):
        if path.exists():
            sizes.append(path.stat().st_size)
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(download, "check_integrity", interrupted)
    (tmp_path / "new").mkdir()
    with pytest.raises(KeyboardInterrupt):
        mnist(data_dir=tmp_path / "new")
    assert sizes == [1000] and list((tmp_path / "new").iterdir()) == []


def test_tiny_imagenet_is_downloaded_whole(server, tmp_path, monkeypatch):
    served, address = server
    train, _ = write_tiny(served, monkeypatch)
    packed = Path(shutil.make_archive(str(served / "tiny-imagenet-200"), "zip", served, "tiny-imagenet-200"))
    monkeypatch.setattr(tiny_imagenet, "ADDRESS", address + packed.name)
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(packed))
    root = tmp_path / "new"
    read = tiny_imagenet.tiny_imagenet(data_dir=root).train.images
    assert sorted(image.numpy().tobytes() for image in read) == sorted(image.tobytes() for image in train[0])
    assert [path.name for path in root.iterdir()] == ["tiny-imagenet-200"]


def test_an_archive_that_lies_there_needs_no_network(tmp_path, monkeypatch):
    (images, _), _ = write_cifar(tmp_path, monkeypatch)
    packed = tmp_path / tv.CIFAR10.filename
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / tv.CIFAR10.base_folder, arcname=tv.CIFAR10.base_folder)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5(packed))
    monkeypatch.setattr(urllib.request, "urlopen", None)
    shutil.rmtree(tmp_path / tv.CIFAR10.base_folder)
    assert np.array_equal(cifar10(data_dir=tmp_path).train.images.numpy(), images)


BROKEN = [
    ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
    ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
    ("fashion_mnist", "FashionMNIST/raw/t10k-images-idx3-ubyte"),
    ("cifar10", "cifar-10-batches-py/data_batch_3"),
    ("cifar10", "cifar-10-batches-py/batches.meta"),
    ("cifar100", "cifar-100-python/test"),
    ("svhn", "test_32x32.mat"),
    ("tiny_imagenet", "tiny-imagenet-200/val/images/val_3.JPEG"),
    ("tiny_imagenet", "tiny-imagenet-200/train/n02/images/n02_9.JPEG"),
    ("image_folder", "train/class 2/021.png"),
    ("npz", "own.npz"),
]


@pytest.mark.parametrize("length", [0, 3, 0.5, -1])
@pytest.mark.parametrize(("name", "file"), BROKEN)
def test_a_broken_file_is_named(name, file, length, tmp_path, monkeypatch):
    WRITERS[name](tmp_path, monkeypatch)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(length * len(whole)) if isinstance(length, float) else length])
    if length == -1 and file.endswith((".JPEG", ".png")):
        return  # the last byte of an image's end marker holds no pixel
    refused(Path(file).name, TARGETS[name], data_dir=tmp_path, **own_keys(name, tmp_path))


def test_files_that_do_not_fit_together_are_refused(tmp_path, monkeypatch):
    write_idx(tmp_path, monkeypatch)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2i", 0x801, 3) + bytes(3))
    refused("40 images but 3 labels", mnist, data_dir=tmp_path)
    labels.write_bytes(struct.pack(">2i", 0x801, TRAIN) + bytes(range(TRAIN)))
    refused("the training set of mnist has labels from 0 to 39, but 10 classes", mnist, data_dir=tmp_path)
    labels.write_bytes(struct.pack(">2i", 0x801, TRAIN) + bytes(TRAIN))
    refused("all training images of mnist have one label", mnist, data_dir=tmp_path)
    for kind in ("images-idx3", "labels-idx1"):
        sizes = (0, 28, 28) if kind == "images-idx3" else (0,)
        header = struct.pack(f">{1 + len(sizes)}i", 0x800 + len(sizes), *sizes)
        (tmp_path / "MNIST" / "raw" / f"t10k-{kind}-ubyte").write_bytes(header)
    refused("t10k.*damaged", mnist, data_dir=tmp_path)


PIXELS = np.zeros((TRAIN, 6, 6, 3), np.uint8)
BAD_ARRAYS = {
    "NaN": {"x_train": np.full(PIXELS.shape, np.nan)},
    "infinite": {"x_test": np.full(PIXELS.shape, np.inf)},
    "floats from 0 to 255": {"x_train": np.linspace(0, 255, PIXELS.size).reshape(PIXELS.shape)},
    "multiples of 1/255": {"x_train": np.full(PIXELS.shape, 0.5)},
    "integers from -1": {"x_train": PIXELS.astype(int) - 1},
    "must hold numbers": {"x_train": PIXELS.astype(bool)},
    "Object arrays": {"x_train": PIXELS.astype(object)},
    "which axis has the channels": {"x_train": np.zeros((TRAIN, 3, 6, 3), np.uint8)},
    "3 or 4 axes": {"x_train": np.zeros((TRAIN, 6), np.uint8)},
    "x_train is empty": {"x_train": PIXELS[:0], "y_train": np.arange(0)},
    "40 images but 3 labels": {"y_train": np.arange(3)},
    "must hold integers": {"y_test": np.linspace(0, 1, TEST)},
    "labels from -1 to 3": {"y_train": np.arange(TRAIN) % 5 - 1},
    "must hold integers, got timedelta": {"y_train": np.zeros(TRAIN, "m8[s]")},
    "has no label 0, but labels reach 4.*`dataset.num_classes=5`": {"y_train": np.arange(TRAIN) % 4 + 1},
    "has no label 3, but": {"y_train": np.arange(TRAIN) % 3},  # the test set has it
    "has no label 1, but labels reach 4611686018427387904": {"y_train": np.arange(TRAIN) % 2 * 2**62},
    "has 1 class, and a classifier needs 2": {"y_train": np.zeros(TRAIN, int), "y_test": np.zeros(TEST, int)},
    "lacks the array y_test": {"y_test": None},
    r"shape \(1, 6, 6\), but the training images \(3, 6, 6\)": {"x_test": np.zeros((TEST, 6, 6), np.uint8)},
}


@pytest.mark.parametrize("match", BAD_ARRAYS)
def test_npz_refuses_what_it_would_have_to_guess_at(match, tmp_path, monkeypatch):
    write_npz(tmp_path, monkeypatch, **BAD_ARRAYS[match])
    refused(match, npz, path=str(tmp_path / "own.npz"))


def test_npz_refuses_bad_keys(tmp_path, monkeypatch):
    write_npz(tmp_path, monkeypatch)
    file = str(tmp_path / "own.npz")
    refused("`dataset.path`", npz)
    refused("not a file", npz, path=str(tmp_path / "absent.npz"))
    refused("`dataset.layout`", npz, path=file, layout="CHW")
    refused("`dataset.path`", npz, path=3)
    refused("`dataset.num_classes`", npz, path=file, num_classes=1)
    refused("`dataset.num_classes`", npz, path=file, num_classes="4")
    refused("has 100000 classes, and", npz, path=file, num_classes=100_000)
    refused("labels from 0 to 3, but 2 classes", npz, path=file, num_classes=2)
    assert npz(path=file, num_classes=7).num_classes == 7  # whoever says so may have classes without images


def test_image_folder_refuses_what_is_not_one(tmp_path, monkeypatch):
    call = functools.partial(refused, call=image_folder)
    call("`dataset.path=`", path=str(tmp_path / "absent"))
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    call("no class folders", path=str(tmp_path))
    write_folder(tmp_path, monkeypatch)
    call("`dataset.mode`", path=str(tmp_path), mode="CMYK")
    call("`dataset.image_size`", path=str(tmp_path), image_size=0)
    odd = tmp_path / "train" / "class 1" / "odd.png"
    Image.new("RGB", (12, 13)).save(odd)
    call("odd.png is 13 x 12.*`dataset.image_size`", path=str(tmp_path))
    lazy = image_folder(path=str(tmp_path), memory_limit_mb=0).train
    refused("odd.png is 13 x 12", list, batches(lazy, 16, device="cpu", workers=1))
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(odd)
    call("odd.png has more than 8 bits", path=str(tmp_path))
    Image.new("L", (12, 12)).save(tmp_path / "train" / "class 0" / "000.png")
    odd.unlink()
    call("is in colour", path=str(tmp_path))
    (tmp_path / "test" / "class 9").mkdir()
    call("class 'class 9' that the training folder lacks", path=str(tmp_path))
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test" / "class 1").mkdir(parents=True)
    call("test set of image_folder is empty", path=str(tmp_path))


def test_an_image_folder_needs_training_images_of_two_classes_and_of_each(tmp_path, monkeypatch):
    write_folder(tmp_path, monkeypatch)
    (tmp_path / "train" / "class 4").mkdir()
    refused("the class 'class 4' of image_folder has no training images", image_folder, path=str(tmp_path))
    for number in range(1, 5):
        shutil.rmtree(tmp_path / "train" / f"class {number}")
        shutil.rmtree(tmp_path / "test" / f"class {number}", ignore_errors=True)
    refused("image_folder has 1 class, and a classifier needs 2", image_folder, path=str(tmp_path))


def test_tiny_imagenet_refuses_unknown_classes(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    annotations = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    for text in ("val_0.JPEG\tn99\t0\t0\t9\t9\n", "val_0.JPEG\n", "../../x.JPEG\tn01\n"):
        annotations.write_text(text)
        refused(
            "val_annotations.txt, line 1: '.*' is no file name and a class",
            tiny_imagenet.tiny_imagenet,
            data_dir=tmp_path,
        )
    annotations.write_text("")
    refused("test set of tiny_imagenet is empty", tiny_imagenet.tiny_imagenet, data_dir=tmp_path)
