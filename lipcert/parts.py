"""What a configuration that somebody else wrote may name: the parts that conf/ names, and a few that they may contain.

The list is closed, and each name is complete: it is compared as text, before anything is imported.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

# Parts of parts, which no file of conf/ needs to name, and optimizers of torch.
_FURTHER = {
    "lipcert.datasets.augmentation": ("CenterCrop", "Cutout", "HorizontalFlip", "RandomCrop"),
    "lipcert.schedules": ("Constant", "Cosine", "Exponential", "Linear", "Milestones", "Schedule", "Step"),
    "torch.optim": ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD"),
}
_TARGET = re.compile(r"^[\s-]*_target_:\s*(\S+)", re.MULTILINE)


@cache
def parts() -> frozenset[str]:
    """The full names of all parts, as in `lipcert.models.l2nnn.L2NNN`."""
    further = {f"{module}.{name}" for module, names in _FURTHER.items() for name in names}
    return frozenset(further.union(*map(_targets, (files("lipcert.conf"),))))


def is_optimizer(name: str) -> bool:
    """Whether a part is an optimizer: it alone is configured before its parameters are known, by `_partial_`."""
    return name.startswith(("torch.optim.", "lipcert.optimizers."))


def _targets(folder: Traversable) -> set[str]:
    found: set[str] = set()
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _targets(entry)
        elif entry.name.endswith(".yaml"):
            found |= set(_TARGET.findall(entry.read_text(encoding="utf-8")))
    return found
