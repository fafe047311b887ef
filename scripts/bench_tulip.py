"""What TULIP's training costs. Usage: bench_tulip.py [--device D] [--batch N] [--runs N]

1. a training step of the published ResNeXt-34 (2×32, CIFAR-10) and of AllCNN-C with each part of the loss, against the
   same step with plain cross-entropy: ratios of pairs, timed in turn in one run (the paper's claim: at most 4);
2. a batch with its augmentation (crop, flip, cutout) against those steps: which fraction of them it takes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lipcert.datasets import batches
from lipcert.datasets.augmentation import Cutout, HorizontalFlip, RandomCrop
from lipcert.datasets.split import Split
from lipcert.losses.tulip import Tulip
from lipcert.models.allcnn import AllCNN
from lipcert.models.tulip_resnext import TulipResNeXt

SHAPE = (3, 32, 32)
PARTS: dict[str, dict[str, Any]] = {
    "plain": {"perturbation": "none", "penalty": "none"},
    "l2": {"perturbation": "l2", "penalty": "none"},
    "penalty, double backpropagation": {"perturbation": "none"},
    "penalty, finite differences": {"perturbation": "none", "penalty_by": "finite_difference"},
    "l2 + penalty, double backpropagation": {},
    "l2 + penalty, finite differences": {"penalty_by": "finite_difference"},
}


def step(make: Callable[..., Any], part: dict[str, Any], size: int, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model = make(input_shape=SHAPE, num_classes=10).to(device)
    loss = Tulip(num_classes=10, **part)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
    x, y = torch.rand(size, *SHAPE, device=device), torch.randint(0, 10, (size,), device=device)

    def run() -> None:
        optimizer.zero_grad()
        loss(model, x, y)["loss"].backward()
        optimizer.step()

    return run


def loading(size: int, device: str) -> Callable[[], None]:
    images, labels = torch.randint(0, 256, (5000, *SHAPE), dtype=torch.uint8), torch.randint(0, 10, (5000,))
    augment = [RandomCrop(padding=4, fill=128), HorizontalFlip(), Cutout(16)]
    loader = batches(Split(images, labels), size, augment=augment, shuffle=True, drop_last=True, device=device)
    endless = itertools.chain.from_iterable(iter(lambda: loader, None))
    return lambda: next(endless)


def timed(call: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def paired(name: str, a: Callable, b: Callable, runs: int, device: str, goal: str = "") -> None:
    timed(a, device), timed(b, device)
    pairs = [(timed(a, device), timed(b, device)) for _ in range(runs)]
    ratios = sorted(x / y for x, y in pairs)
    first, second = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    print(f"{name:<58}{first:10.2f} ms {second:10.2f} ms   ratio {spread}   {goal}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {given.device}, {torch.get_num_threads()} threads, batches of {given.batch}")
    for name, make in (("tulip_resnext", TulipResNeXt), ("allcnn", AllCNN)):
        plain = step(make, PARTS["plain"], given.batch, given.device)
        for part, keys in PARTS.items():
            if part != "plain":
                goal = "goal 4" if part.startswith("l2 +") else ""
                other = step(make, keys, given.batch, given.device)
                paired(f"{name}: {part} / plain", other, plain, given.runs, given.device, goal)
        paired(f"{name}: a batch / a plain step", loading(given.batch, given.device), plain, given.runs, given.device)


if __name__ == "__main__":
    main()
