"""A frozen network as plain source for PyTorch: it needs neither lipcert nor pickle, and can be read.

Nothing that a file names is pasted into the source: names become words of a to z, digits and underscores, numbers are
written as Python writes them, and all else comes from tables. In float64 on the CPU it computes the frozen network's
logits bit by bit.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

from lipcert.export import source_functions
from lipcert.export.source_layout import assigned
from lipcert.export.source_names import Names, label, variables
from lipcert.export.source_statements import Call, statement
from lipcert.files import write_atomic
from lipcert.frozen import file
from lipcert.frozen.network import Network

SOURCE = "network.py"
OWN = {name: f for name, f in inspect.getmembers(source_functions, inspect.isfunction)}

TEXT = '''"""A network that lipcert {version} has written. It needs PyTorch and safetensors.

    network = load("FOLDER")  # in float32; load("FOLDER", torch.float64) has all digits
    logits = network(images)  # from {images} in [0, 1] to {logits}

In float64 on a CPU these are, bit by bit, the logits of the network that lipcert has
certified in the norm {norm}. Of float32, certified is only what the radii's file says.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
{functional}{functions}
# The name, the shape and the type of each constant in {tensors}.
CONSTANTS = {{{constants}}}


class Network(nn.Module):
    """From images {images} in [0, 1] to logits {logits}."""

    def __init__(self):
        super().__init__()
        for name, (_, shape, dtype) in CONSTANTS.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype))

    def forward(self, {image}):
{forward}        return {result}


def load(folder, dtype=torch.float32):
    """The network in `dtype`, with the constants of {tensors}."""
    network = Network().to(dtype)
    stored = load_file(Path(folder) / "{tensors}")
    constants = {{name: stored[key] for name, (key, _, _) in CONSTANTS.items()}}
    network.load_state_dict(constants)
    return network.eval()
'''


def write(network: Network, folder: str | Path) -> None:
    """Writes `network.py` into a folder, and the frozen network's own files, whose constants it loads.

    Raises ValueError where the network is too large for these.
    """
    file.save(network, Path(folder))
    write_atomic(Path(folder) / SOURCE, source(network))


def source(network: Network) -> str:
    """The text of `network.py`."""
    buffers, constants = Names(), ""
    names = variables(network, OWN)
    forward, called = "", set()
    for number, operation in enumerate(network.operations, 1):
        own = {}
        for key, value in operation.constants().items():
            name = buffers.new(f"{label(operation.name, operation.kind)}_{key}", number)
            own[key] = f"self.{name}"
            dtype = "torch.float32" if value.is_floating_point() else str(file.dtype_of(type(operation), key))
            entry = (f'"{number}.{key}"', repr(tuple(value.shape)), dtype)
            constants += f'    "{name}": ({", ".join(entry)}),\n'
        right = statement(operation, own, [names[i] for i in operation.inputs])
        if isinstance(right, Call):
            called.add(right.function)
        forward += assigned(names[number], right, 8)
    functions = "".join(f"\n\n{inspect.getsource(OWN[name])}" for name in sorted(called & set(OWN)))
    functional = "from torch.nn import functional as F\n" if "F." in functions + forward else ""
    batch = ", ".join(map(str, ("B", *network.shape)))
    return TEXT.format(
        version=version("lipcert"),
        images=f"({batch})",
        logits=f"(B, {network.classes})",
        norm=network.norm.value,
        functional=functional,
        functions=f"{functions}\n" if functions else "",
        tensors=file.TENSORS,
        constants=f"\n{constants}" if constants else "",
        image=names[0],
        forward=forward,
        result=names[-1],
    )
