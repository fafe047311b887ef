"""What is checked of frozen networks: every bound against what really happens, each check counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import frozen_exact
import torch
from mpmath import mpf
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.frozen.arithmetic import EXACT, FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.boxes import all_boxes, worst_margins
from lipcert.frozen.error_walk import Errors, overflows, wide
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import Network
from lipcert.frozen.pairs import pair_bounds
from lipcert.frozen.rounding import Roundings, rounding

SLACK = 1 + 1e-7  # of gains that are computed in float64; torch's own derivative of hardsigmoid has 1/6 in float32
ORDERS = {Norm.L2: 2.0, Norm.LINF: math.inf, Norm.L1: 1.0}
DUALS = {Norm.L2: 2.0, Norm.LINF: 1.0, Norm.L1: math.inf}
DTYPES = {torch.float64: FLOAT64, torch.float32: FLOAT32}


def operator_norm(matrix: Tensor, norm: Norm) -> float:
    """Of (m, n), as it is computed; not a number where an entry is none."""
    top = float(matrix.abs().max()) if matrix.numel() else 0.0
    if top == 0 or not math.isfinite(top):
        return top
    if norm is Norm.L2:
        return top * float(torch.linalg.matrix_norm(matrix / top, 2))
    return top * float((matrix / top).abs().sum(1 if norm is Norm.LINF else 0).max())


def lengths(x: Tensor, order: float) -> Tensor:
    """The norm along the last axis, without overflow or underflow."""
    top = x.abs().amax(-1, keepdim=True).clamp_min(2.0**-1022)
    return torch.linalg.vector_norm(x / top, order, -1) * top[..., 0]


def jacobians(network: Network, value: int, points: Tensor) -> Tensor:
    """(P, entries of the value, entries of the image)."""
    m = math.prod(network.operations[value - 1].shape)
    x = points.repeat_interleave(m, 0).requires_grad_()
    y = network.values(x)[value].flatten(1)
    if not y.requires_grad:
        return torch.zeros(len(points), m, points[0].numel(), dtype=torch.float64)
    picked = y.gather(1, torch.arange(m).repeat(len(points))[:, None])
    return torch.autograd.grad(picked.sum(), x, materialize_grads=True)[0].reshape(len(points), m, -1)


def points(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(8, …): inside, corners, outside, on a grid where kinks are likely, and neighbours of these."""
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64)
    x[1] = x[1].round()
    x[2] = (x[2] - 0.5) * 6
    x[3] = (x[3] * 4).round() / 2 - 1
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sparse = step * (torch.rand(x.shape, generator=generator) < 0.4)
    return torch.cat((x, x + torch.cat((step[:2] * 1e-2, sparse[2:]))))


def masks(shape: tuple[int, ...], count: int, generator: torch.Generator) -> Iterator[Tensor]:
    for share in torch.rand(count, generator=generator).tolist():
        yield torch.rand(shape, generator=generator) < share


def lipschitz(network: Network, seed: int, parts: int = 3, values: int = 2) -> tuple[int, float]:
    """The constants of some values, of random parts of them, of each logit and pair: (checks made, the largest gain of
    the logits together over their constant). Nothing where there is no finite constant."""
    norm, generator = network.norm, torch.Generator().manual_seed(seed)
    walk, last = Walk(network, norm), len(network.operations)
    x = points(network.shape, generator)
    try:
        for value in range(1, last + 1):
            walk.constant(value)
    except ValueError:
        return 0, math.nan
    outputs = network.values(x)
    moved_image = lengths((x[:4] - x[4:]).flatten(1), ORDERS[norm])
    chosen = {last, *torch.randint(1, last + 1, (values,), generator=generator).tolist()}
    count, largest = 0, 0.0
    for value in chosen:
        shape = network.operations[value - 1].shape
        jacobian, y = jacobians(network, value, x), outputs[value].flatten(1)
        wanted = [None, *masks(shape, parts, generator)]
        if value == last:
            wanted += list(torch.eye(network.classes, dtype=torch.bool))[:6]
        for part in wanted:
            bound = walk.constant(value, part)
            rows = torch.ones(shape, dtype=torch.bool).flatten() if part is None else part.flatten()
            gains = [g for matrix in jacobian if (g := operator_norm(matrix[rows], norm)) < math.inf]
            gain = max(gains, default=0.0)
            assert gain <= bound * SLACK, f"value {value} moves {gain} > {bound} of {network.operations}"
            if bool(rows.any()):
                within(y[:4, rows], y[4:, rows], bound * moved_image, ORDERS[norm])
            if value == last and part is None and bound > 0:
                largest = gain / bound
            count += len(gains) + 4
    return count + pairs(walk, jacobian=jacobians(network, last, x), y=outputs[last], moved=moved_image), largest


def within(y: Tensor, other: Tensor, allowed: Tensor, order: float) -> None:
    """Nothing moves farther than that, as far as the two can be computed."""
    moved = lengths(y - other, order)
    noise = lengths(y.abs() + other.abs(), order) * 1e-12
    assert not bool((moved > allowed * SLACK + noise).any()), f"moved {moved} > {allowed}"


def pairs(walk: Walk, jacobian: Tensor, y: Tensor, moved: Tensor) -> int:
    """Each of the bounds of pairs of logits."""
    found = pair_bounds(walk)
    gains = lengths(jacobian[:, :, None] - jacobian[:, None], DUALS[walk.norm])
    differences = y[:, :, None] - y[:, None]
    change, noise = (differences[:4] - differences[4:]).abs(), 1e-12 * (y[:4].abs() + y[4:].abs()).amax(1)
    for name, matrix in found.matrices.items():
        assert not bool((gains.where(gains < math.inf, 0.0) > matrix * SLACK).any()), f"{name}: {gains} > {matrix}"
        assert not bool((change > matrix * moved.view(-1, 1, 1) * SLACK + noise.view(-1, 1, 1)).any()), name
    return gains.numel()


def boxes(network: Network, seed: int) -> int:
    """Boxes around three images, of three sizes, hold what samples and corners give, values and margins."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *network.shape, generator=generator, dtype=torch.float64)
    reach = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    reach = reach * torch.tensor([1e-9, 0.1, 2.0]).double().view(-1, *[1] * len(network.shape))
    low, high = x - reach, x + reach
    found, close = (all_boxes(network, low, high, arithmetic) for arithmetic in (FLOAT64, EXACT))
    labels = torch.randint(0, network.classes, (3,), generator=generator)
    worst, count, scale = worst_margins(network, low, high, labels, FLOAT64), 0, 1.0
    for kind in range(6):
        share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        share = share.round() if kind in (0, 1, 2) else share
        values = network.values((low + share * (high - low)).clamp(low, high))
        for value, (a, b), (c, d) in zip(values, found, close, strict=True):
            assert not bool(((value < a) | (value > b)).any()), f"a box misses a sample of {network.operations}"
            top = float(torch.maximum(c.abs(), d.abs()).max())  # later values may cancel, or overflow
            scale = max(scale, top) if math.isfinite(top) else math.inf
            noise = 1e-12 * scale
            assert not bool(((value < c - noise) | (value > d + noise)).any()), "an exact box misses a sample"
        y = values[-1]
        margins = y.gather(1, labels[:, None]) - y
        assert not bool((margins < worst - 1e-14 * margins.abs()).any()), "a margin below the worst one"
        count += len(values) + 1
    return count + boxes_in_float32(network, low, high, generator)


def boxes_in_float32(network: Network, low: Tensor, high: Tensor, generator: torch.Generator) -> int:
    """Boxes of float32 hold what float32 computes of samples and corners, up to the first value that overflows."""
    if (both := of_float32(network)) is None:
        return 0
    found, count = all_boxes(both[1], low, high, FLOAT32), 0
    for share in (torch.rand(low.shape, generator=generator, dtype=torch.float64) for _ in range(3)):
        for cut in (share, share.round()):
            x = (low + cut * (high - low)).float()
            x = x.where((x >= low) & (x <= high), ((low + high) / 2).float())
            inside = ((x >= low) & (x <= high)).flatten(1).all(1)  # float32 has no image in a box that is very small
            for number, (value, (a, b)) in enumerate(zip(both[0].values(x), found, strict=True)):
                if not bool(value.isfinite().all()):
                    break
                missed = bool(((value < a) | (value > b))[inside].any())
                assert not missed, f"float32 leaves its box at value {number} of {network.operations}"
                count += 1
    return count


def differentiable(network: Network) -> int:
    """The margins over boxes in real arithmetic have finite gradients."""
    low = torch.full((2, *network.shape), 0.25, dtype=torch.float64, requires_grad=True)
    high = torch.full_like(low, 0.75).requires_grad_()
    margins = worst_margins(network, low, high, torch.zeros(2, dtype=torch.int64), EXACT)
    if not bool(margins.isfinite().all()):
        return 0
    for gradient in torch.autograd.grad(margins.sum(), (low, high), materialize_grads=True):
        assert bool(gradient.isfinite().all())
    return 1


def of_float32(network: Network) -> tuple[Network, Network] | None:
    """(in float32, the same constants in float64); None where a constant is too large."""
    try:
        single = network.to(dtype=torch.float32)
        return single, single.to(dtype=torch.float64)
    except ValueError:
        return None


def error(computed: Tensor, exact: frozen_exact.Array) -> list[float]:
    """|computed − exact|, rounded to float64; infinite where nothing finite was computed."""
    found = []
    for c, e in zip(computed.double().flatten().tolist(), exact.reshape(-1), strict=True):
        found.append(0.0 if c == e else math.inf if not math.isfinite(c) else float(abs(mpf(c) - e)))
    return found


def below(errors: list[float], bound: Tensor, what: object) -> int:
    for e, b in zip(errors, bound.flatten().tolist(), strict=True):
        assert not b < e * (1 - 1e-12), f"error {e} > {b} of {what}"
    return len(errors)


def roundings(network: Network, seed: int, outcomes: Counter[str] | None = None) -> int:
    """The rounding bound of the logits, in both precisions, against exact values of random images and corners."""
    generator, count = torch.Generator().manual_seed(seed), 0
    images = torch.rand(2, *network.shape, generator=generator)
    images[1] = images[1].round()
    doubles = torch.rand(2, *network.shape, generator=generator, dtype=torch.float64)
    both = of_float32(network)
    runs: list[tuple[Network, Network, Tensor, Arithmetic]] = [(network, network, doubles, FLOAT64)]
    runs += [(*both, images, FLOAT32)] if both else []
    for run, same, x, arithmetic in runs:
        try:
            bound = rounding(same, Walk(same, same.norm), arithmetic)
            balls = in_balls(same, x.double(), generator, arithmetic)
        except ValueError:  # no finite Lipschitz constant
            continue
        if outcomes is not None:
            outcomes["finite" if bool(bound.isfinite().all()) else "infinite"] += 1
        margins = [balls.of_margins(torch.full((len(x),), t)) for t in range(network.classes)]
        for k, image in enumerate(x):
            computed, exact = run(image[None])[0], frozen_exact.logits(same, image)
            errors = error(computed, exact)
            count += below(errors, bound, (arithmetic, network.operations))
            count += below(errors, balls.logits[k], (arithmetic, "in a ball", network.operations))
            if not bool(computed.isfinite().all()):
                continue
            off = [mpf(c) - e for c, e in zip(computed.double().tolist(), exact.reshape(-1), strict=True)]
            for t, lost in enumerate(margins):
                apart = [float(abs(off[t] - other)) for other in off]
                count += below(apart, lost[k], (arithmetic, "of margins", network.operations))
    return count


def in_balls(network: Network, x: Tensor, generator: torch.Generator, arithmetic: Arithmetic) -> Errors:
    """Bounds of the errors of an arithmetic at images, by balls around others; the first is its own centre."""
    share = torch.rand(len(x), generator=generator, dtype=torch.float64).mul(0.5)
    share[0] = 0
    if any(operation.kind == "nearest_neighbour" for operation in network.operations):
        share[:] = 0  # away from the centre, its bounds are of margins alone
    centres = (x + wide(share, x) * (torch.rand(x.shape, generator=generator, dtype=torch.float64) - x)).clamp(0, 1)
    reach = lengths((centres - x).flatten(1), ORDERS[network.norm]) * (1 + 1e-12)
    of = Roundings(network, Walk(network, network.norm))
    return of.around(network.values(centres), reach, arithmetic)


def steps(network: Network, seed: int) -> int:
    """`rounded` and `moved` of each operation by itself, on what really comes in, in both precisions."""
    generator, count = torch.Generator().manual_seed(seed), 0
    for dtype, arithmetic in DTYPES.items():
        pair = (network, network) if dtype is torch.float64 else of_float32(network)
        if pair is None:
            continue
        x = points(network.shape, generator)[[0, 2, 3]].to(dtype)
        values = pair[0].values(x)
        for run, same in zip(pair[0].operations, pair[1].operations, strict=True):
            inputs = [values[i] for i in run.inputs]
            if not all(bool(v.isfinite().all()) for v in inputs):
                break
            computed, doubles = run.evaluate(*inputs), [v.double() for v in inputs]
            exact = frozen_exact.evaluated(same, *(frozen_exact.exact(v[0]) for v in doubles))
            size = torch.tensor([float(abs(e)) for e in exact.reshape(-1)]).double().view(1, *run.shape)
            own = same.rounded(arithmetic, size, *(v[:1].abs() for v in doubles)).expand_as(size)
            if not overflows(arithmetic, size, own, True):
                count += below(error(computed[0], exact), own, (arithmetic, run))
            count += moves(same, doubles)
    return count


def moves(operation, inputs: list[Tensor]) -> int:
    """From the first of a batch to each other one, no entry moves by more than `moved` and what rounds on the way."""
    y = operation.evaluate(*inputs)
    moved = operation.moved(*((v[1:] - v[:1]).abs() for v in inputs))
    sizes = [v.abs() for v in inputs]
    noise = operation.rounded(FLOAT64, y.abs(), *sizes).expand_as(y)
    actual = (y[1:] - y[:1]).abs()
    assert not bool((actual > moved * SLACK + noise[1:] + noise[:1]).any()), f"{actual} > {moved} of {operation}"
    return actual.numel()
