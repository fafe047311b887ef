"""Ramps: pure functions of progress. `ramp(epoch, epochs)` takes the finished epochs, a float, and their total."""

from __future__ import annotations

import math


class Ramp:
    """A part of a schedule. `drives` says what it sets:

    "optimizer.lr" (or another key of the parameter groups), to its configured value times the ramp's;
    "loss.NAME", the attribute NAME of the loss;
    "model.NAME", the attribute NAME of every layer that has it, except torch's own layers.
    """

    def __init__(self, drives: str):
        owner, _, name = drives.partition(".")
        if owner not in ("optimizer", "loss", "model") or not name:
            raise ValueError(f"`drives` must be optimizer.KEY, loss.NAME or model.NAME, got {drives!r}")
        self.owner, self.name = owner, name

    def __call__(self, epoch: float, epochs: float) -> float:
        raise NotImplementedError


class Constant(Ramp):
    def __init__(self, drives: str, value: float):
        super().__init__(drives)
        self.value = value

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.value


class Step(Ramp):
    """`before` until the fraction `at` of training is done, `after` from then on."""

    def __init__(self, drives: str, at: float, before: float = 0.0, after: float = 1.0):
        super().__init__(drives)
        if not 0 <= at <= 1:
            raise ValueError(f"`schedule...at` is a fraction of training in [0, 1], got {at}")
        self.at, self.before, self.after = at, before, after

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.before if epoch < self.at * epochs else self.after


class Linear(Ramp):
    """Linear from `start` to `end` over the first `over`, a fraction, of training; then `end`."""

    def __init__(self, drives: str, start: float, end: float, over: float = 1.0):
        super().__init__(drives)
        self.start, self.end, self.over = start, end, over

    def __call__(self, epoch: float, epochs: float) -> float:
        done = min(1.0, epoch / (self.over * epochs)) if epochs and self.over else 1.0
        return self.start + (self.end - self.start) * done


class Cosine(Ramp):
    """A linear rise from 0 to `start` over the first `warmup` of training, `start` until `hold`, then half a cosine to
    `end`. Both are fractions of training.

    At the fraction `restart_at`, which then takes the place of the end of training, a second half cosine leads from
    `restart_value` to `end`: the strict phase of a soft-to-strict run.
    """

    def __init__(
        self,
        drives: str,
        start: float = 1.0,
        end: float = 0.0,
        warmup: float = 0.0,
        hold: float = 0.0,
        restart_at: float | None = None,
        restart_value: float = 1.0,
    ):
        super().__init__(drives)
        if not 0 <= warmup <= 1 or not 0 <= hold <= 1:
            raise ValueError(f"`schedule...warmup` and `hold` are fractions of training, got {warmup} and {hold}")
        self.start, self.end, self.warmup, self.hold = start, end, warmup, max(hold, warmup)
        self.restart_at, self.restart_value = restart_at, restart_value

    def __call__(self, epoch: float, epochs: float) -> float:
        t = min(1.0, epoch / epochs) if epochs else 1.0
        if self.restart_at is not None:
            if t >= self.restart_at:
                return self._fall((t - self.restart_at) / max(1 - self.restart_at, 1e-9), self.restart_value)
            t /= self.restart_at
        if t < self.warmup:
            return self.start * t / self.warmup
        return self._fall(max(t - self.hold, 0.0) / max(1 - self.hold, 1e-9), self.start)

    def _fall(self, t: float, start: float) -> float:
        return self.end + (start - self.end) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


class Exponential(Ramp):
    """`start` until the fraction `begin` of training, from there exponential to `end` at the fraction `finish`, and
    `after` (null: `end`) from then on. It is for the p of l_inf-distance nets: 8 to 1000, then inf.

    `even` rounds to even numbers, at which distances are computed two to three times faster.
    """

    def __init__(
        self,
        drives: str,
        start: float,
        end: float,
        begin: float = 0.0,
        finish: float = 1.0,
        after: float | None = None,
        even: bool = False,
    ):
        super().__init__(drives)
        if not (start > 0 and end > 0):
            raise ValueError(f"`schedule...start` and `schedule...end` must be positive, got {start} and {end}")
        if not 0 <= begin <= finish <= 1:
            raise ValueError(f"`schedule...begin` and `finish` are fractions of training, got {begin} and {finish}")
        self.start, self.end, self.begin, self.finish = start, end, begin, finish
        self.after, self.even = end if after is None else after, even

    def __call__(self, epoch: float, epochs: float) -> float:
        done = epoch / epochs if epochs else 1.0
        if done < self.begin:
            return self.start
        if done >= self.finish:
            return self.after
        value = self.start * (self.end / self.start) ** ((done - self.begin) / (self.finish - self.begin))
        return 2.0 * round(value / 2) if self.even else value


class Milestones(Ramp):
    """1, multiplied by `factor` at each of `epochs_at`, which are numbers of epochs."""

    def __init__(self, drives: str, epochs_at: list[float], factor: float = 0.1):
        super().__init__(drives)
        self.epochs_at, self.factor = epochs_at, factor

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.factor ** sum(epoch >= at for at in self.epochs_at)
