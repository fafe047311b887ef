"""What an audit is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """What an audit is asked for.

    images      how many, the first ones; None: all
    factors     multiples of a radius at which it is attacked: up to 1 with the whole suite, above 1 to see how strong
                that is
    steps       of each attack by gradients
    restarts    of each attack that is given a radius
    batch_size  images that are attacked together
    seed        of everything random
    device      where the attacks run
    """

    images: int | None
    factors: Sequence[float]
    steps: int
    restarts: int
    batch_size: int
    seed: int
    device: str

    def check(self) -> None:
        """ValueError, in one line, for what makes no sense."""
        for key in ("images", "steps", "restarts", "batch_size"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"`{key}` must be a whole number of at least 1, got {value}")
        if not abs(self.seed) < 2**48:
            raise ValueError(f"`seed` must be smaller than 2^48, got {self.seed}")
        if not all(isinstance(factor, int | float) and 0 < factor < math.inf for factor in self.factors):
            raise ValueError(f"`factors` must be positive numbers, got {list(self.factors)}")
        if not any(factor <= 1 for factor in self.factors) or len(set(self.factors)) < len(self.factors):
            raise ValueError(
                f"`factors` must be different numbers, one of them at most 1 to attack within radii, got "
                f"{list(self.factors)}"
            )

    def fixed(self) -> dict[str, Any]:
        """Those that all rows of one file were made with."""
        return {
            "factors": [float(factor) for factor in self.factors],
            "steps": self.steps,
            "restarts": self.restarts,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def check_same(self, before: Mapping[str, Any], what: str) -> None:
        """ValueError where the rows of `what` were made with other settings, {key: value}, than these."""
        for key, value in self.fixed().items():
            if before.get(key) != value:
                raise ValueError(
                    f"`{key}`: {what} was made with {key}={before.get(key)}, and can't have rows of {key}={value} "
                    "besides; give the same, or again=true to start anew"
                )
