"""The Python API: examples run, what comes back is of the library that was given, and the commands agree with it."""

import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import certified
from commandline import lipcert as command
from torch import nn

import lipcert
from lipcert import api
from lipcert.contracts import Kind, Norm
from lipcert.datasets import batches
from lipcert.evaluation.load import load_run
from lipcert.frozen.exact import exact

SHAPE = (1, 8, 8)
RUN = ("dataset.subset=200", "schedule.epochs=2", "attack=none", "trainer=cpu")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "run"
    found = lipcert.train(*RUN, f"output_dir={folder}")
    assert found.directory == folder and found.summary["finished"]
    return folder


@pytest.fixture(scope="module")
def net() -> api.CertifiedClassifier:
    torch.manual_seed(0)
    return lipcert.freeze(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)), SHAPE)


def images(count: int = 5) -> np.ndarray:
    found = np.random.default_rng(0).random((count, *SHAPE))
    found.flags.writeable = False  # as arrays of Pillow are, of which torch warns
    return found


PARTS = [api.__dict__[name] for name in lipcert.__all__]
METHODS = [
    member
    for part in (api.CertifiedClassifier, api.Run)
    for name, member in vars(part).items()
    if inspect.isfunction(member) and not name.startswith("_")
]


@pytest.mark.parametrize("test", doctest.DocTestFinder().find(api), ids=lambda test: test.name)
def test_its_examples_are_true(test, capsys):
    failed, _ = doctest.DocTestRunner().run(test)
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("part", [*PARTS, *METHODS], ids=lambda part: part.__qualname__)
def test_everything_public_has_an_example(part):
    assert ">>> " in (part.__doc__ or "")


def test_what_is_imported_is_all_there_is():
    assert {name for name in dir(lipcert) if name in vars(api)} >= set(lipcert.__all__)
    with pytest.raises(AttributeError, match="`lipcert` has no attribute `certifi`"):
        _ = lipcert.certifi


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_what_comes_back_is_of_the_library_that_was_given(net, dtype):
    x = (images() * 255).astype("uint8") if dtype == "uint8" else images().astype(dtype)
    y = net(x).argmax(1)
    assert (
        isinstance(net(x), np.ndarray) and net(x).dtype == "float64" and isinstance(net(torch.tensor(x)), torch.Tensor)
    )
    for labels in (None, y, y.tolist(), y.astype("int32"), y.astype("uint8")):
        ours, torchs = net.certify(x, labels), net.certify(torch.tensor(x), labels)
        for column, of_torch in zip(ours[:3], torchs[:3], strict=True):
            assert isinstance(column, np.ndarray) and column.shape == (5,) and isinstance(of_torch, torch.Tensor)
            assert np.array_equal(column, of_torch.numpy())
        assert (ours.kind, ours.norm) == (Kind.PROOF, Norm.L2) and (ours.prediction == y).all()
    found, of_torch = (net.attack(given, y, "pgd_l2", eps=1.0, steps=3) for given in (x, torch.tensor(x)))
    for column, other in zip(found[:3], of_torch[:3], strict=True):
        assert isinstance(column, np.ndarray) and isinstance(other, torch.Tensor)
    assert found.images.shape == x.shape and found.images.dtype == "float64"
    assert found.success.dtype == bool and found.distance.shape == (5,)


def test_bytes_are_their_255ths(net):
    x = (images() * 255).astype("uint8")
    assert np.array_equal(net(x), net(x / 255))
    assert np.array_equal(net.certify(x).radius, net.certify(x / 255).radius)


def test_the_label_decides_on_the_radius(net):
    x = images()
    y = net(x).argmax(1)
    own, other = net.certify(x), net.certify(x, (y + 1) % 4)
    assert (own.margin > 0).all() and (own.radius > 0).all() and np.array_equal(own.radius, net.certify(x, y).radius)
    assert (other.margin < 0).all() and (other.radius == 0).all() and (other.prediction == y).all()
    assert all(np.array_equal(a, b) for a, b in zip(lipcert.certify(net, x)[:3], own[:3], strict=True))


def test_no_images_and_many(net, monkeypatch):
    assert net(images(0)).shape == (0, 4) and net.certify(images(0)).radius.shape == (0,)
    whole = net.certify(images(7))
    monkeypatch.setattr(api, "BATCH", 3)
    np.testing.assert_allclose(net.certify(images(7)).radius, whole.radius, rtol=1e-12)


GOOD = images()
WRONG = {
    "shape": (lambda net: net(GOOD[0]), "`images` must be of shape (B, 1, 8, 8), got (1, 8, 8)"),
    "side": (lambda net: net.certify(GOOD[:, :, 1:]), "`images` must be of shape (B, 1, 8, 8), got (5, 1, 7, 8)"),
    "range": (lambda net: net.certify(GOOD * 255), "`images` must lie in [0, 1], got "),
    "below": (lambda net: net(GOOD - 1), "`images` must lie in [0, 1], got -"),
    "nan": (lambda net: net(np.where(GOOD > 0.9, np.nan, GOOD)), "`images` must lie in [0, 1], got nan"),
    "ints": (lambda net: net(GOOD.astype(int)), "`images` must be floats in [0, 1] or bytes, got torch.int64"),
    "float labels": (lambda net: net.certify(GOOD, np.zeros(5)), "`labels` must be 5 whole numbers, one an image, got"),
    "truths": (lambda net: net.certify(GOOD, np.zeros(5, bool)), "`labels` must be 5 whole numbers, one an image, got"),
    "few labels": (
        lambda net: net.certify(GOOD, [0]),
        "`labels` must be 5 whole numbers, one an image, got torch.int64",
    ),
    "label": (lambda net: net.certify(GOOD, [0, 1, 2, 3, 4]), "`labels` must be from 0 to 3, got 0 to 4"),
    "attack": (
        lambda net: net.attack(GOOD, [0] * 5, "pdg_l2", eps=1),
        "`pdg_l2`: there is no such attack; did",
    ),
    "none": (lambda net: net.attack(GOOD, [0] * 5, "none"), "`none`: there is no such attack"),
    "path": (lambda net: net.attack(GOOD, [0] * 5, "../attack/fgsm", eps=1), "there is no such attack"),
    "eps": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2"), "`eps`: pgd_l2 needs a radius: give eps"),
    "no eps": (
        lambda net: net.attack(GOOD, [0] * 5, "deepfool_l2", eps=1.0),
        "`eps`: deepfool_l2 looks for",
    ),
    "radii": (
        lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps=[1, 2]),
        "`eps` must be a number, or 5, one an image",
    ),
    "negative": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps=-1), "`eps` must be at least 0, got -1.0"),
    "nan eps": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps=np.nan), "`eps` must be at least 0, got nan"),
    "word": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps="a"), "`eps` must be a number, or 5, one an image"),
    "setting": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps=1, step=3), "`attack.step` is not a key of "),
    "type": (lambda net: net.attack(GOOD, [0] * 5, "pgd_l2", eps=1, steps="x"), "`attack.steps` must be int, got 'x'"),
    "norm": (lambda net: lipcert.freeze(nn.Flatten(), (4,), "l3"), "`norm` must be one of l2, linf, l1, got 'l3'"),
    "bound": (lambda net: lipcert.lipschitz_bound(nn.Flatten(), (4,), "l3"), "`norm` must be one of l2, linf, l1, got"),
    "layer": (lambda net: lipcert.freeze(nn.LayerNorm(4), (4,)), "layer normalisation divides by"),
    "no module": (lambda net: lipcert.freeze(torch.relu, (4,)), "`freeze` takes a torch.nn.Module, not "),
    "folder": (lambda net: lipcert.load("nowhere"), "nowhere"),
    "override": (lambda net: lipcert.train("sed=1"), "`sed` is not a key of `lipcert train`; did you mean `seed`?"),
    "value": (lambda net: lipcert.train("seed=a"), "`seed` must be int, got 'a'"),
    "option": (lambda net: lipcert.train("model=l2nn"), "`model=l2nn`: there is no such option; did you mean `l2nnn`?"),
    "sweep": (lambda net: lipcert.train("-m", "seed=1,2"), "-m"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_in_one_line(what, net):
    call, says = WRONG[what]
    with pytest.raises(ValueError) as told:
        call(net)
    assert says in str(told.value) and "\n" not in str(told.value), told.value
    assert not list(Path().iterdir())


def test_a_run_a_saved_folder_and_what_is_loaded_are_one(run):
    net = lipcert.load(run)
    net.save("folder")
    again = lipcert.load("folder")
    x = images(20)
    assert np.array_equal(net(x), again(x)) and net.norm is again.norm
    assert np.array_equal(net.certify(x).radius, again.certify(x).radius)
    assert (net.shape, net.classes) == (again.shape, again.classes) == (SHAPE, 10)


def test_radii_are_those_of_the_runs_certificates(run):
    """To the bit: it is the same network, the same certificate and the same images."""
    test = load_run(run).dataset.test
    x, y = next(iter(batches(test, len(test), device="cpu")))
    verdict, rows = lipcert.load(run).certify(exact(x), y), certified(run)
    assert verdict.prediction.tolist() == [row.prediction for row in rows]
    assert verdict.margin.tolist() == [row.margin for row in rows]
    assert verdict.radius.tolist() == [row.radius for row in rows]
    assert (verdict.radius > 0).any()


@pytest.mark.parametrize(("name", "settings"), [("pgd_l2", {"steps": 20}), ("fgsm", {"norm": "l2"})])
def test_no_attack_within_a_radius_succeeds_and_one_far_outside_does(net, name, settings):
    x = images(40)
    verdict = net.certify(x)
    within = net.attack(x, verdict.prediction, name, eps=verdict.radius, **settings)
    assert not within.success.any() and np.isinf(within.distance).all()
    assert within.norm is Norm.L2 and ((within.images >= 0) & (within.images <= 1)).all()
    smallest = net.attack(x, verdict.prediction, "deepfool_l2")
    assert smallest.success.any() and (smallest.distance > verdict.radius).all()
    assert (net(smallest.images).argmax(1) != verdict.prediction)[smallest.success].all()
    wrong = net.attack(x, (verdict.prediction + 1) % 4, name, eps=0.1, **settings)
    assert wrong.success.all() and (wrong.distance == 0).all() and np.array_equal(wrong.images, x)


def test_in_linf_it_certifies_by_intervals(net):
    there = lipcert.freeze(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), SHAPE, norm="linf")
    x = images(20)
    verdict = there.certify(x)
    assert verdict.norm is Norm.LINF and (verdict.radius > 0).any()
    within = there.attack(x, verdict.prediction, "pgd_linf", eps=verdict.radius, steps=10)
    assert not within.success.any()


def check(bound: api.LipschitzBound, classes: int) -> None:
    pairs = bound.pairs
    assert bound.logits.shape == (classes,) and pairs.shape == (classes, classes) and np.array_equal(pairs, pairs.T)
    assert np.isfinite(bound.vector) and (bound.logits > 0).all() and (bound.logits <= bound.vector * (1 + 1e-9)).all()
    assert (np.diag(pairs) == 0).all() and (pairs + np.eye(classes) > 0).all()
    assert (pairs <= 2**0.5 * bound.vector * (1 + 1e-9)).all()
    assert (pairs <= (bound.logits[:, None] + bound.logits) * (1 + 1e-9)).all()
    assert all({"layer", "norm", "lipschitz", "cost"} <= row.keys() for row in bound.layers)


def steepest(module: nn.Module, shape: tuple[int, ...]) -> float:
    """From below: how far the outputs really move, at its steepest, near a few images."""
    module = module.double().eval()
    x = torch.rand(4, *shape, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(module, image[None]) for image in x]
    return max(float(torch.linalg.matrix_norm(j.flatten(0, 1).flatten(1), 2)) for j in jacobians)


@pytest.mark.slow
def test_the_bound_of_torchvisions_network():
    from torchvision.models import resnet18

    model = resnet18(weights=None)
    model.fc = nn.Linear(512, 10)
    bound = lipcert.lipschitz_bound(model, (3, 32, 32))
    check(bound, 10)
    assert len(bound.layers) == 21 and steepest(model, (3, 32, 32)) <= bound.vector


def test_the_bound_of_the_default_network_before_it_is_trained():
    from configurations import built, composed

    model = built(composed())[0]
    bound = lipcert.lipschitz_bound(model, SHAPE)
    check(bound, 10)
    assert steepest(model, SHAPE) <= bound.vector
    again = lipcert.lipschitz_bound(lipcert.freeze(model, SHAPE))
    assert again.vector == bound.vector and np.array_equal(again.pairs, bound.pairs)


def test_train_is_the_command(run, capsys):
    assert command(capsys, "train", *RUN, "output_dir=theirs").status == 0
    assert (run / "certificates.csv").read_bytes() == Path("theirs/certificates.csv").read_bytes()
    resumed = lipcert.train(f"resume={run}")
    assert resumed.directory == run and resumed.load().classes == 10 and 0 < resumed.summary["clean_accuracy"] <= 1
    with pytest.raises(ValueError, match=f"`output_dir`: {run} already exists"):
        lipcert.train(*RUN, f"output_dir={run}")
