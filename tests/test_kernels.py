"""Every backend computes the distances and gradients of the float64 reference, and that one those of the definition."""

import math
import os
import subprocess
import sys

import pytest
import torch

from lipcert.kernels import cpu, linf_bounds, lp_distance, reference

INF = math.inf
PS = [1, 2, 3.5, 8, 9.3, 33, 64, 256, 1000, INF]
SHAPES = [(1, 1, 1), (5, 3, 7), (3, 11, 33), (4, 9, 785), (2, 3, 5121), (17, 70, 100), (0, 3, 4), (3, 0, 4)]
built = {level: cpu.load(level) for level in cpu.LEVELS} if cpu.LIBRARY.exists() else {}
LEVELS = ["reference", *(level for level, kernels in built.items() if kernels)]  # then the fastest first


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Lets one set of instructions serve."""
    monkeypatch.setattr(cpu, "library", lambda: built.get(request.param))
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def data(shape, scale=1.0, dtype=torch.float32):
    b, m, n = shape
    return [torch.randn(size, dtype=dtype).mul_(scale).requires_grad_() for size in ((b, n), (m, n))]


def gradients(x, w, p, grad):
    y = lp_distance(x, w, p)
    return y, *torch.autograd.grad(y, (x, w), grad.to(y))


def close(x, w, p, gradient=1e-4, distance=1e-5):
    """Distances and gradients of x and w, finite and near those of float64."""
    grad = torch.randn(len(x), len(w))
    y, *g = gradients(x, w, p, grad)
    expected_y, *expected = gradients(x.double(), w.double(), p, grad)
    assert y.isfinite().all() and ((y - expected_y).abs() <= distance * expected_y).all()
    for ours, theirs in zip(g, expected, strict=True):
        assert ours.isfinite().all()
        assert ours.numel() == 0 or (ours - theirs).abs().max() <= gradient * theirs.abs().max()


@pytest.mark.parametrize("p", PS)
def test_it_is_the_definition(p):
    x, w = data((4, 3, 7), dtype=torch.float64)
    difference = (x[:, None] - w).abs()
    top = difference.amax(-1)
    expected = top if p == INF else top * ((difference / top[..., None]) ** p).sum(-1) ** (1 / p)
    torch.testing.assert_close(lp_distance(x, w, p), expected, rtol=1e-13, atol=0)
    if p < 100 or p == INF:
        assert torch.autograd.gradcheck(lambda x, w: lp_distance(x, w, p), (x, w))


@pytest.mark.parametrize("p", PS)
def test_every_shape(level, p):
    for shape in SHAPES:
        close(*data(shape), p)


@pytest.mark.parametrize("p", [1.5, *range(4, 20, 2), 34, 100, 128])
def test_every_way_to_a_power(level, p):
    close(*data((5, 6, 100)), p)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30, 1e38])
def test_every_size(level, p, scale):
    x, w = data((5, 6, 20), scale / 4)
    if scale < 1e38 or p >= 8:
        close(x, w, p)


@pytest.mark.parametrize("p", PS)
def test_small_gradients_and_a_few_zeros(level, p):
    x, w = data((5, 6, 40))
    grad = torch.randn(5, 6) * 1e-25
    grad[::2, ::3] = 0
    ours_theirs = zip(gradients(x, w, p, grad)[1:], gradients(x.double(), w.double(), p, grad)[1:], strict=True)
    for ours, theirs in ours_theirs:
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("p", PS)
def test_below_the_normal_numbers_nothing_is_infinite(level, p):
    x, w = data((5, 6, 20), 1e-40)
    y, gx, gw = gradients(x, w, p, torch.randn(5, 6))
    assert y.isfinite().all() and gx.isfinite().all() and gw.isfinite().all() and (y < 1e-37).all()


@pytest.mark.parametrize("p", PS)
def test_equal_rows_have_neither_distance_nor_gradient(level, p):
    x, w = (torch.ones(6, 40, requires_grad=True) for _ in range(2))
    y, gx, gw = gradients(x, w, p, torch.randn(6, 6))
    assert not y.any() and not gx.any() and not gw.any()
    rows = torch.randn(6, 40)
    close(rows.clone().requires_grad_(), rows[:3].clone().requires_grad_(), p)


@pytest.mark.parametrize("p", PS)
def test_equal_differences_share_the_gradient(level, p):
    """At p = ∞ the first of them has it all."""
    x, w = (torch.randint(-1, 2, (9, n)).float().requires_grad_() for n in (300, 300))
    close(x, w, p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_of_the_largest_is_found(level, dtype):
    backend = reference if level == "reference" else cpu
    for n in (1, 5, 129, 1024, 5000):
        x, w = (torch.randint(-3, 4, (7, n)).to(dtype) for _ in range(2))
        y, index = backend.forward(x, w, INF, True)
        largest = (x[:, None] - w).abs() == y[..., None]
        assert index.tolist() == [[row.nonzero()[0].item() for row in rows] for rows in largest]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_is_served(level, dtype):
    close(*data((5, 11, 130), dtype=dtype), INF, *((1e-14, 0) if dtype == torch.float64 else ()))


@pytest.mark.parametrize("p", [8, 33, 256, INF])
def test_only_what_is_needed(level, p):
    x, w = data((5, 6, 100))
    y, gx, gw = gradients(x, w, p, torch.ones(5, 6))
    assert torch.equal(torch.autograd.grad(lp_distance(x, w.detach(), p).sum(), x)[0], gx)
    assert torch.equal(torch.autograd.grad(lp_distance(x.detach(), w, p).sum(), w)[0], gw)
    with torch.no_grad():
        assert torch.equal(lp_distance(x, w, p), y)


@pytest.mark.parametrize("p", [8, 33, INF])
def test_strides(level, p):
    x, w = torch.randn(40, 5), torch.randn(6, 80)
    views = x.t().requires_grad_(), w[:, ::2].requires_grad_()
    y, *g = gradients(*views, p, torch.ones(1).expand(5, 6))
    copies = [view.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for view in views]
    for ours, theirs in zip((y, *g), gradients(*copies, p, torch.ones(5, 6)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_what_is_no_number_does_not_hide(level, p, bad):
    x, w = data((5, 6, 100))
    with torch.no_grad():
        x[1, 2] = w[3, 4] = bad
    y, gx, gw = gradients(x, w, p, torch.ones(5, 6))
    finite = torch.ones(5, 6, dtype=torch.bool)
    finite[1] = finite[:, 3] = False
    assert torch.equal(y.isfinite(), finite)
    if 1 < p < INF and math.isnan(bad):
        assert not gx.isfinite().all(1).any() and not gw.isfinite().all(1).any()


@pytest.mark.parametrize("level", LEVELS[1:], indirect=True)
@pytest.mark.parametrize("p", PS)
def test_threads_change_nothing(level, p):
    x, w = data((33, 70, 300))
    grad, threads, results = torch.randn(33, 70), torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(gradients(x, w, p, grad))
    torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_are_the_range(level, dtype):
    for b, m, n in SHAPES:
        x, w = torch.randn(b, n, dtype=dtype), torch.randn(m, n, dtype=dtype)
        low, high = x - torch.rand_like(x), x + torch.rand_like(x) * torch.randint(0, 2, x.shape)
        lower, upper = linf_bounds(low, high, w)
        below, above = low[:, None] - w, high[:, None] - w
        assert torch.equal(upper, torch.maximum(above, -below).amax(-1))
        assert torch.equal(lower, torch.maximum(below, -above).amax(-1).clamp(min=0))
        for t in torch.rand(20, b, n, dtype=dtype):
            y = lp_distance((low + t * (high - low)).clamp(low, high), w, INF)
            assert (lower <= y).all() and (y <= upper).all()


@pytest.mark.parametrize("where", range(3))
def test_bounds_of_what_is_no_number(level, where):
    args = [torch.zeros(3, 20, dtype=torch.float64) for _ in range(3)]
    args[where][1, 2] = math.nan
    for bound in linf_bounds(*args):
        lines = bound.isnan() if where < 2 else bound.isnan().T
        assert lines[1].all() and not lines[::2].any()


def test_there_is_no_second_derivative(level):
    x, w = data((3, 4, 5))
    (gx,) = torch.autograd.grad(lp_distance(x, w, 8).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(gx.sum(), x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks at it
@pytest.mark.parametrize("p", [8.0, INF])
@pytest.mark.parametrize("indexed", [False, True])
def test_the_operators_keep_torchs_rules(p, indexed):
    if indexed == (p == INF):
        torch.library.opcheck(torch.ops.lipcert.lp_distance, (*data((3, 4, 5)), p, indexed))
        x, w = (tensor.detach() for tensor in data((3, 4, 5)))
        y, index = torch.ops.lipcert.lp_distance(x, w, p, indexed)
        torch.library.opcheck(
            torch.ops.lipcert.lp_distance_backward, (torch.ones_like(y), x, w, y, index, p, True, False)
        )


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_compiles(compiler):
    compiled = torch.compile(lambda x, w, p: 2 * lp_distance(x, w, p) ** 2, fullgraph=True, backend=compiler)
    for p in (8.0, INF):
        x, w = data((3, 4, 5))
        for ours, theirs in zip(
            torch.autograd.grad(compiled(x, w, p).sum(), (x, w)),
            torch.autograd.grad((2 * lp_distance(x, w, p) ** 2).sum(), (x, w)),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs)


PEAK = """
import resource, sys, torch
from lipcert.kernels import lp_distance
b, m, n, p = *map(int, sys.argv[1:4]), float(sys.argv[4])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def step(b, m, n):
    x, w = torch.rand(b, n, requires_grad=True), torch.rand(m, n, requires_grad=True)
    y = lp_distance(x, w, p)
    y.backward(torch.ones_like(y))
    return 4 * (2 * x.numel() + 2 * w.numel() + 2 * y.numel())
step(2, 2, 2)
before = peak()
needed = step(b, m, n)
print((peak() - before) / needed)
"""


SLOWEST = pytest.param("reference", (8, 4096, 4096), 8, marks=pytest.mark.slow)
BIG = pytest.param(LEVELS[:2][-1], (512, 5120, 5120), INF, marks=pytest.mark.slow)


@pytest.mark.parametrize("level, shape, p", [(LEVELS[:2][-1], (8, 4096, 4096), 8), SLOWEST, BIG])
def test_no_differences_are_kept(level, shape, p):
    """Peak memory of a step: at most 1.2 times inputs, outputs and gradients."""
    command = [sys.executable, "-c", PEAK, *map(str, shape), str(p)]
    environ = {**os.environ, "LIPCERT_CPU_KERNEL": level}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.2


@pytest.fixture
def unloaded():
    cpu.library.cache_clear()
    yield
    cpu.library.cache_clear()


def test_without_a_library_one_warning(unloaded, monkeypatch, tmp_path):
    monkeypatch.delenv("LIPCERT_CPU_KERNEL", raising=False)
    monkeypatch.setattr(cpu, "LIBRARY", tmp_path / "missing.so")
    with pytest.warns(UserWarning, match="^[^\n]*install a C compiler[^\n]*$") as told:
        for _ in range(3):
            close(*data((2, 3, 4)), 8)
    assert len(told) == 1


def test_a_broken_library_is_an_error(unloaded, monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_text("no library")
    monkeypatch.setattr(cpu, "LIBRARY", tmp_path / "broken.so")
    for _ in range(2):
        with pytest.raises(ImportError, match="broken.so cannot be loaded.*remove it, or install"):
            lp_distance(torch.zeros(1, 1), torch.zeros(1, 1), 8)


@pytest.mark.skipif(not built, reason="no compiler was there")
@pytest.mark.parametrize("wanted", [*LEVELS, "sse9"])
def test_the_environment_chooses(unloaded, monkeypatch, wanted):
    monkeypatch.setenv("LIPCERT_CPU_KERNEL", wanted)
    if wanted == "sse9":
        with pytest.raises(ValueError, match="`LIPCERT_CPU_KERNEL` must be one of .*, got 'sse9'"):
            cpu.library()
    else:
        assert (cpu.library() is None) == (wanted == "reference")


ERRORS = [
    ((3, 4), (5, 6), 8, "`x` and `w` must be .*, got \\(3, 4\\) and \\(5, 6\\)"),
    ((3, 0), (5, 0), 8, "n >= 1"),
    ((3,), (5, 3), 8, "got \\(3,\\)"),
    ((3, 4), (5, 4), 0.5, "`p` must lie in \\[1, inf\\], got 0.5"),
    ((3, 4), (5, 4), math.nan, "`p` must lie in"),
]


@pytest.mark.parametrize("x, w, p, message", ERRORS)
def test_errors(x, w, p, message):
    with pytest.raises(ValueError, match=message):
        lp_distance(torch.zeros(x), torch.zeros(w), p)


def test_errors_of_type_and_box():
    x, w = torch.zeros(3, 4), torch.zeros(5, 4)
    for a, b in ((x.double(), w), (x.half(), w.half())):
        with pytest.raises(ValueError, match="both float32 or both float64"):
            lp_distance(a, b, 8)
    with pytest.raises(ValueError, match="`low` and `high` must have one shape"):
        linf_bounds(x, x[:2], w)
