"""The Triton kernels against the reference in float64: small shapes in Triton's interpreter on a CPU, and on a device.

None of these has run on a device yet: no GPU was at hand when they were written.
"""

import math
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from lipcert.kernels import linf_bounds, lp_distance, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
WITH_TRITON = pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")

POWERS = [1.0, 1.5, 2.0, 8.0, 9.3, 16.0, 33.0, 100.0, 256.0, 1000.0, 1e40, math.inf]
KERNELS = [8.0, 33.0, 256.0, math.inf]  # a power of each kind
SMALL = (5, 7, 11)
SHAPES = [(1, 1, 1), (2, 3, 70), (33, 34, 2), (5, 2, 3)] + [(130, 10, 5120), (300, 513, 77)] * (not INTERPRETED)


@WITH_TRITON
@pytest.mark.slow
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", __file__, "-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    numpy_says = ["-W", "ignore::RuntimeWarning"]  # of infinities that the kernels know how to deal with
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command + numpy_says, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_triton_is_loaded_only_when_needed():
    code = "import sys, lipcert.kernels; sys.exit('lipcert.kernels.gpu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.fixture
def kernels():
    return import_module("lipcert.kernels.gpu")


@pytest.fixture
def device() -> str:
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def real_device(device) -> str:
    if INTERPRETED:
        pytest.skip("for a device only")
    return device


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def sample(shape, device, data="plain") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (B, n), w (m, n) and a gradient (B, m)."""
    B, m, n = shape
    x, w, grad = (torch.randn(size, device=device) for size in ((B, n), (m, n), (B, m)))
    if data == "ties":
        x, w = x.round(), w.round()
        w[0], w[-1] = x[0], x[-1] + 1  # equal rows, and differences that are all the same
    elif data == "uneven":
        x[0], w[0] = x[0] * 1e20, w[0] * 1e-20
        w[-1] = 0
    scale = {"huge": 1e30, "tiny": 1e-30}.get(data, 1.0)
    return x * scale, w * scale, grad


def assert_near(kernels, x, w, grad, p) -> None:
    """Distances within 1e-5, gradients within 1e-4 of their largest entries."""
    y, index = kernels.forward(x, w, p, p == math.inf)
    wanted, first = reference.forward(x.double(), w.double(), p, p == math.inf)
    assert torch.equal(index, first)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=0)
    got = kernels.backward(grad, x, w, y, index, p, True, True)
    gradients = reference.backward(grad.double(), x.double(), w.double(), wanted, first, p, True, True)
    for some, exact in zip(got, gradients, strict=True):
        torch.testing.assert_close(some.double(), exact, rtol=0, atol=1e-4 * exact.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("p", POWERS)
def test_distances_and_gradients(kernels, device, p):
    assert_near(kernels, *sample(SMALL, device), p)


@pytest.mark.gpu
@pytest.mark.parametrize("p", KERNELS)
@pytest.mark.parametrize("data", ["huge", "tiny", "uneven", "ties"])
def test_data_of_any_size(kernels, device, p, data):
    assert_near(kernels, *sample(SMALL, device, data), p)


@pytest.mark.gpu
@pytest.mark.parametrize("p", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(kernels, device, p, shape):
    assert_near(kernels, *sample(shape, device), p)


@pytest.mark.gpu
@pytest.mark.parametrize("p", [8.0, 33.0, math.inf])
def test_the_wide_tile(kernels, device, p, monkeypatch):
    monkeypatch.setattr(import_module("lipcert.kernels.gpu_tiles"), "ENOUGH", 1)
    assert_near(kernels, *sample(SMALL, device), p)


@pytest.mark.gpu
@pytest.mark.parametrize("p", KERNELS)
def test_without_atomics(kernels, device, deterministic, p):
    x, w, grad = sample((2, 3, 5), device, "ties")
    assert_near(kernels, x, w, grad, p)
    y, index = kernels.forward(x, w, p, p == math.inf)
    gx, gw = kernels.backward(grad, x, w, y, index, p, True, True)
    for needs in ((True, False), (False, True), (True, True)):
        some, others = kernels.backward(grad, x, w, y, index, p, *needs)
        assert torch.equal(some, gx if needs[0] else gx.new_empty(0))
        assert torch.equal(others, gw if needs[1] else gw.new_empty(0))


@pytest.mark.gpu
@pytest.mark.parametrize("p", POWERS)
def test_equal_rows_and_the_smallest_numbers(kernels, device, p):
    x, _, grad = sample((3, 3, 7), device)
    for a, b in ((x, x.clone()), (x * 1e-40, x.flip(0) * 1e-40)):
        y, index = kernels.forward(a, b, p, p == math.inf)
        gradients = kernels.backward(grad, a, b, y, index, p, True, True)
        assert y.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
        if torch.equal(a, b):
            assert (y.diag() == 0).all()
            for gradient in kernels.backward(grad * torch.eye(3, device=device), a, b, y, index, p, True, True):
                assert (gradient == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("p", [8.0, 9.3, 33.0, 256.0, math.inf])
def test_what_is_not_a_number_stays_none(kernels, device, p):
    x, w, _ = sample(SMALL, device)
    x[1, 3] = math.nan
    y, _ = kernels.forward(x, w, p, False)
    assert y[1].isnan().all()
    assert INTERPRETED or y[[0, 2, 3, 4]].isfinite().all()  # the interpreter's minima are not Triton's
    assert kernels.linf_bounds(x, x, w)[0][1].isnan().all() and kernels.linf_bounds(x, x, w)[1][1].isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maxima_and_ranges_are_exact(kernels, device, dtype):
    for data in ("plain", "ties"):
        x, w, radius = (t.to(dtype) for t in sample((3, 4, 40), device, data))
        low, high = x - radius[:, :1].abs(), x + radius[:, 1:2].abs()
        for got, exact in (
            (kernels.forward(x, w, math.inf, True), reference.forward(x, w, math.inf, True)),
            (kernels.linf_bounds(low, high, w), reference.linf_bounds(low, high, w)),
        ):
            assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))


@pytest.mark.gpu
def test_float64_with_a_finite_p_is_the_reference(kernels, device):
    x, w, grad = (t.double() for t in sample(SMALL, device))
    y, index = kernels.forward(x, w, 3.0, False)
    assert torch.equal(y, reference.forward(x, w, 3.0, False)[0])
    for a, b in zip(*(k.backward(grad, x, w, y, index, 3.0, True, True) for k in (kernels, reference)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("p", [8.0, 9.3, 33.0, 128.0, 1000.0])
def test_slopes_of_every_size(kernels, device, p):
    """Of ‖(1, r)‖_p in r, where rᵖ goes from 0.7 to 2⁻¹⁶."""
    bits = torch.linspace(0.5, 16, 12, device=device)
    x = torch.stack([torch.ones_like(bits), torch.exp2(-bits / p)], 1)
    w, grad = torch.zeros(1, 2, device=device), torch.ones(len(x), 1, device=device)
    y, index = kernels.forward(x, w, p, False)
    slopes = kernels.backward(grad, x, w, y, index, p, True, False)[0][:, 1].double()
    exact = (x[:, 1].double() / x.double().norm(p, dim=1)) ** (p - 1)
    assert ((slopes - exact).abs() <= 2e-4 * (exact + (2.0**-14 if 9 <= p < 128 else 0))).all()


@WITH_TRITON
@pytest.mark.parametrize("p", [9.0, 12.0, 15.9, 16.0, 20.0, 31.9, 32.0, 50.0, 127.9])
def test_the_polynomial_for_the_logarithm(p):
    powers = import_module("lipcert.kernels.gpu_powers")
    r = torch.linspace(0, 1, 100001)
    for e in (p, p - 1):
        logarithm = torch.zeros_like(r)
        for c in powers.logarithm(e, p):
            logarithm = logarithm * (1 - r) + c
        power = (logarithm * (1 - r)).double().exp2()
        assert ((power - r.double() ** e).abs() <= 1e-4 * (r.double() ** p + 2.0**-14)).all()


@pytest.mark.slow
@WITH_TRITON
@pytest.mark.parametrize("shape", [(512, 640, 64), (5, 7, 37), (1, 1, 1)], ids=str)
def test_every_kernel_compiles_for_an_h200(kernels, monkeypatch, shape):
    """Without one: all but the launch."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    class Pretended:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)

    run, compiled = JITFunction.run, set()

    def compile_only(self, *args, **options):
        run(self, *args, **options | {"warmup": True})
        compiled.add(self.fn.__name__)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", Pretended())
    x, w, grad = sample(shape, "cpu")
    for p in (1.0, 1.5, 8.0, 9.3, 16.0, 33.0, 256.0):
        y, index = kernels.forward(x, w, p, False)
        for needs in ((True, True), (True, False), (False, True)):
            kernels.backward(grad, x, w, y, index, p, *needs)
    for dtype in (x.dtype, torch.float64):
        kernels.forward(x.to(dtype), w.to(dtype), math.inf, True)
        kernels.linf_bounds(x.to(dtype), x.to(dtype), w.to(dtype))
    assert compiled == {"power_sums", "maxima", "ranges", "_slopes", "_extent", "_near_sums", "_near_slopes"}


@pytest.mark.gpu
@pytest.mark.parametrize("p", KERNELS)
def test_the_layer_of_5120_units(real_device, p):
    """Against the reference for some rows; and in the memory of what it is given and returns, and a fifth."""
    x, w, grad = sample((512, 5120, 5120), real_device)
    x.requires_grad_(), w.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = lp_distance(x, w, p)
    gx, gw = torch.autograd.grad(y, (x, w), grad)
    entries = 2 * x.numel() + 2 * w.numel() + (3 if p == math.inf else 2) * y.numel()
    held = 4 * (x.numel() + w.numel() + y.numel())
    assert torch.cuda.max_memory_allocated() - before + held <= 1.2 * 4 * entries
    x, w, grad = x.detach().double(), w.detach().double(), grad.double()
    for some, units in ((slice(0, 4), slice(None)), (slice(None), slice(0, 4))):
        wanted, index = reference.forward(x[some], w[units], p, p == math.inf)
        torch.testing.assert_close(y[some, units].double(), wanted, rtol=1e-5, atol=0)
        to_x, to_w = reference.backward(grad[some, units], x[some], w[units], wanted, index, p, True, True)
        exact, got = (to_x, gx[some]) if units == slice(None) else (to_w, gw[units])
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-4 * exact.abs().max().item())


@pytest.mark.gpu
@pytest.mark.parametrize("p", KERNELS)
def test_the_same_bits_twice(real_device, deterministic, p):
    x, w, grad = sample((300, 513, 77), real_device, "ties")
    runs = []
    for _ in range(3):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = lp_distance(a, b, p)
        runs.append((y.detach(), *torch.autograd.grad(y, (a, b), grad)))
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


@pytest.mark.gpu
def test_cuda_tensors_come_here(real_device, kernels, monkeypatch):
    x, w, _ = sample(SMALL, real_device)
    came = []
    for name in ("forward", "linf_bounds"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, real=real: came.append(name) or real(*a))
    lp_distance(x, w, 8.0)
    linf_bounds(x, x, w)
    assert came == ["forward", "linf_bounds"]
