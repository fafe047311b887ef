"""Looks at a network in training: what the run's certificate says of validation images, were training to end there."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lipcert.attacks.judge import attempt
from lipcert.configuration import build
from lipcert.contracts import Attack, BoundCertificate, Norm
from lipcert.datasets.split import Dataset
from lipcert.frozen import Network, freeze
from lipcert.frozen.capture import Program, capture
from lipcert.frozen.exact import exact_arithmetic, images_at_once
from lipcert.frozen.freeze import double_copy
from lipcert.runs.numbers import WORDS

LOOKS = 5  # of a training, by default
STEPS = 100  # of training between two looks, at least: a look costs as much as a few of them
AT_ONCE = 100  # images


def check_monitor(*, every: int | None, images: int, attack: dict | None) -> None:
    """ValueError for numbers that make no sense; conf/train.yaml says what they mean."""
    if every is not None and every < 0:
        raise ValueError(f"`monitor.every` must be a number of epochs, 0 for never or null, got {every}")
    if images < 1:
        raise ValueError(f"`monitor.images` must be at least 1, got {images}; monitor.every=0 looks at none")
    if attack:
        build(attack)


class Monitor:
    """`monitor(model, epoch)` returns what a look after so many epochs finds, by name; {} where none is due.

    A look is at a copy in float64, frozen as a run's network is in the end; neither the model nor any stream of random
    numbers changes by it. What the schedule drives is where it is after that epoch, or, where the network can't be
    certified there (an l_inf-distance net with a finite p), where the schedule ends.

    config   the run's
    dataset  its `val` is looked at
    steps    of training an epoch
    device   where images are judged
    """

    def __init__(self, config: dict[str, Any], dataset: Dataset, steps: int, device: torch.device | str):
        every, images, attack = (config["monitor"][key] for key in ("every", "images", "attack"))
        self.schedule = build(config["schedule"])
        self.certificate, self.eps = build(config["certificate"]), config["eps"]
        self.attack: Attack | None = build(attack) if attack else None
        self.every = usual(self.schedule.epochs, steps) if every is None else every
        self.dataset, self.images, self.device = dataset, images, torch.device(device)
        self.program: Program | None = None
        self.complained = False

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        due = self.every and (epoch % self.every == 0 or epoch == self.schedule.epochs)
        if not due or not len(self.dataset.val):
            return {}
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(cuda), exact_arithmetic():
                network, bound = self.certified(model, epoch)
                return dict([*self.claims(bound), *self.attacked(network)])
        except ValueError as error:
            if not self.complained:
                print(f"lipcert: `monitor`: no look after epoch {epoch}: {error}", file=sys.stderr)
            self.complained = True
            return {}

    def certified(self, model: nn.Module, epoch: int) -> tuple[Network, BoundCertificate]:
        """The frozen network and its certificate; ValueError where there is none."""
        try:
            network = self.frozen(double_copy(model), epoch)
            return network, self.certificate(network)
        except ValueError:
            network = self.frozen(double_copy(model), self.schedule.epochs)
            return network, self.certificate(network)

    def frozen(self, model: nn.Module, epoch: int) -> Network:
        """The network of a model that may be changed, with its schedule after `epoch`. It is captured anew only where
        it computes something else than at the look before, beside its weights."""
        self.schedule.apply(epoch, model=model)
        shape, norm = self.dataset.input_shape, getattr(model, "norm", Norm.L2)
        if self.program:
            try:
                return freeze(model, shape, norm, self.program)
            except ValueError:
                pass
        program = capture(model, shape, torch.float64)
        network = freeze(model, shape, norm, program)
        self.program = program
        return network

    def batches(self, size: int, images: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images looked at, in float64, and their labels; of these the first `images`."""
        pixels, labels = self.held
        for x, y in zip(pixels[:images].split(size), labels[:images].split(size), strict=True):
            yield x.to(self.device).double() / 255, y.to(self.device)

    @cached_property
    def held(self) -> tuple[Tensor, Tensor]:
        """The images, in bytes, and their labels: read once."""
        first = self.dataset.val.head(self.images)
        return first.pixels(), first.labels

    def claims(self, bound: BoundCertificate) -> Iterator[tuple[str, float]]:
        """The accuracy within each radius of the run, under the word of what the certificate claims."""
        if bound.observe:
            shape, classes = self.dataset.input_shape, self.dataset.num_classes
            for x, y in self.batches(images_at_once(classes, shape, str(self.device), AT_ONCE)):
                bound.observe(x, y)
        radii = []
        for x, y in self.batches(AT_ONCE):
            verdict = bound.judge(x, y)
            radii.append(verdict.radius.masked_fill(verdict.prediction != y, -torch.inf))
        for eps in self.eps:
            yield f"val/{WORDS[bound.kind]}_accuracy/{float(eps)!r}", share(torch.cat(radii) >= eps)

    def attacked(self, network: Network) -> Iterator[tuple[str, float]]:
        """The accuracy under the attack at its radii, or at the run's where it looks for the smallest distance."""
        if not self.attack:
            return
        attack, exact = self.attack, network.on(self.device)
        coarse = network.to(dtype=torch.float32, device=self.device)
        own = self.eps if attack.norm == network.norm else ()
        for tried in [None] if attack.eps is None else attack.eps:
            with torch.enable_grad():
                batches = self.batches(attack.batch_size, attack.images)
                found = [attempt(attack, coarse, exact, x, y, tried) for x, y in batches]
            distances = torch.cat([each.distance for each in found])  # infinite where it failed
            for eps in own if tried is None else [tried]:
                robust = distances > (eps if tried is None else sys.float_info.max)
                yield f"val/robust_accuracy_estimate/{attack.label}/{float(eps)!r}", share(robust)


def usual(epochs: int, steps: int) -> int:
    """How many epochs lie between two looks by default: few looks, none in a training of few steps (0)."""
    every = max(math.ceil(epochs / LOOKS), math.ceil(STEPS / steps))
    return every if every <= epochs else 0


def share(right: Tensor) -> float:
    """The fraction of the images that are true."""
    return int(right.sum()) / len(right)
