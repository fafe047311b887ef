"""What is proved, attacked and recorded holds nothing of the module that was trained, and none of its parameters."""

import gc
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import TINY, lipcert
from torch import nn

from lipcert.analyses import stability
from lipcert.api import CertifiedClassifier
from lipcert.attacks.boundary import BoundaryL2
from lipcert.attacks.carlini_wagner import CarliniWagnerL2
from lipcert.attacks.deep_fool import DeepFoolL2
from lipcert.attacks.fast_gradient import FastGradient
from lipcert.attacks.judge import judge
from lipcert.attacks.projected_gradient import ProjectedGradient
from lipcert.certificates.interval import Interval
from lipcert.certificates.nominal import Nominal
from lipcert.certificates.pairwise import Pairwise
from lipcert.certificates.statistical import Statistical
from lipcert.commands import attack, certify, train
from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.training import Captured, Estimate

SHAPE = (1, 4, 4)
CERTIFICATES = {
    "pairwise": Pairwise(),
    "margin": Pairwise(["vector", "logits"]),
    "interval": Interval(),
    "nominal": Nominal(),
    "statistical": Statistical(starts=4, iterations=20),
}
ATTACKS = [
    ProjectedGradient(norm=Norm.L2, eps=[1.0], steps=2),
    FastGradient(norm=Norm.L2, eps=[1.0]),
    CarliniWagnerL2(steps=2, binary_search_steps=1),
    DeepFoolL2(steps=2),
    BoundaryL2(steps=2),
]
ALIVE: weakref.WeakSet = weakref.WeakSet()


class Mine(nn.Module):
    """Of the user's own; it notes each of its kind, and leaves hooks on its layers."""

    norm = "l2"

    def __init__(self, *, input_shape=SHAPE, num_classes=3):
        super().__init__()
        ALIVE.add(self)
        channels, *size = input_shape
        self.calls, self.first = [], nn.Conv2d(channels, 3, 3, padding=1)
        self.last = nn.Linear(3 * size[0] * size[1], num_classes)
        self.normalised = nn.BatchNorm2d(3)
        self.first.register_forward_hook(lambda module, inputs, output: self.calls.append(1))

    def forward(self, x):
        return self.last(torch.relu(self.normalised(self.first(x))).flatten(1))


def reachable(start: Any) -> Iterator[Any]:
    """Everything that can be come to from an object, but for what code itself names: modules, classes, globals."""
    seen: dict[int, Any] = {}
    todo = [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType | type):
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, types.FunctionType):
            todo += [thing.__closure__, thing.__defaults__, thing.__kwdefaults__]
        else:
            todo += gc.get_referents(thing)


def modules(start: Any) -> list[nn.Module]:
    return [thing for thing in reachable(start) if isinstance(thing, nn.Module | nn.Parameter)]


def test_the_search_finds_modules():
    """The control: in a closure, in a method's object, and in a hook."""
    model = Mine()
    assert model in modules(lambda x: model(x)) and model in modules([model.forward])
    assert len([m for m in modules(model) if isinstance(m, nn.Module)]) == 4
    assert model in modules(model.first)


@pytest.mark.parametrize(
    "name", [n if n == "pairwise" else pytest.param(n, marks=pytest.mark.slow) for n in CERTIFICATES]
)
def test_of_a_certificate_and_what_attacks_it(name):
    model = Mine()
    network = freeze(model, SHAPE, "linf" if name == "interval" else "l2")
    bound, classifier = CERTIFICATES[name](network), CertifiedClassifier(network)
    x = torch.rand(6, *SHAPE, dtype=torch.float64)
    logits = model.double().eval()(x).detach()
    y = logits.argmax(1)
    coarse = network.to(dtype=torch.float32)
    broken = [lambda a=a: a(coarse, x.float(), y, None) for a in ATTACKS]
    own = [*model.parameters(), *model.buffers()]
    constants = {c.data_ptr() for operation in network.operations for c in operation.constants().values()}
    assert constants and not constants & {t.data_ptr() for t in own}
    alive = [weakref.ref(thing) for thing in (*model.modules(), *own)]
    model.last.weight.data.zero_()  # what becomes of the module concerns it alone
    del model, own
    gc.collect()
    assert not any(ref() is not None for ref in alive)

    assert modules([bound, classifier, broken, network, coarse]) == []
    torch.testing.assert_close(classifier(x), logits)
    if bound.observe:
        bound.observe(x, y)
    assert torch.equal(bound.judge(x, y).prediction, y)
    assert (classifier.certify(x, y).radius > 0).any()
    for attacked in broken:
        with torch.enable_grad():
            judge(network, x, y, attacked().double(), network.norm)
    assert modules([bound, classifier, broken, network, coarse]) == []


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_takes_a_frozen_network_and_nothing_else(name):
    model = Mine()
    live = Captured(model, SHAPE)(model)
    estimate = Estimate(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), SHAPE)
    classifier = CertifiedClassifier(freeze(model, SHAPE))
    for given in (model, live, estimate, classifier, model.forward, None):
        with pytest.raises(TypeError) as told:
            CERTIFICATES[name](given)
        assert str(told.value) == f"a frozen network is due (`lipcert.freeze` makes one), got {type(given).__name__}"


@pytest.mark.slow
def test_of_a_run_that_is_certified_attacked_analysed_and_recorded(tmp_path, monkeypatch, capsys):
    """While any of these is at work, no model is alive."""
    monkeypatch.chdir(tmp_path)
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/mine.yaml").write_text("_target_: test_reachable.Mine\n")
    worked = []

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            gc.collect()
            worked.append((name, len(ALIVE)))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    at_work = {
        train: ("certify", "attack_run", "write_record"),
        certify: ("certify", "write_record"),
        attack: ("attack_run", "write_record"),
        stability: ("analyse",),
    }
    for owner, names in at_work.items():
        for name in names:
            watched(owner, name)
    arguments = ("--config-dir", "conf", "model=mine", *TINY[1:], "attack=deepfool_l2", "attack.images=10")
    told = lipcert(capsys, "train", *arguments, "output_dir=run")
    assert told.status == 0, told.err
    assert lipcert(capsys, "certify", "run=run", "analysis=stability").status == 0
    assert lipcert(capsys, "attack", "run=run", "attack=fgsm", "attack.images=10").status == 0
    assert len(worked) == 8 and {name for name, _ in worked} == {name for names in at_work.values() for name in names}
    assert [(name, alive) for name, alive in worked if alive] == []
