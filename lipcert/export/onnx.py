"""A frozen network as an ONNX file, in float32: written from the list of operations itself, one after the other.

Every kind of operation can be written (see `WRITERS`). No exporter of torch takes part, as these drop attributes
without a word. Other programs may compute differently: what is certified of float32 is said in the radii's file alone.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from lipcert.export.onnx_distances import DISTANCES
from lipcert.export.onnx_graph import Graph, Writer, package
from lipcert.export.onnx_linear import LINEAR
from lipcert.export.onnx_moves import MOVES
from lipcert.export.onnx_pointwise import POINTWISE
from lipcert.files import write_atomic
from lipcert.frozen.network import Network

OPSET, IR_VERSION = 18, 8  # which onnxruntime reads from 1.14 on
INPUT, OUTPUT = "image", "logits"
MOST_BYTES = (1 << 31) - 1  # of a protocol buffer
ARITHMETIC = "logits are of float32; certified only where the radii file says so"
WRITERS: dict[str, Writer] = {**LINEAR, **POINTWISE, **MOVES, **DISTANCES}


def write(network: Network, path: str | Path) -> None:
    """Writes a network to `path` as ONNX: "image" (batch, *shape) in [0, 1] to "logits" (batch, classes).

    Constants are rounded to float32, as those of `frozen.deployed.Deployed` are.

    Raises ValueError where the package onnx is missing, a constant or a parameter has no place in float32, or the file
    would have more than 2 GiB.
    """
    content = model(network)
    size = content.ByteSize()
    if size > MOST_BYTES:
        raise ValueError(
            f"the network takes {size} bytes as ONNX, which holds at most {MOST_BYTES}: use `format=folder`"
        )
    write_atomic(path, content.SerializeToString(deterministic=True))


def model(network: Network):
    """The same as a ModelProto of the package onnx."""
    onnx = package()
    helper, single = onnx.helper, onnx.TensorProto.FLOAT
    try:
        rounded = network.to(dtype=torch.float32)
    except ValueError as error:
        raise ValueError(f"{error} in float32, so that the network cannot be written as ONNX") from None
    graph = Graph(network.shape)
    values = [INPUT]
    for number, operation in enumerate(rounded.operations, 1):
        graph.begin(number, operation)
        values.append(WRITERS[operation.kind](graph, operation, *(values[i] for i in operation.inputs)))
    graph.nodes.append(helper.make_node("Identity", [values[-1]], [OUTPUT]))
    inputs = [helper.make_tensor_value_info(INPUT, single, ["batch", *network.shape])]
    outputs = [helper.make_tensor_value_info(OUTPUT, single, ["batch", network.classes])]
    content = helper.make_model(
        helper.make_graph(graph.nodes, "network", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lipcert",
        producer_version=version("lipcert"),
    )
    helper.set_model_props(
        content, {"lipcert": version("lipcert"), "norm": network.norm.value, "arithmetic": ARITHMETIC}
    )
    return content
