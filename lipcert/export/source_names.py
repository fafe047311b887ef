"""Names of Python for what a network's list names otherwise: they hold letters a to z, digits and underscores alone."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Collection

from torch import nn

from lipcert.frozen.network import Network

LONGEST = 28  # letters of a name
TAKEN = {"self", "x", "F", "nn", "torch", "Path", "load_file", "load", "Network", "CONSTANTS", *dir(nn.Module)}


class Names:
    """Names that are not taken yet."""

    def __init__(self, taken: Collection[str] = ()):
        self.taken = {*TAKEN, *taken, *keyword.kwlist, *dir(builtins)}

    def new(self, wanted: str, number: int) -> str:
        """`wanted` if that is free, else with the number of its operation behind."""
        name = wanted if wanted not in self.taken else f"{wanted}_{number}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def label(name: str, kind: str) -> str:
    """A name of Python that reminds of a module's name; its kind where nothing of that is left."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if len(words) > LONGEST:  # the end says more than the beginning
        words = words[-LONGEST:].partition("_")[2] or words[-LONGEST:]
    return words if words[:1].isalpha() else f"{kind}_{words}".rstrip("_")


def variables(network: Network, taken: Collection[str]) -> list[str]:
    """The variable of each value, the image first. It is `x` where the next operation is the only one that reads it."""
    readers: list[list[int]] = [[] for _ in range(len(network.operations) + 1)]
    for number, operation in enumerate(network.operations, 1):
        for value in operation.inputs:
            readers[value].append(number)
    names, found = Names(taken), []
    for value, seen in enumerate(readers):
        if set(seen) <= {value + 1}:
            found.append("x")
        elif value:
            operation = network.operations[value - 1]
            found.append(names.new(label(operation.name, operation.kind), value))
        else:
            found.append(names.new("image", 0))
    return found
