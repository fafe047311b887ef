"""The Python API: load, freeze, certify, attack, lipschitz_bound and train, as `lipcert.load` and so on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import lipcert.conf
from lipcert.arrays import (
    AttackResult,
    Certification,
    LipschitzBound,
    classes,
    known_norm,
    like,
    pixels,
    radii_of,
)
from lipcert.attacks.judge import judge
from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise
from lipcert.cli.choices import options
from lipcert.cli.compose import settings_of
from lipcert.cli.meant import among
from lipcert.commands import train as command
from lipcert.configuration import build, check
from lipcert.contracts import BoundCertificate, Certificate, Norm
from lipcert.evaluation.load import read_network
from lipcert.frozen import Network, file
from lipcert.frozen import freeze as freeze_module
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import BOUNDS, pair_bounds
from lipcert.frozen.report import layer_rows
from lipcert.runs.directory import RunDirectory, is_run
from lipcert.runs.layout import SUMMARY

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BATCH = 500  # images that are certified or attacked at once


class CertifiedClassifier:
    """A frozen network, and the certificate that proves a radius for each image.

    `lipcert.freeze` and `lipcert.load` return one. Images are numpy arrays or torch tensors of shape (B, C, H, W),
    floats in [0, 1] or bytes of 0 to 255; what comes back is of the same library.

    >>> import lipcert, numpy, torch
    >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
    >>> net(numpy.random.rand(5, 1, 8, 8)).shape
    (5, 10)
    """

    def __init__(self, network: Network):
        self.network = network
        self._certificate: BoundCertificate | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""
        return self.network.shape

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.network.classes

    @property
    def norm(self) -> Norm:
        """The norm of its radii: l2, linf or l1."""
        return self.network.norm

    def __call__(self, images: ArrayLike | Tensor) -> Any:
        """The logits of a batch of images, (B, K) in float64."""
        with exact_arithmetic():
            x = pixels(images, self.shape)
            return like(images, torch.cat([self.network(part) for part in x.split(BATCH)]))

    def certify(self, images: ArrayLike | Tensor, labels: ArrayLike | Tensor | None = None) -> Certification:
        """Proves a radius for each image.

        labels  (B,) whole numbers from 0; None: the classes that the network gives the images

        Returns a `Certification`. Raises ValueError where images or labels do not fit the network.

        >>> import lipcert, numpy, torch
        >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
        >>> verdict = net.certify(numpy.random.rand(5, 1, 8, 8))
        >>> bool((verdict.radius >= 0).all()), str(verdict.kind), str(verdict.norm)
        (True, 'proof', 'l2')
        """
        with exact_arithmetic():
            x = pixels(images, self.shape)
            y = self.network(x).argmax(1) if labels is None else classes(labels, len(x), self.classes)
            if self._certificate is None:
                strongest: Certificate = Interval() if self.norm is Norm.LINF else Pairwise()
                self._certificate = strongest(self.network)
            parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
            found = [self._certificate.judge(images_, labels_) for images_, labels_ in parts]
        rows = [(v.prediction, v.margin, v.radius, v.radius_float32) for v in found]
        prediction, margin, radius, single = (like(images, torch.cat(column)) for column in zip(*rows, strict=True))
        return Certification(prediction, margin, radius, self._certificate.kind, self.norm, single)

    def attack(
        self, images: ArrayLike | Tensor, labels: ArrayLike | Tensor, name: str, **settings: Any
    ) -> AttackResult:
        """Looks for images near the given ones that the network misclassifies: `lipcert.attack` as a method.

        >>> import lipcert, numpy, torch
        >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
        >>> images = numpy.random.rand(5, 1, 8, 8)
        >>> verdict = net.certify(images)
        >>> bool(net.attack(images, verdict.prediction, "pgd_l2", eps=verdict.radius).success.any())
        False
        """
        return attack(self, images, labels, name, **settings)

    def save(self, folder: str | Path) -> None:
        """Writes the network to a folder, as safetensors and JSON; `lipcert.load` reads it, and no code is in it.

        >>> import lipcert, tempfile, torch
        >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net.save(folder)
        ...     lipcert.load(folder).shape
        (1, 8, 8)
        """
        file.save(self.network, Path(folder))


def freeze(module: nn.Module, shape: tuple[int, ...], norm: str = "l2") -> CertifiedClassifier:
    """Writes down what a module computes in evaluation mode, as a list of known operations that can be certified.

    module  from images (B, C, H, W) to logits (B, K); it stays as it is, and is not needed any more
    shape   of one image: (C, H, W)
    norm    in which radii are proved: l2, linf or l1

    Raises ValueError, naming the layer and what to use instead, where an operation is not known (docs/operations.md).

    >>> import lipcert, torch
    >>> lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8)).classes
    10
    """
    return CertifiedClassifier(freeze_module(module, tuple(shape), known_norm(norm)))


def load(path: str | Path) -> CertifiedClassifier:
    """Reads the classifier of a run's directory, or of a folder that `save` wrote. Nothing in them is executed.

    Raises ValueError, in one line, where there is no network, or it is damaged.

    >>> import lipcert
    >>> run = lipcert.train("model=nearest_neighbour", "attack=none")  # doctest: +ELLIPSIS
    run: outputs/train/...
    >>> lipcert.load(run.directory).shape
    (1, 8, 8)
    """
    folder = Path(path)
    return CertifiedClassifier(read_network(RunDirectory(folder)) if is_run(folder) else file.load(folder))


def certify(
    net: CertifiedClassifier, images: ArrayLike | Tensor, labels: ArrayLike | Tensor | None = None
) -> Certification:
    """Proves a radius for each image: `net.certify(images, labels)` as a function.

    >>> import lipcert, numpy, torch
    >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
    >>> lipcert.certify(net, numpy.zeros((2, 1, 8, 8))).radius.shape
    (2,)
    """
    return net.certify(images, labels)


def attack(
    net: CertifiedClassifier,
    images: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    name: str,
    *,
    eps: float | ArrayLike | None = None,
    **settings: Any,
) -> AttackResult:
    """Looks for images near the given ones that a network misclassifies.

    images    (B, C, H, W), with labels (B,)
    name      of a file of conf/attack: pgd_l2, pgd_linf, carlini_wagner_l2, deepfool_l2, …
    eps       the radius, one for all or (B,), for attacks that need one; the others look for the smallest distance
    settings  in place of those in that file: `steps=1000`

    Returns an `AttackResult`. The attack runs in float32, what it finds is judged in float64. Raises ValueError for an
    attack or a setting that does not exist, an eps that is missing or not needed, and images or labels that do not fit.

    >>> import lipcert, numpy, torch
    >>> net = lipcert.freeze(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8))
    >>> images = numpy.random.rand(5, 1, 8, 8)
    >>> bool(lipcert.attack(net, images, net(images).argmax(1), "pgd_l2", eps=8.0).success.all())
    True
    """
    attacker = attack_of(name, eps is not None, settings)
    x = pixels(images, net.shape)
    y = classes(labels, len(x), net.classes)
    radii = None if eps is None else radii_of(eps, len(x), math.prod(net.shape))
    coarse, found = net.network.to(dtype=torch.float32), []
    with exact_arithmetic():
        for at in range(0, len(x), attacker.batch_size):
            part = slice(at, at + attacker.batch_size)
            eps_ = None if radii is None else radii[part]
            with torch.enable_grad():
                candidate = attacker(coarse, x[part].float(), y[part], eps_)
            found.append(judge(net.network, x[part], y[part], candidate.double(), attacker.norm, eps_))
    adversarial, success, distance, _ = (like(images, torch.cat(column)) for column in zip(*found, strict=True))
    return AttackResult(adversarial, success, distance, attacker.norm)


def attack_of(name: str, with_eps: bool, settings: Mapping[str, Any]) -> Any:
    """The attack of conf/attack/NAME.yaml with these settings."""
    names = [option for option in options("attack") if option != "none"]
    if name not in names:
        raise ValueError(f"`{name}`: there is no such attack{among(name, names)}")
    node = OmegaConf.load(Path(lipcert.conf.__path__[0]) / "attack" / f"{name}.yaml")
    whole: Any = OmegaConf.to_container(OmegaConf.create({"attack": node, "eps": None, "seed": 0}), resolve=True)
    node = whole["attack"]
    if with_eps != ("eps" in node):
        what = "looks for the smallest distance and takes no eps" if with_eps else "needs a radius: give eps"
        raise ValueError(f"`eps`: {name} {what}")
    node |= settings
    check(node, "attack")
    return build(node)


def lipschitz_bound(
    module: nn.Module | CertifiedClassifier, shape: tuple[int, ...] = (), norm: str = "l2"
) -> LipschitzBound:
    """Bounds how far the outputs of a module move while its input moves by 1.

    module  any module of known operations, in evaluation mode; or a `CertifiedClassifier`, which knows the other two
    shape   of one input, without the batch
    norm    of both distances: l2, linf or l1

    Returns a `LipschitzBound`. Raises ValueError, naming it, where a layer is not known (docs/operations.md).

    >>> import lipcert, torch
    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> bound = lipcert.lipschitz_bound(layer, (2,))
    >>> round(bound.vector, 6), bound.logits.round(6).tolist(), round(float(bound.pairs[0, 1]), 6)
    (4.0, [3.0, 4.0], 5.0)
    """
    net = module if isinstance(module, CertifiedClassifier) else freeze(module, shape, norm)
    with exact_arithmetic():
        walk = Walk(net.network, net.norm)
        bounds = pair_bounds(walk)
        pairs = bounds.smallest(BOUNDS)
        return LipschitzBound(bounds.of_vector, bounds.of_logits.numpy(), pairs.numpy(), layer_rows(walk), net.norm)


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, and its record (`summary.json`) as a dictionary."""

    directory: Path
    summary: dict[str, Any]

    def load(self) -> CertifiedClassifier:
        """The classifier that was trained.

        >>> import lipcert
        >>> run = lipcert.train("model=nearest_neighbour", "attack=none")  # doctest: +ELLIPSIS
        run: outputs/train/...
        >>> run.load().classes
        10
        """
        return load(self.directory)


def train(*overrides: str) -> Run:
    """Trains a classifier, certifies it, attacks it, and records the run: `lipcert train` as a function.

    overrides  as on the command line: "model=l2nnn", "dataset=mnist", …

    Raises ValueError, in one line, for what the command line would refuse.

    >>> import lipcert
    >>> run = lipcert.train("dataset.subset=100", "schedule.epochs=1", "attack=none")  # doctest: +ELLIPSIS
    run: outputs/train/...
    >>> 0 <= run.summary["clean_accuracy"] <= 1, run.load().classes
    (True, 10)
    """
    directory = command.run(**settings_of("train", list(overrides)))
    return Run(directory, RunDirectory(directory).read_json(SUMMARY))
