"""What an attack is tried at: a radius for all images, or a multiple of each image's own certified radius."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lipcert import configuration
from lipcert.contracts import AttackRow


class Tried(NamedTuple):
    """Rows of one attack and one of these belong together.

    eps     the radius; None where each image has its own, and where the attack looks for the smallest distance
    factor  by which each image's own certified radius is multiplied; None where it is not
    """

    eps: float | None = None
    factor: float | None = None

    @property
    def key(self) -> str:
        """How it is written as a key of JSON, and shown."""
        if self.factor is not None:
            return f"{self.factor!r}*certified"
        return "null" if self.eps is None else repr(float(self.eps))

    @classmethod
    def of(cls, row: AttackRow) -> Tried:
        """What the attack of a row was tried at."""
        return cls(row.eps) if row.factor is None else cls(None, row.factor)


def read(eps: float | str | Sequence[float | str]) -> list[Tried]:
    """Radii as they are configured: numbers, `certified`, and `1.05*certified`, one or a list of them.

    Raises ValueError for anything else, and for what comes twice.
    """
    given = [eps] if isinstance(eps, int | float | str) else list(eps)
    fixed = configuration.radii([each for each in given if not isinstance(each, str)], "attack.eps")
    factors = [_factor(each) for each in given if isinstance(each, str)]
    if len(set(factors)) < len(factors):
        raise ValueError(f"`attack.eps` names a radius twice: {given}")
    return [*map(Tried, fixed), *(Tried(None, factor) for factor in factors)]


def without_words(attack: dict[str, Any]) -> dict[str, Any]:
    """The configuration of an attack with nothing but numbers in its `eps`, which is all that the attack takes."""
    eps = attack.get("eps")
    if not isinstance(eps, str | list):
        return attack
    return attack | {"eps": [] if isinstance(eps, str) else [each for each in eps if not isinstance(each, str)]}


def _factor(word: str) -> float:
    """The factor in a multiple of the certified radius."""
    found = re.fullmatch(r"(?:([0-9.eE+-]+)\s*\*\s*)?certified", word.strip())
    try:
        factor = float(found[1] or 1) if found else 0.0
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ValueError(f"`attack.eps`: got {word!r}; give radii, or certified, or a multiple such as 1.05*certified")
    return factor
