"""Every bound is at least the exact operator norm, at every shape and scale, and not much above it."""

import math
import random
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.contracts import Norm
from lipcert.norms import (
    Convolution,
    Matrices,
    TransposedConvolution,
    convolution_norm,
    gram_iteration_norm,
    growth,
    matrix_norm,
    normalised,
)
from lipcert.norms.comparison import parseval_norm, peck_norm, statistical_norm
from lipcert.norms.convolution import convolution_matrix, corollary1_norm, overlap
from lipcert.norms.fourier import fft_norm
from lipcert.norms.rounding import sum_up, times_up
from lipcert.norms.windows import Axis

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
    monkeypatch.setattr("lipcert.norms.convolution.DENSE_ENTRIES", 0)
    for _ in range(5):
        weight = torch.randn(c_out, c_in, k, k, dtype=torch.float64)
        exact = torch.linalg.matrix_norm(images_of_units(weight, stride, padding, (n, n)), 2)
        assert exact <= convolution_norm(weight, stride, padding, (n, n)) <= slack * exact
        assert fft_norm(weight, stride, padding, (n, n)) <= slack * exact


@pytest.mark.parametrize("entries", [1, 1 << 22])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_the_fft_bound_is_the_largest_of_its_blocks(stride, entries, monkeypatch):
    """Whichever blocks were skipped: all of them, by torch.fft and SVD. One frequency stands out, anywhere."""
    monkeypatch.setattr("lipcert.norms.fourier.BLOCK_ENTRIES", entries)
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
        ((2, 1, 3, 3), (1, 0, (5,)), "`weight` has shape \\(2, 1, 3, 3\\)"),
        ((2, 1), (1, 0, ()), "1 to 3 spatial axes"),
        ((2, 1, *[1] * 4), (1, 0, (5, 5, 5, 5)), "1 to 3 spatial axes"),
        ((2, 1, 3, 3), ((1, 1, 1), 0, (5, 5)), "`stride` is \\(1, 1, 1\\)"),
        ((2, 1, 3), (1, (0, 0), (5,)), "`padding` is \\(0, 0\\)"),
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


CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
KINDS = [(kind, axes) for kind in ("convolution", "transposed") for axes in (1, 2, 3)]
LENGTHS = {1: 12, 2: 6, 3: 4}  # of an axis at most: what keeps the dense operators small


def random_operator(kind: str, axes: int, draw: random.Random):
    """Any parameters that fit together, images below the kernel's size among them."""
    while True:
        size, k, s, p, d = (
            tuple(draw.randint(low, high) for _ in range(axes))
            for low, high in ((1, LENGTHS[axes]), (1, 4), (1, 3), (0, 3), (1, 3))
        )
        groups = draw.choice((1, 1, 2, 3))
        weight = torch.randn(groups * draw.randint(1, 3), draw.randint(1, 3), *k, dtype=torch.float64)
        if kind == "convolution":
            if min(n + 2 * q - (m - 1) * e for n, m, q, e in zip(size, k, p, d, strict=True)) < 1:
                continue
            return Convolution(weight, size, s, p, d, groups)
        rest = tuple(draw.randrange(t) for t in s)
        around = zip(size, k, s, p, d, rest, strict=True)
        if min((n - 1) * t - 2 * q + (m - 1) * e + r + 1 for n, m, t, q, e, r in around) < 1:
            continue
        return TransposedConvolution(weight, size, s, p, d, groups, rest)


def dense(operator) -> Tensor:
    """The operator as PyTorch computes it, a matrix a group: (G, outputs, inputs)."""
    units = torch.eye(math.prod(operator.domain), dtype=operator.weight.dtype).view(-1, *operator.domain)
    axes = len(operator.size)
    o = operator
    if isinstance(o, Convolution):
        images = CONVOLVE[axes](units, o.weight, None, o.stride, o.padding, o.dilation, o.groups)
    else:
        images = TRANSPOSE[axes](units, o.weight, None, o.stride, o.padding, o.output_padding, o.groups, o.dilation)
    blocks = images.reshape(o.groups, len(units) // o.groups, o.groups, -1)
    return torch.stack([blocks[g, :, g].T for g in range(o.groups)])


def true_norms(matrices: Tensor, norm: Norm) -> Tensor:
    """By SVD, or by correctly rounded sums."""
    if norm is Norm.L2:
        return torch.linalg.matrix_norm(matrices, 2)
    lines = matrices if norm is Norm.LINF else matrices.mT
    sums = [max(math.fsum(map(abs, line)) for line in block) for block in lines.tolist()]
    return torch.tensor(sums, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "axes"), KINDS)
def test_norms_of_random_convolutions(kind, axes):
    draw = random.Random(axes)
    for _ in range(40 if axes < 3 else 20):
        operator = random_operator(kind, axes, draw)
        matrices = dense(operator)
        for norm in Norm:
            exact, bound = true_norms(matrices, norm), operator.norms(norm)
            assert bound.shape == (operator.groups,) and bound.dtype == torch.float64
            assert (exact <= bound).all() and (bound <= exact * (1 + 1e-9)).all(), (operator, norm)
            grown = growth(operator, norm)
            assert (true_norms(matrices.abs(), norm) <= grown).all(), (operator, norm)
            assert norm is Norm.L2 or torch.equal(grown, bound)
        tiled = matrix_norm(operator.matrices()) * math.sqrt(operator.tiles())
        assert (operator.norms(Norm.L2) <= tiled * (1 + 1e-12)).all()


@pytest.mark.parametrize(("kind", "axes"), KINDS)
def test_random_convolutions_are_what_they_say(kind, axes):
    """The map, its adjoint, the products of an output, scaled channels, and the norm in the Fourier domain."""
    draw = random.Random(10 + axes)
    for _ in range(15):
        operator = random_operator(kind, axes, draw)
        matrices, groups = dense(operator), operator.groups
        u = torch.randn(2, *operator.domain, dtype=torch.float64)
        image = operator.apply(u)
        by_hand = torch.einsum("gmn,bgn->bgm", matrices, u.view(2, groups, -1))
        torch.testing.assert_close(image.reshape(2, groups, -1), by_hand)
        v = torch.randn_like(image)
        back = operator.transpose(v)
        assert back.shape == u.shape
        torch.testing.assert_close((image * v).sum(), (u * back).sum())
        assert (matrices != 0).sum(-1).max() <= operator.fan_in <= operator.weight.numel()
        rows = torch.randn(image.shape[1], dtype=torch.float64)
        scaled = operator.scaled(rows)
        torch.testing.assert_close(scaled.apply(u), image * rows.view(-1, *[1] * axes))
        adjoint = operator if kind == "convolution" else operator.adjoint
        for kernel, exact in zip(adjoint.weight.chunk(groups), true_norms(matrices, Norm.L2), strict=True):
            geometry = adjoint.stride, adjoint.padding, adjoint.size, adjoint.dilation
            for bound in BOUNDS:
                assert bound(kernel, *geometry) >= exact, (bound, operator)


@pytest.mark.parametrize(("axes", "n", "slack"), [(1, 40, 1.01), (3, 8, 1.12)])
def test_the_fft_bound_is_tight_in_any_number_of_axes(axes, n, slack):
    weight = torch.randn(2, 2, *[3] * axes, dtype=torch.float64)
    for stride, padding in ((1, 1), (2, 1)):
        exact = matrix_norm(convolution_matrix(weight, stride, padding, (n,) * axes))
        assert exact / (1 + 1e-9) <= fft_norm(weight, stride, padding, (n,) * axes) <= slack * exact


@pytest.mark.parametrize(("kind", "axes"), KINDS)
def test_norms_at_all_scales(kind, axes):
    """Small integers times a power of two: the truth scales with it, down to the smallest number above 0."""
    draw = random.Random(20 + axes)
    for exponent in (-1074, -1073, -1060, -1030, -1022, -540, 0, 500, 1000):
        operator = random_operator(kind, axes, draw)
        weight = torch.randint(-3, 4, operator.weight.shape).double()
        operator.weight.copy_(weight)
        matrices = dense(operator)
        half = exponent // 2
        operator.weight.mul_(2.0**half).mul_(2.0 ** (exponent - half))
        for norm in Norm:
            for bound, signed in ((operator.norms(norm), matrices), (growth(operator, norm), matrices.abs())):
                exact = true_norms(signed, norm)
                unscaled = bound * 2.0**-half * 2.0 ** (half - exponent)
                assert (exact <= unscaled).all(), (operator, norm, exponent)
                if signed is matrices:
                    step = 4 if exponent < -1000 else 0  # the bound itself is rounded to whole multiples of 2⁻¹⁰⁷⁴
                    assert (unscaled <= exact * (1 + 1e-9) + step).all(), (operator, norm, exponent)


@pytest.mark.parametrize("exponent", [-1074, -1073, -1022, -700, 0, 700, 1000])
def test_all_bounds_at_all_scales(exponent):
    half = exponent // 2
    for shape in ((1, 1), (1, 5), (4, 3), (3, 2, 2)):
        small = torch.randint(-3, 4, shape).double()
        w = small * 2.0**half * 2.0 ** (exponent - half)
        for bound in (matrix_norm, gram_iteration_norm, lambda w: gram_iteration_norm(w, 40)):
            exact = torch.linalg.matrix_norm(small, 2)
            unscaled = bound(w) * 2.0**-half * 2.0 ** (half - exponent)
            assert ((exact <= unscaled) & (unscaled <= exact * (1 + 1e-2) + 4)).all()
    small = torch.randint(-3, 4, (2, 2, 3, 2)).double()
    exact = torch.linalg.matrix_norm(images_of_units(small, 1, 1, (4, 5)), 2)
    for bound in BOUNDS:
        w = small * 2.0**half * 2.0 ** (exponent - half)
        unscaled = bound(w, 1, 1, (4, 5), 1) * 2.0**-half * 2.0 ** (half - exponent)
        assert exact <= unscaled <= 10 * exact + 4


def test_extreme_entries_side_by_side():
    w = torch.tensor([[1e300, 1e-310, 0.0], [5e-324, 1e300, 1.0]], dtype=torch.float64)
    for norm in Norm:
        assert 1e300 <= Matrices(w[None]).norms(norm) <= 1e300 * (1 + 1e-7)
    for value in (1.7e308, 8e307):
        for norm in Norm:
            assert value <= Matrices(torch.full((1, 1, 1), value, dtype=torch.float64)).norms(norm) < math.inf
    zeros = torch.zeros(2, 2, 3, dtype=torch.float64)
    for operator in (Matrices(zeros), Convolution(zeros, (5,)), TransposedConvolution(zeros, (5,), 2)):
        for norm in Norm:
            assert (operator.norms(norm) == 0).all() and (growth(operator, norm) == 0).all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_weights_that_are_not_finite_have_no_finite_bound(value, monkeypatch):
    monkeypatch.setattr("lipcert.norms.convolution.DENSE_ENTRIES", 50)  # both ways of measuring
    weight = torch.randn(2, 2, 3, dtype=torch.float64)
    weight[1, 0, 1] = value
    for norm in Norm:
        assert Matrices(weight).norms(norm).isfinite().tolist() == [True, False]
        assert Matrices(weight).norms(norm)[1] == math.inf
        for size in ((2,), (9,)):
            for operator in (Convolution(weight, size, padding=1), TransposedConvolution(weight, size)):
                assert operator.norms(norm) == growth(operator, norm) == math.inf
    assert gram_iteration_norm(weight)[1] == math.inf


def test_roots_are_rounded_up():
    """Windows side by side, all ones: the norm is the root of an integer, and exact arithmetic compares."""
    for k in range(1, 100):
        ones = torch.ones(1, 1, k, dtype=torch.float64)
        bounds = {
            "convolution": convolution_norm(ones, k, 0, (3 * k,)),
            "corollary 1": corollary1_norm(ones, k, 0, (3 * k,)),
            "transposed": TransposedConvolution(ones, (3,), k).norms(Norm.L2)[0],
            "parseval": parseval_norm(torch.ones(1, 1, k, dtype=torch.float64)) / math.sqrt(k) * (1 + 2**-51),
            "matrix": matrix_norm(ones[0]),
            "Gram": gram_iteration_norm(ones[0]),
            "growth": growth(Matrices(ones), Norm.L2)[0],
        }
        for name, bound in bounds.items():
            assert k <= Fraction(float(bound)) ** 2 <= k * (1 + Fraction(1, 10**12)), (name, k)


@pytest.mark.parametrize("scale", [2.0**-537, 2.0**-535, 2.0**-511, 1.0, 2.0**511])
def test_products_and_sums_are_rounded_up(scale):
    """Against exact arithmetic, from the smallest numbers to the largest."""
    value, factor = torch.rand(2, 2000, dtype=torch.float64) * scale
    for a, b, bound in zip(value.tolist(), factor.tolist(), times_up(value, factor).tolist(), strict=True):
        exact = Fraction(a) * Fraction(b)
        assert exact <= Fraction(bound) <= exact * (1 + Fraction(2, 10**15)) + Fraction(2) ** -1072
    roots = times_up(value.sqrt(), factor.sqrt()).tolist()
    for a, b, bound in zip(value.tolist(), factor.tolist(), roots, strict=True):
        assert Fraction(a) * Fraction(b) <= Fraction(bound) ** 2
    numbers = value.view(-1, 10) * (scale / 16)
    for line, bound in zip(numbers.tolist(), sum_up(numbers.sum(1), 10).tolist(), strict=True):
        assert sum(map(Fraction, line)) <= Fraction(bound)


def test_windows_are_those_of_a_convolution():
    """Which taps lie on which entries, against a loop over windows."""
    for n, k, s, p, d in product(range(1, 7), (1, 2, 3, 5), (1, 2, 3), (0, 1, 3), (1, 2, 3)):
        axis = Axis(n, k, s, p, d)
        if axis.slack < 0:
            continue
        seen = torch.zeros(axis.outputs, k, dtype=torch.bool)
        reached = torch.zeros(n, k, dtype=torch.bool)
        for i, t in product(range(axis.outputs), range(k)):
            y = i * s - p + t * d
            if 0 <= y < n:
                seen[i, t] = reached[y, t] = True
        assert torch.equal(axis.seen, seen) and torch.equal(axis.reached, reached)


def start(operator, dtype=torch.float64) -> Tensor:
    return normalised(torch.randn(operator.groups, math.prod(operator.domain) // operator.groups, dtype=dtype)).view(
        operator.domain
    )


def operators(draw: random.Random):
    for kind, axes in KINDS:
        for _ in range(3):
            yield random_operator(kind, axes, draw)
    yield Matrices(torch.randn(3, 4, 5, dtype=torch.float64))


def test_power_steps_come_from_below():
    for operator in operators(random.Random(1)):
        matrices = operator.weight if isinstance(operator, Matrices) else dense(operator)
        u = start(operator)
        norms = operator.norms(Norm.L2)
        first = torch.linalg.vector_norm((matrices @ u.view(operator.groups, -1, 1)), dim=(1, 2))
        torch.testing.assert_close(operator.power_step(u)[0], first)
        for _ in range(100):
            sigma, following = operator.power_step(u)
            assert (sigma <= norms * (1 + 1e-14)).all() and following.shape == u.shape == operator.domain
            lengths = (norms > 0).double()  # a map of 0, all of whose taps lie on padding, leads nowhere
            torch.testing.assert_close(following.view(operator.groups, -1).norm(dim=1), lengths)
            u = following
        assert (sigma >= 0.95 * norms).all(), operator


def test_power_steps_have_the_gradient_of_the_length():
    """By finite differences; and after the vector was written over, as an estimate does before it goes backward."""
    for operator in operators(random.Random(2)):
        u = start(operator)

        def length(weight: Tensor, operator=operator, u=u) -> Tensor:
            again = u.clone()
            sigma, following = type(operator)(weight, *list(vars(operator).values())[1:]).power_step(again)
            assert not following.requires_grad
            again.copy_(following)
            return sigma

        assert torch.autograd.gradcheck(length, operator.weight.clone().requires_grad_(), check_undefined_grad=False)


def test_operators_of_modules():
    for axes in (1, 2, 3):
        for kind, of in (("Conv", Convolution.of), ("ConvTranspose", TransposedConvolution.of)):
            more = {"output_padding": 1} if kind == "ConvTranspose" else {}
            module = getattr(torch.nn, f"{kind}{axes}d")(4, 6, 3, stride=2, padding=1, groups=2, bias=False, **more)
            operator = of(module, (5,) * axes)
            x = torch.randn(2, 4, *[5] * axes)
            assert operator.domain == x.shape[1:]
            torch.testing.assert_close(operator.apply(x), module(x))
            sigma, _ = operator.power_step(start(operator, torch.float32))
            assert sigma.shape == (2,) and sigma.requires_grad and sigma.dtype == torch.float32


def test_what_is_no_transposed_convolution():
    weight = torch.ones(2, 1, 3, 3)
    for arguments, match in (
        (((4, 4), 1, 0, 2, 1, 1), "`output_padding` is 1 with stride 1"),  # PyTorch has it, as the dilation is 2
        (((4, 4), 2, 0, 1, 1, (0, 2)), "`output_padding` is \\(0, 2\\) with stride 2"),
        (((4, 4), 2, 0, 1, 1, -1), "`output_padding` is -1"),
        (((1, 1), 1, 2), "`padding` is 2, which leaves an output of size \\(-1, -1\\)"),
        (((4, 4), (2, 2, 2)), "`stride` is \\(2, 2, 2\\)"),
        (((4,),), "`weight` has shape"),
    ):
        with pytest.raises(ValueError, match=match):
            TransposedConvolution(weight, *arguments)
