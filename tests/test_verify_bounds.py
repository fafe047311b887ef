"""What `lipcert verify` proves by itself: norms, bounds, rounding errors and boxes of its own, on random networks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from frozen_builder import Builder
from frozen_cases import grown
from test_random_networks import recipe
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.export.verify_bounds import Bounds
from lipcert.export.verify_boxes import least_margins
from lipcert.export.verify_errors import Errors
from lipcert.export.verify_forms import Forms
from lipcert.export.verify_norms import convolution_norm, matrix_norm
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.network import Network
from lipcert.frozen.ops import OPERATIONS

NORMS = (Norm.L2, Norm.LINF)


def test_every_operation_has_a_form():
    """Those without a method of their own copy entries."""
    copies = {"reshape", "permute", "slice", "rearrange"}
    assert {kind for kind in OPERATIONS if not hasattr(Forms, f"_{kind}")} == copies


@pytest.mark.parametrize("scale", (1.0, 1e-200, 1e200))
def test_norms_of_matrices(scale):
    torch.manual_seed(0)
    for shape in ((1, 1, 7), (1, 9, 4), (3, 5, 8), (1, 40, 30)):
        matrices = torch.randn(shape, dtype=torch.float64)
        due = float(torch.linalg.matrix_norm(matrices, 2).max()) * scale
        assert due <= matrix_norm(matrices * scale) <= due * (1 + 1e-11)
    assert matrix_norm(torch.zeros(1, 2, 2, dtype=torch.float64)) == 0


GEOMETRIES = (  # kernel, size, stride, padding, dilation
    ((3,), (9,), (2,), (1,), (1,)),
    ((3, 3), (6, 5), (1, 1), (1, 1), (1, 1)),
    ((4, 2), (7, 6), (2, 3), (1, 0), (1, 2)),
    ((2, 2), (4, 4), (2, 2), (0, 0), (1, 1)),
    ((2, 2, 2), (3, 3, 3), (1, 2, 1), (1, 0, 0), (1, 1, 1)),
)


@pytest.mark.parametrize("matrix", (True, False))
def test_norms_of_convolutions(matrix, monkeypatch):
    """By the whole matrix the exact norm; on a torus one that is not much larger."""
    if not matrix:
        monkeypatch.setattr("lipcert.export.verify_norms.ENTRIES", 0)
    torch.manual_seed(0)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    for kernel, size, *geometry in GEOMETRIES:
        weight = torch.randn(3, 2, *kernel, dtype=torch.float64)
        images = torch.eye(2 * math.prod(size), dtype=torch.float64).view(-1, 2, *size)
        rows = convolve[len(size)](images, weight, None, *geometry).flatten(1)
        due = float(torch.linalg.matrix_norm(rows, 2))
        assert due <= convolution_norm(weight, size, tuple(geometry)) <= due * (1 + 1e-11 if matrix else 2.0)


def moves(network: Network, seed: int) -> int:
    """No difference of two logits moves faster than its bound. Returns how many were looked at."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(64, *network.shape, generator=generator, dtype=torch.float64)
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    step[::3] = step[::3].sign()
    y = x + step * 10 ** (-4 * torch.rand(64, generator=generator).double()).view(-1, *[1] * (x.dim() - 1))
    before, after = network(x), network(y)
    moved, length = before - after, lengths(y - x, network.norm)
    allowed = 1e-9 * (before.abs() + after.abs()) + 1e-250  # by rounding
    gap = (moved[:, :, None] - moved[:, None]).abs() - allowed[:, :, None] - allowed[:, None]
    pairs = Bounds(network).pairs()
    assert not bool((gap > pairs * length[:, None, None] * (1 + 1e-9)).any())
    return gap.numel()


def lengths(x: Tensor, norm: Norm) -> Tensor:
    return x.flatten(1).norm(dim=1) if norm is Norm.L2 else x.flatten(1).abs().amax(1)


def rounds(network: Network, seed: int) -> float:
    """The largest share of the bound by which float32 errs near images; of the network with constants of float32."""
    single = network.to(dtype=torch.float32)
    network = single.to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, *network.shape, generator=generator, dtype=torch.float64).float().double()
    bounds, values, zero = Bounds(network), network.values(x), torch.zeros(8, dtype=torch.float64)
    here = Errors(bounds, FLOAT64, values, zero)
    there = Errors(bounds, FLOAT32, values, zero + 0.1, here)
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    step = step / lengths(step, network.norm).view(-1, *[1] * (x.dim() - 1))
    near = (x + 0.0999 * step).clamp(0, 1).float()
    off = (single(near).double() - network(near.double())).abs()
    functionals = [bounds.of(k) for k in range(network.classes)]
    allowed = torch.stack([here.of(f) + there.of(f) for f in functionals], 1)
    assert bool((off <= allowed).all())
    return float((off / allowed.clamp_min(1e-300)).max())


def boxes(network: Network, seed: int) -> None:
    """No margin of an image in a box is below that of the box, in float64 and in float32."""
    single = network.to(dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, *network.shape, generator=generator, dtype=torch.float64)
    low, high = (x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)
    labels = network(x).argmax(1)
    inside = (low + (high - low) * torch.rand(x.shape, generator=generator, dtype=torch.float64)).clamp(low, high)
    rounded = single.to(dtype=torch.float64)
    for arithmetic, of, logits in (
        (FLOAT64, network, network(inside)),
        (FLOAT32, rounded, single(inside.float()).double()),
    ):
        allowed = 1e-12 * logits.abs().amax(1, keepdim=True) if arithmetic is FLOAT64 else 0.0
        slack = 1e-7  # inside.float() may lie outside of the box by that much
        wide = least_margins(of, (low - slack).clamp(0, 1), (high + slack).clamp(0, 1), labels, arithmetic)
        margins = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], math.inf)
        assert bool((margins >= wide - allowed).all())


def check(seeds: range) -> float:
    worst = 0.0
    with exact_arithmetic():
        for seed in seeds:
            for norm in NORMS:
                network = replace(grown(recipe(seed), seed), norm=norm)
                assert moves(network, seed)
                try:
                    worst = max(worst, rounds(network, seed))
                except ValueError:  # a constant is infinite in float32
                    continue
                boxes(network, seed)
    return worst


@pytest.mark.parametrize(("norm", "scales"), ((Norm.L2, (1e-130, 1e200)), (Norm.LINF, (1e200, 1e200, 1e-300))))
def test_what_overflows_on_the_way_has_no_bound(norm, scales):
    """A weight or a movement that is infinite stays so, and does not become the largest number."""
    builder, value = Builder(0, (2,)), 0
    for scale in scales:
        value = builder.add("affine", value, scale=torch.tensor([scale], dtype=torch.float64), shift=None)
        value = builder.add("pointwise", value, function="relu", parameters=())
    found = float(Bounds(replace(builder.network(value), norm=norm)).pairs()[0, 1])
    assert not found < math.prod(scales)


def test_errors_of_small_weights_are_not_lost():
    """Values near 1e210 that are read with 1e-200: the square of that weight is 0."""
    builder, tensor = Builder(0, (2,)), torch.tensor
    weight, shift = torch.eye(2, dtype=torch.float64) * 1e140, tensor([1e150, 1e150], dtype=torch.float64)
    value = builder.add("linear", 0, weight=weight, bias=shift)
    value = builder.add("sort", value, axis=0, descending=True)
    value = builder.add("linear", value, weight=torch.eye(2, dtype=torch.float64) * 1e-170, bias=None)
    network = builder.network(value)
    bounds, x = Bounds(network), torch.tensor([[0.5, 0.4]], dtype=torch.float64)
    errors = Errors(bounds, FLOAT64, network.values(x), torch.zeros(1, dtype=torch.float64))
    error = float(errors.of(bounds.of(0, 1)))
    assert error > 1e-16 * 1e150 * 1e-170


def test_what_is_proved_holds():
    check(range(3))


@pytest.mark.slow
def test_what_is_proved_holds_for_many():
    assert 0.1 < check(range(100, 400)) <= 1
