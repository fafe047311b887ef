"""Every bound is at least the exact operator norm, at every shape and scale, and not much above it."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.bounds import convolution_norm, matrix_norm
from lipcert.bounds.comparison import parseval_norm, peck_norm, statistical_norm
from lipcert.bounds.operator_norm import convolution_matrix, corollary1_norm, fft_norm, gram_iteration_norm, overlap

KERNELS = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 3), (5, 2)]
STRIDES = [1, 2, 3, (2, 1), (1, 3)]
BOUNDS = (convolution_norm, fft_norm, corollary1_norm, peck_norm, lambda weight, *_: parseval_norm(weight))


def images_of_units(weight: Tensor, stride, padding, size, dilation=1, groups: int = 1) -> Tensor:
    """The operator, (C_in·H·W, C_out·H'·W'), as PyTorch convolves."""
    c_in = weight.shape[1] * groups
    units = torch.eye(c_in * math.prod(size), dtype=weight.dtype).view(-1, c_in, *size)
    return F.conv2d(units, weight, None, stride, padding, dilation, groups).flatten(1)


def convolutions(kernel):
    """Paddings, sizes down to the kernel's, and dilations, as far as they fit together."""
    for padding, size, dilation in product((0, 1, (2, 0)), (kernel, (5, 6), (7, 11)), (1, 2, (1, 3))):
        p, d = (x if isinstance(x, tuple) else (x, x) for x in (padding, dilation))
        if all(n + 2 * q > (k - 1) * e for n, k, q, e in zip(size, kernel, p, d, strict=True)):
            yield padding, size, dilation


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_convolution_bounds_are_bounds(kernel, stride):
    for at, (padding, size, dilation) in enumerate(convolutions(kernel)):
        weight = torch.randn(*((1, 1), (3, 2), (2, 4))[at % 3], *kernel, dtype=torch.float64)
        exact = torch.linalg.matrix_norm(images_of_units(weight, stride, padding, size, dilation), 2)
        for bound in BOUNDS:
            assert bound(weight, stride, padding, size, dilation) >= exact
        assert convolution_norm(weight, stride, padding, size, dilation) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_are_bounded_one_by_one(groups):
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(images_of_units(weight, 2, 1, (9, 7), groups=groups), 2)
    bounds = [convolution_norm(kernels, 2, 1, (9, 7)) for kernels in weight.chunk(groups)]
    assert exact <= max(bounds) <= exact * (1 + 1e-6)


@pytest.mark.parametrize(
    ("c_in", "c_out", "k", "stride", "padding", "n", "slack"),
    [
        (3, 8, 3, 1, 1, 12, 1.03),
        (4, 8, 3, 2, 1, 12, 1.05),
        (4, 6, 5, (2, 1), 2, 16, 1.06),
        (4, 8, 1, 2, 0, 9, 1 + 1e-9),
    ],
)
def test_the_fft_bound_is_tight(c_in, c_out, k, stride, padding, n, slack, monkeypatch):
    monkeypatch.setattr("lipcert.bounds.operator_norm.DENSE_ENTRIES", 0)
    for _ in range(5):
        weight = torch.randn(c_out, c_in, k, k, dtype=torch.float64)
        exact = torch.linalg.matrix_norm(images_of_units(weight, stride, padding, (n, n)), 2)
        assert exact <= convolution_norm(weight, stride, padding, (n, n)) <= slack * exact
        assert fft_norm(weight, stride, padding, (n, n)) <= slack * exact


@pytest.mark.parametrize("entries", [1, 1 << 22])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_the_fft_bound_is_the_largest_of_its_blocks(stride, entries, monkeypatch):
    """Whichever blocks were skipped: all of them, by torch.fft and SVD. One frequency stands out, anywhere."""
    monkeypatch.setattr("lipcert.bounds.operator_norm.BLOCK_ENTRIES", entries)
    (s, r), n = stride, 12
    for _ in range(20):
        down, across = torch.rand(2) * torch.pi
        wave = torch.cos(down * torch.arange(3)[:, None] + across * torch.arange(3))
        weight = torch.randn(5, 4, 3, 3, dtype=torch.float64) + torch.rand(()) * wave
        torus = (n + 2 + -(n + 2) % s, n + 2 + -(n + 2) % r)
        t = torch.fft.fft2(weight, s=torus).view(5, 4, s, torus[0] // s, r, torus[1] // r)
        exact = torch.linalg.matrix_norm(t.permute(3, 5, 0, 2, 4, 1).flatten(3), 2).max() / math.sqrt(s * r)
        assert exact * (1 - 1e-14) <= fft_norm(weight, stride, 1, (n, n)) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e-150, 1e150, 1e200])
def test_convolutions_at_all_scales(scale):
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    exact = scale * torch.linalg.matrix_norm(images_of_units(weight, 2, 1, (6, 6)), 2)
    for bound in BOUNDS:
        assert exact <= bound(weight * scale, 2, 1, (6, 6), 1) <= 10 * exact


@pytest.mark.parametrize("dilation", [1, 2, (2, 3)])
@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
def test_a_convolution_matrix_is_the_convolution(stride, dilation):
    weight = torch.randn(3, 2, 3, 2)
    matrix = convolution_matrix(weight, stride, (2, 1), (7, 5), dilation)
    assert torch.equal(matrix.T, images_of_units(weight, stride, (2, 1), (7, 5), dilation))


def test_windows_are_counted():
    """No entry is in more windows than is said, some entry is in that many; and LMT's formula is never below."""
    for k, s, p, d, n in product((1, 2, 3, 4, 5), (1, 2, 3, 4), (0, 1, 2, 4), (1, 2, 3, 4), range(1, 13)):
        last = n + 2 * p - (k - 1) * d - 1
        if last < 0:
            continue
        windows = [{i + d * t - p for t in range(k)} for i in range(0, last + 1, s)]
        most = max(sum(x in window for window in windows) for x in range(n))
        assert overlap(torch.ones(1, 1, k, 1), (s, 1), (p, 0), (n, 1), (d, 1)) == most
        assert most <= math.ceil(k * math.gcd(s, d) / s)
        assert d > 1 or most <= math.ceil(min(k, n + 2 * p - k + 1) / s)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (5, 5), (3, 40), (40, 3), (2, 6, 4), (2, 2, 1, 5), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_matrix_bounds_are_bounds(shape, dtype):
    w = torch.randn(shape, dtype=dtype)
    exact = torch.linalg.svdvals(w)[..., 0] if 0 not in shape else torch.zeros(())
    assert ((exact <= matrix_norm(w)) & (matrix_norm(w) <= exact * (1 + 1e-8))).all()
    rank = min(shape[-2:])
    for iterations in (0, 1, 2, 5, 10):
        bound = gram_iteration_norm(w, iterations)
        assert (exact <= bound).all()
        assert (bound <= exact * rank ** (0.5 ** (iterations + 1)) * (1 + 1e-8)).all()


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-150, 1e-8, 1.0, 1e150, 1e300])
@pytest.mark.parametrize("bound", [matrix_norm, gram_iteration_norm, lambda w: gram_iteration_norm(w, 40)])
def test_matrices_at_all_scales(bound, scale):
    """Orthogonal ones, whose norm is known; float64's largest error, and the bound above it."""
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] * scale
    assert torch.linalg.svdvals(q)[0] <= bound(q) <= 1.01 * scale
    thin = torch.outer(torch.randn(9, dtype=torch.float64), torch.randn(900, dtype=torch.float64))
    assert torch.linalg.svdvals(thin)[0] * scale <= bound(thin * scale)
    uneven = torch.diag(torch.tensor([scale, 1e-9 * scale], dtype=torch.float64))
    assert scale <= bound(uneven) <= scale * (1 + 1e-7)


def test_the_statistical_bound_is_a_bound():
    for c_out, c_in, stride, n in ((3, 2, 1, 8), (4, 3, 2, 9), (2, 1, (2, 1), 7)):
        weight = torch.randn(c_out, c_in, 3, 3, dtype=torch.float64)
        matrix = images_of_units(weight, stride, 1, (n, n))
        gram = matrix @ matrix.T

        def apply(u: Tensor, gram: Tensor = gram) -> Tensor:
            return (u.flatten(1) @ gram).view_as(u)

        before = torch.random.get_rng_state()
        bound, failure = statistical_norm(apply, (c_in, n, n), starts=32, iterations=2000)
        assert torch.linalg.matrix_norm(matrix, 2) <= bound <= torch.linalg.matrix_norm(matrix, 2) * (1 + 1e-3)
        assert failure == pytest.approx((2 / math.pi) ** 16)
        assert bound == statistical_norm(apply, (c_in, n, n), starts=32, iterations=2000)[0]
        assert torch.equal(before, torch.random.get_rng_state())
    assert statistical_norm(torch.zeros_like, (3, 4), starts=2)[0] == 0
    for value in torch.rand(20, dtype=torch.float64):  # as converged as can be
        assert statistical_norm(value.mul, (5,), starts=1)[0] >= value.sqrt()


def test_the_statistical_bound_is_the_largest_of_its_starts():
    """Of a thousand, some start hardly sees the top component; all of them together do."""
    values = torch.tensor([1.0, 0.5], dtype=torch.float64)
    alone = [statistical_norm(values.mul, (2,), starts=1, iterations=4, seed=seed)[0] for seed in range(1000)]
    assert min(alone) < 1 <= statistical_norm(values.mul, (2,), starts=1000, iterations=4)[0]


@pytest.mark.parametrize("iterations", [2, 3, 5, 20, 200])
def test_a_start_with_its_share_of_the_top_component_never_fails(iterations):
    """The event behind the probability is the start's alone, whenever the iteration ends."""
    good = 0
    for seed in range(100):
        values = torch.rand(12, dtype=torch.float64) ** 4
        values[0] = values.max() * (1 + torch.rand(()) ** 4)
        starts = []

        def gram(u: Tensor, values: Tensor = values, starts: list = starts) -> Tensor:
            starts.append(u)
            return u * values

        bound, _ = statistical_norm(gram, (12,), starts=1, iterations=iterations, seed=seed)
        if starts[0][0, 0] ** 2 >= 1 / 12:
            good += 1
            assert bound**2 >= values[0]
    assert good >= 100 * (1 - math.sqrt(2 / math.pi))


@pytest.mark.parametrize(
    ("shape", "arguments", "match"),
    [
        ((2, 1, 3), (1, 0, (5, 5)), "`weight` has shape \\(2, 1, 3\\)"),
        ((2, 1, 3, 3), (0, 0, (5, 5)), "`stride`"),
        ((2, 1, 3, 3), (1, -1, (5, 5)), "`padding`"),
        ((2, 1, 3, 3), (1, 0, (5, 2)), "`size` 2 with padding 0"),
        ((2, 1, 3, 3), (1, 0, (5, 4), 2), "`size` 4 with padding 0 is below the kernel's extent 5"),
    ],
)
def test_what_is_no_convolution(shape, arguments, match):
    for bound in (convolution_norm, fft_norm, corollary1_norm, convolution_matrix):
        with pytest.raises(ValueError, match=match):
            bound(torch.ones(shape), *arguments)
