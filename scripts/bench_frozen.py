"""What freezing costs and gains, for every model of conf/model. Usage: bench_frozen.py [MODEL ...]

For each model, built for digits: seconds to capture it, operations, the difference of its logits from the float64
module's relative to the largest (0: the same to the last bit), seconds of its bounds, and the time of the network's
evaluation of 50 images over the module's own, timed in turn in one run.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lipcert.conf
import torch

from lipcert.certificates.pairwise import Pairwise
from lipcert.cli.compose import settings_of
from lipcert.configuration import build
from lipcert.frozen import freeze
from lipcert.frozen.exact import exact_arithmetic


def paired(a: Callable[[], object], b: Callable[[], object], runs: int = 9) -> str:
    """The median and range of the ratio a/b, timed in turn after one warm-up."""
    a(), b()
    ratios = []
    for _ in range(runs):
        marks = [time.perf_counter()]
        for call in (a, b):
            call()
            marks.append(time.perf_counter())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def row(name: str) -> str:
    config = settings_of("train", [f"model={name}", "output_dir=nowhere"])
    dataset, schedule = build(config["dataset"]), build(config["schedule"])
    torch.manual_seed(0)
    model = build(config["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes)
    if hasattr(model, "memorise"):
        model.memorise(dataset.train.pixels(), dataset.train.labels)
    schedule.apply(schedule.epochs, model=model)
    started = time.perf_counter()
    network = freeze(model, dataset.input_shape, getattr(model, "norm", "l2"))
    captured = time.perf_counter() - started
    exact = copy.deepcopy(model).double().eval()
    x = torch.rand(50, *dataset.input_shape, dtype=torch.float64)
    with exact_arithmetic():
        started = time.perf_counter()
        Pairwise()(network)
        bound = time.perf_counter() - started
        ours, theirs = network(x), exact(x)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        ratio = paired(lambda: network(x), lambda: exact(x))
    return f"{name:<18}{captured:8.2f}{len(network.operations):6}{difference:12.1e}{bound:9.2f}   {ratio}"


def main(names: list[str]) -> None:
    folder = Path(lipcert.conf.__path__[0]) / "model"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'model':<18}{'capture s':>9}{'ops':>5}{'difference':>12}{'bounds s':>9}   evaluation: network / module")
    for name in names or sorted(path.stem for path in folder.glob("*.yaml")):
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
