"""What is looked at while a network is trained: true numbers, and a training that does not notice."""

import csv
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from commandline import lipcert, refused
from configurations import composed

import lipcert as package
from lipcert.configuration import build
from lipcert.runs.numbers import WORDS
from lipcert.training import monitor as looks
from lipcert.training.monitor import Monitor, check_monitor, usual

RUN = ("train", "model.depth=2", "model.width=8", "dataset.subset=100", "schedule.epochs=3", "schedule.batch_size=50",
       "attack=none", "trainer=cpu")  # fmt: skip
ATTACK = ("attack@monitor.attack=pgd_l2", "monitor.attack.steps=2", "monitor.attack.seed=null")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("monitor")


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def data():
    return build(composed("dataset.subset=100")["dataset"])


def watching(data, *overrides: str, every: int = 1) -> tuple[Monitor, torch.nn.Module]:
    config = composed(*overrides)
    model = build(config["model"], input_shape=data.input_shape, num_classes=data.num_classes)
    monitor = {**config["monitor"], "every": every, "images": 20}
    return Monitor({**config, "monitor": monitor}, data, 2, "cpu"), model


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_does_not_notice_that_it_is_watched(capsys):
    for run, more in (("watched", ("monitor.every=2", *ATTACK)), ("alone", ("monitor.every=0",))):
        assert lipcert(capsys, *RUN, *more, f"output_dir={run}").status == 0
    for name in ("network/network.safetensors", "certificates.csv"):
        assert Path("watched", name).read_bytes() == Path("alone", name).read_bytes()
    watched, alone = rows("watched"), rows("alone")
    found = [name for name in watched[0] if name not in alone[0]]
    for one, other in zip(watched, alone, strict=True):
        assert {key: one[key] for key in other if key != "seconds"} == {k: other[k] for k in other if k != "seconds"}
    certified = [f"val/certified_accuracy/{eps}" for eps in (0.1, 0.3, 0.5, 1.0)]
    robust = [f"val/robust_accuracy_estimate/pgd_l2-2/{eps}" for eps in (0.1, 0.3, 0.5, 1.0)]
    assert found == certified + robust
    assert [bool(row[certified[0]]) for row in watched] == [False, True, True]  # every second epoch, and the last
    for row in watched[1:]:
        assert all(float(row[a]) <= float(row[b]) for a, b in zip(certified, robust, strict=True))


def test_a_look_changes_neither_the_model_nor_the_random_stream(data):
    watch, model = watching(data, "model.depth=1", "model.width=8", *ATTACK)
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    stream = torch.get_rng_state()
    assert "val/robust_accuracy_estimate/pgd_l2-2/0.3" in watch(model, 1)
    assert torch.equal(torch.get_rng_state(), stream) and model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("eps", [[0.3], None])
def test_what_an_attack_leaves_is_counted(data, eps):
    """An attack that fails leaves all rightly classified images; one whose images are far away breaks them there."""
    watch, model = watching(data, "model.depth=1", "model.width=8")
    watch.eps = [0.3]
    pixels, labels = watch.held
    right = model.eval()(pixels / 255).argmax(1) == labels
    images = (pixels[labels != 0][0], pixels[labels == 0][0])  # of other classes

    def attack(answer, x, y, eps, far):
        return torch.stack([images[int(label != 0)] / 255 for label in y]).to(x) if far else x

    for far in (False, True):
        watch.attack = partial(attack, far=far)
        vars(watch.attack).update(label="mine_l2", norm="l2", eps=eps, batch_size=7, images=None)
        found = watch(model, 1)["val/robust_accuracy_estimate/mine_l2/0.3"]
        assert found == int(right.sum()) / len(right) > 0  # a far image is projected into the ball, or does not count
    watch.eps = [100.0]
    if eps is None:
        assert watch(model, 1)["val/robust_accuracy_estimate/mine_l2/100.0"] < found


def test_the_last_look_says_what_certifying_says(data, capsys):
    net = package.load("watched")
    images = data.val.pixels().double() / 255
    verdict = net.certify(images, data.val.labels)
    last = rows("watched")[-1]
    for eps in (0.1, 0.3, 0.5, 1.0):
        right = (verdict.prediction == data.val.labels) & (verdict.radius >= eps)
        assert float(last[f"val/certified_accuracy/{eps}"]) == int(right.sum()) / len(right)


def test_a_net_that_is_certified_only_at_the_end_of_its_schedule_is_looked_at_there(data, capsys):
    watch, model = watching(data, "model=linf_dist", "model.width=8")
    build(composed("model=linf_dist", "model.width=8")["schedule"]).apply(1.0, model=model)
    p = [layer.p for layer in model.modules() if hasattr(layer, "p")]
    assert watch(model, 1).keys() == {"val/certified_accuracy/0.05", "val/certified_accuracy/0.1"}
    assert math.isfinite(p[0]) and [layer.p for layer in model.modules() if hasattr(layer, "p")] == p
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_module_is_captured_again_only_where_it_computes_something_else(data, monkeypatch):
    captures = []
    monkeypatch.setattr(looks, "capture", lambda *args, capture=looks.capture: captures.append(1) or capture(*args))
    soft = ("model.depth=2", "model.width=8", "loss=l2nnn", "optimizer=adam", "schedule=soft_to_strict")
    watch, model = watching(data, *soft)
    epochs, numbers = watch.schedule.epochs, []
    for epoch in (1, 2, epochs, epochs):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        numbers.append(watch(model, epoch))
    assert len(captures) == 2  # soft, and strict
    monkeypatch.undo()
    for number, (epoch, scale) in enumerate([(epochs, 1.5**4), (2, 1.5**2)]):
        fresh, again = watching(data, *soft)
        again.load_state_dict({key: value / 1.5**4 * scale for key, value in model.state_dict().items()})
        assert fresh(again, epoch) == pytest.approx(numbers[[3, 1][number]])


def test_a_look_that_fails_is_left_out_and_said_once(data, capsys):
    watch, model = watching(data, "model=linf_dist", "model.width=8", "certificate=nominal")
    assert watch(model, 1) == {} and watch(model, 2) == {}
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("lipcert: `monitor`: no look after epoch 1: ") and "l2" in err


@pytest.mark.parametrize(("kind", "keys"), [("statistical", ["certificate.starts=1"]), ("nominal", [])])
def test_other_claims_have_their_own_word(data, kind, keys):
    watch, model = watching(data, "model.depth=1", "model.width=8", f"certificate={kind}", *keys)
    assert {name.split("/")[1] for name in watch(model, 1)} == {f"{WORDS[kind]}_accuracy"}


def test_when_a_look_is_due(data):
    assert [usual(epochs, steps) for epochs, steps in ((100, 10), (3, 500), (7, 1000), (20, 10), (9, 10), (1, 5))] == [
        20, 1, 2, 10, 0, 0,
    ]  # fmt: skip
    watch, model = watching(data, "model.depth=1", "model.width=8", every=0)
    assert watch(model, 1) == {} and watch(model, 100) == {}


def test_what_is_refused(capsys):
    for every, images, line in (
        (-1, 1, "`monitor.every` must be a number of epochs, 0 for"),
        (1, 0, "`monitor.images`"),
    ):
        with pytest.raises(ValueError, match=line):
            check_monitor(every=every, images=images, attack=None)
    node = ("attack@monitor.attack=pgd_l2", "monitor.attack.steps=0", "output_dir=run")
    assert refused(capsys, "train", *node).startswith("`attack.steps`: got 0")
