"""What Lipschitz-margin training costs, and the bound that it ends with. Usage: bench_bounds.py [--device D]

1. a training step of `lmt_convnet` (MNIST, 50 images, Adam) and of `lmt_resnet` (WRN-16-4, 128 images of 3×32×32, SGD)
   with the LMT loss against the same step with plain cross-entropy: ratios of pairs, timed in turn in one run;
2. the sound bound of the whole WRN-16-4, and of `lmt_convnet`: seconds, and tightness: the bound over what the same
   rules make of norms that power iteration reaches from below;
3. tightness of one convolution's bounds against the dense SVD of the operator.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lipcert.contracts import Norm
from lipcert.frozen import freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.training import Estimate
from lipcert.losses.cross_entropy import CrossEntropy
from lipcert.losses.lmt import LMT
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.norms import matrix_norm
from lipcert.norms.convolution import convolution_matrix, corollary1_norm
from lipcert.norms.fourier import fft_norm

MNIST, SVHN = (1, 28, 28), (3, 32, 32)
CONVOLUTIONS = (  # channels in and out, kernel, stride, padding, image
    (1, 16, 4, 2, 1, 28),
    (16, 32, 4, 2, 1, 14),
    (3, 8, 3, 1, 1, 12),
    (4, 8, 3, 2, 1, 12),
    (8, 8, 3, 1, 1, 4),
    (8, 16, 1, 2, 0, 12),
)


def step(make: Callable[..., Any], shape: tuple[int, ...], size: int, lmt: bool, device: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model = make(input_shape=shape, num_classes=10).to(device)
    loss: Any = CrossEntropy(num_classes=10)
    if lmt:
        loss = LMT(num_classes=10, c=0.01)
        loss.prepare(model, shape)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    if make is LMTConvNet:
        optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.rand(size, *shape, device=device), torch.randint(0, 10, (size,), device=device)

    def run() -> None:
        optimizer.zero_grad()
        loss(model, x, y)["loss"].backward()
        optimizer.step()

    return run


def timed(call: Callable[[], None], times: int, device: str) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def paired(name: str, goal: str, a: Callable, b: Callable, runs: int, times: int, device: str) -> None:
    timed(a, times, device), timed(b, times, device)
    pairs = [(timed(a, times, device), timed(b, times, device)) for _ in range(runs)]
    ratios = sorted(x / y for x, y in pairs)
    first, second = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    print(f"{name:<44}{first:10.2f} ms {second:10.2f} ms   ratio {spread}   {goal}")


def bound(make: Callable[..., Any], shape: tuple[int, ...], goal: str) -> None:
    torch.manual_seed(0)
    model = make(input_shape=shape, num_classes=10).double().eval()
    estimate = Estimate(model, shape)
    network = freeze(model, shape)
    started = time.perf_counter()
    proved = pair_bounds(Walk(network, Norm.L2)).smallest()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        for _ in range(500):
            pairs = estimate(model)
    above = float((proved / pairs).nan_to_num(0.0).max())
    print(f"{make.__name__}: bounds of all pairs of logits, up to {float(proved.max()):.6g}, {seconds:.1f} s {goal}; "
          f"at most {above:.4f} times what 500 power iterations a layer reach from below")  # fmt: skip


def tightness() -> None:
    print("a convolution's bounds / the dense SVD     FFT  Corollary 1")
    for c_in, c_out, k, stride, padding, n in CONVOLUTIONS:
        weight = torch.randn(c_out, c_in, k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        exact = matrix_norm(convolution_matrix(weight, stride, padding, (n, n)))
        bounds = [norm(weight, stride, padding, (n, n)) / exact for norm in (fft_norm, corollary1_norm)]
        name = f"{c_in} -> {c_out}, {k}x{k}, stride {stride}, padding {padding}, {n}x{n}"
        print(f"{name:<40}" + "".join(f"{float(bound):9.4f}" for bound in bounds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    device, runs = options.device, options.runs
    torch.set_flush_denormal(True)  # a network that has learnt its one batch would otherwise measure those
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}")
    for name, goal, make, shape, size, times in (
        ("lmt_convnet, 50 images, LMT / plain", "goal <= 1.25", LMTConvNet, MNIST, 50, 50),
        ("lmt_resnet, 128 images, LMT / plain", "goal <= 1.10", LMTResNet, SVHN, 128, 1 if device == "cpu" else 20),
    ):
        a, b = (step(make, shape, size, lmt, device) for lmt in (True, False))
        paired(name, goal, a, b, runs if device != "cpu" or times > 1 else max(2, runs // 2), times, device)
    bound(LMTResNet, SVHN, "(goal < 60 s)")
    bound(LMTConvNet, MNIST, "")
    tightness()


if __name__ == "__main__":
    main()
