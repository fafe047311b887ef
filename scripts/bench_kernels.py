"""How fast the distance kernels are. Usage: bench_kernels.py [--device cuda] [--threads N] [--runs N] [--peak TFLOPS]

On a CPU: ratios to `torch.cdist`, each pair timed in turn in one run; with one thread in CPU time, which holds on a
shared machine too. cdist gets an eighth of the batch, in which its time is linear. Of its training steps at p >= 64
nothing is said: their gradients are not finite.
On a GPU: one training iteration of the 6-layer CIFAR net of Zhang et al. (5120 units, batch 512), forward and backward,
beside what the authors publish for their CUDA kernels on an RTX 3090. With `--peak`, the FP32 TFLOP/s of the device,
also the share of the time that three matrix products of each layer's size would take at that peak.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lipcert.kernels import lp_distance

INF = math.inf
SHAPES = [(128, 1024, 1024), (64, 5120, 5120)]
GOALS = {  # (backward too, p): times as fast as cdist
    (False, INF): 10,
    (False, 8.0): 25,
    (False, 33.0): 15,
    (False, 33.3): 15,
    (False, 128.0): 40,
    (False, 1000.0): 40,
    (True, INF): 10,
    (True, 8.0): 30,
    (True, 33.3): 15,
    (True, 128.0): None,
    (True, 1000.0): None,
}
WIDTHS = [3072, 5120, 5120, 5120, 5120, 5120, 10]
PUBLISHED = {33.3: 0.187, 256.0: 0.187, 8.0: 0.113, INF: 0.080}  # seconds, github.com/zbh2047/L_inf-dist-net-v2


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def step(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, backward: bool) -> Callable[[], None]:
    def run() -> None:
        if not backward:
            with torch.no_grad():
                kernel(x, w)
        else:
            y = kernel(x, w)
            torch.autograd.grad(y, (x, w), torch.ones_like(y))

    return run


def against_cdist(shape: tuple[int, int, int], p: float, backward: bool, goal: int | None, runs: int) -> None:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    b, m, n = shape
    x, w = torch.randn(b, n, requires_grad=True), torch.randn(m, n, requires_grad=True)
    ours = step(lambda x, w: lp_distance(x, w, p), x, w, backward)
    theirs = step(lambda x, w: torch.cdist(x, w, p=p), x[: b // 8].detach().requires_grad_(), w, backward)
    ours()
    pairs = [(seconds(ours, clock), seconds(theirs, clock) * 8 if goal else math.nan) for _ in range(runs)]
    ratios = sorted(c / a for a, c in pairs)
    name = f"{b}×{m}×{n}  p = {p:<6g} {'forward + backward' if backward else 'forward'}"
    speed = b * m * n / statistics.median(a for a, _ in pairs) / 1e9
    told = (
        f"ratio {statistics.median(ratios):6.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})   goal >= {goal}" if goal else ""
    )
    print(f"{name:<48}{speed:7.2f} G differences/s   {told}")


def iteration(p: float, batch: int, runs: int, peak: float | None) -> None:
    weights = [torch.randn(m, n, device="cuda", requires_grad=True) for n, m in pairwise(WIDTHS)]
    image = torch.rand(batch, WIDTHS[0], device="cuda")

    def run() -> None:
        x = image
        for w in weights:
            x = lp_distance(x - x.mean(0), w, p)
        torch.autograd.grad(x.sum(), weights)
        torch.cuda.synchronize()

    run(), run()
    times = sorted(seconds(run, time.perf_counter) for _ in range(runs))
    taken = statistics.median(times)
    differences = batch * sum(w.numel() for w in weights)
    speed = f"{differences / taken / 1e9:8.1f} G differences/s"
    share = f"   {6e-12 * differences / taken / peak:.2f} of the peak" if peak else ""
    print(
        f"p = {p:<6g} {taken:.4f} s ({times[0]:.4f} to {times[-1]:.4f})   {speed}"
        f"   published {PUBLISHED[p]:.3f} s: {PUBLISHED[p] / taken:.1f} times as fast{share}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peak", type=float)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device == "cuda":
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}; medians (ranges) of {options.runs}")
        for p in PUBLISHED:
            iteration(p, 512, options.runs, options.peak)
    else:
        print(f"torch {torch.__version__}, {options.threads} threads; medians (ranges) of {options.runs} pairs")
        for shape in SHAPES:
            for (backward, p), goal in GOALS.items():
                against_cdist(shape, p, backward, goal, options.runs)


if __name__ == "__main__":
    main()
