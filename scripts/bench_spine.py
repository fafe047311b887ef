"""What the spine's promises cost: ratios of pairs, each pair timed in turn in one run. Usage: bench_spine.py DATA_DIR

1. a training step of `l2nnn` against the same network, loss and optimizer without constraint and retraction;
2. certifying 10,000 MNIST images against a plain float64 forward pass over them;
3. one epoch of MNIST batches against torchvision's dataset behind a DataLoader of 2 workers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torchvision import datasets, transforms

from lipcert.certificates.pairwise import Pairwise
from lipcert.datasets import batches
from lipcert.datasets.mnist import mnist
from lipcert.evaluation.certify import certify_images
from lipcert.frozen import freeze
from lipcert.frozen.exact import exact, exact_arithmetic
from lipcert.losses.l2nnn import L2NNNLoss
from lipcert.models.l2nnn import L2NNN
from lipcert.optimizers.muon import Muon

SHAPE = (1, 28, 28)


def paired(name: str, goal: str, a: Callable[[], object], b: Callable[[], object], runs: int) -> None:
    """Times a and b alternately, `runs` times after one warm-up, and prints the median and range of the ratio a/b."""
    a(), b()
    times = []
    for _ in range(runs):
        marks = [time.perf_counter()]
        for call in (a, b):
            call()
            marks.append(time.perf_counter())
        times.append((marks[1] - marks[0], marks[2] - marks[1]))
    ratios = sorted(x / y for x, y in times)
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name:<46}{first:9.4f} s {second:9.4f} s   ratio {statistics.median(ratios):7.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f})   goal {goal}"
    )


def step(constrained: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = L2NNN(input_shape=SHAPE, num_classes=10)
    loss = L2NNNLoss(num_classes=10, alpha=0.0, omega=0.1, v=None, radius=1.58, u_trainable=False, v_trainable=False,
                     lambda_w=0.0)  # fmt: skip
    layers = [layer for layer in model.modules() if hasattr(layer, "strict")]
    for layer in layers:
        layer.strict = float(constrained)
    optimizer = Muon(model.parameters(), retract=constrained)
    x, y = torch.rand(512, *SHAPE), torch.randint(0, 10, (512,))

    def run() -> None:
        for _ in range(5):
            optimizer.zero_grad()
            loss(model, x, y)["loss"].backward()
            optimizer.step()
            if optimizer.retract:
                for layer in layers:
                    layer.retract()

    return run


def main(data_dir: str) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of each, then of the ratios")
    paired("training step, constrained / unconstrained", "<= 1.2", step(True), step(False), 25)

    data = mnist(data_dir=data_dir)
    model = L2NNN(input_shape=SHAPE, num_classes=10)
    network = freeze(model, SHAPE)

    def certify() -> None:
        with exact_arithmetic():
            list(certify_images(Pairwise()(network), data.test, "pairwise", "cpu", 500))

    def forward() -> None:
        with exact_arithmetic():
            for x, _ in batches(data.test, 500, device="cpu"):
                network(exact(x))

    paired("certify 10,000 images / float64 forward pass", "<= 1.5", certify, forward, 9)

    theirs = datasets.MNIST(data_dir, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(theirs, 512, shuffle=True, num_workers=2, drop_last=True)
    ours = batches(data.train, 512, device="cpu", shuffle=True, drop_last=True)
    paired("MNIST epoch, torchvision + DataLoader / ours", ">= 20", lambda: all(map(len, loader)),
           lambda: all(map(len, ours)), 3)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "./data")
