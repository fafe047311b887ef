"""A network as ONNX: onnxruntime's logits lie within the error that is stated for float32, and nothing is left out."""

import math
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from frozen_builder import Builder
from frozen_cases import KINDS, one_operation
from torch import Tensor

from lipcert.export import onnx as export
from lipcert.export import onnx_distances
from lipcert.export.onnx_pointwise import FUNCTIONS
from lipcert.frozen.arithmetic import FLOAT32
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import Network
from lipcert.frozen.ops import OPERATIONS
from lipcert.frozen.ops import functions as frozen


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def run(runtime: ModuleType, network: Network, x: Tensor, changed: float = 0.0, fused: bool = False) -> Tensor:
    """onnxruntime's logits; for controls, with constants that are larger by a share."""
    model = export.model(network)
    for constant in model.graph.initializer if changed else ():
        if constant.data_type == 1:
            constant.raw_data = (np.frombuffer(constant.raw_data, np.float32) * np.float32(1 + changed)).tobytes()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": x.float().numpy()})[0]).double()


def images(network: Network, seed: int = 0) -> Tensor:
    """Of float32: inside, corners, and near 0."""
    x = torch.rand((6, *network.shape), generator=torch.Generator().manual_seed(seed))
    x[1], x[2] = x[1].round(), x[2] * 1e-6
    return x.double()


def ratio(runtime: ModuleType, network: Network, x: Tensor, **options) -> float:
    """The largest difference to float64, over what is stated of float32; 0 where nothing is."""
    deployed = Deployed(network, Walk(network, network.norm))
    ((y, found),) = deployed.around(x, torch.zeros(len(x)).double())
    errors = found.logits
    found = run(runtime, network, x, **options)
    bounded = errors.isfinite()
    different = (found - y).abs().where(found != y, 0.0)[bounded]
    assert different.isfinite().all()
    return float((different / (errors + deployed.errors)[bounded]).amax()) if bounded.any() else 0.0


def test_every_kind_and_every_function_is_written():
    assert set(export.WRITERS) == set(OPERATIONS)
    assert set(FUNCTIONS) == set(frozen.FUNCTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_computes_what_the_frozen_network_does(runtime, kind):
    for seed in (0, 1, 4, 5):
        network = one_operation(kind, seed, wild=False)
        x = images(network)
        y = network.to(dtype=torch.float32).to(dtype=torch.float64)(x)
        assert ((run(runtime, network, x) - y).abs() <= 1e-5 * y.abs().max()).all()


@pytest.mark.parametrize("kind", ["linear", "pointwise", "distance"])
def test_logits_lie_within_the_stated_error(runtime, kind):
    network = one_operation(kind, 1, wild=False)
    assert ratio(runtime, network, images(network)) <= 1


def test_a_graph_that_computes_a_little_else_is_noticed(runtime):
    network = one_operation("linear", 1, wild=False)
    assert ratio(runtime, network, images(network), changed=2e-6) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_logits_lie_within_the_stated_error_whatever_the_constants(runtime, kind):
    import onnx

    written = 0
    for seed in range(40):
        network = one_operation(kind, seed, wild=seed % 2 > 0)
        try:
            onnx.checker.check_model(export.model(network), full_check=True)
        except ValueError:  # a constant has no place in float32
            assert seed % 2
            continue
        written += 1
        assert ratio(runtime, network, images(network, seed), fused=seed % 4 > 1) <= 1
    assert written > 22


def test_functions_keep_their_error_at_any_magnitude(runtime):
    """From 2⁻⁴⁰ to 2¹² on both sides of 0: what cancels near 0 would be far outside, as ONNX's own Elu is."""
    b = Builder(0, (53,))
    sizes = 2.0 ** torch.arange(-40, 13, dtype=torch.float64)
    cases = {"clamp": (-1.0, math.inf), "leaky_relu": (-0.5,), "softplus": (20.0,), "softshrink": (0.5,)}
    cases["elu"] = (1.7, 1.05, 0.5)
    outputs = []
    for sign in (1, -1):
        x = b.add("affine", 0, scale=sign * sizes, shift=None)
        outputs += [b.add("pointwise", x, function=f, parameters=cases.get(f, ())) for f in FUNCTIONS]
    network = b.network(b.add("concatenate", *outputs, axis=0))
    x = images(network)[:2]
    x[0] = 1.0
    single = network.to(dtype=torch.float32)
    x = (single.values(x.float())[1] / sizes).double()  # so that each product is a number of float32
    values = network.values(x)
    difference = (run(runtime, network, x) - values[-1]).abs().split(53, 1)
    for operation, own in zip([o for o in network.operations if o.kind == "pointwise"], difference, strict=True):
        at = values[operation.inputs[0]].abs()
        assert (own <= operation.rounded(FLOAT32, operation.evaluate(at).abs(), at)).all(), operation.function


def test_batches_of_any_size_and_what_the_file_says_of_itself(runtime, tmp_path):
    network = one_operation("linear", 3, wild=False)
    export.write(network, tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", *network.shape], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", ["batch", network.classes], "tensor(float)")
    props = session.get_modelmeta().custom_metadata_map
    assert "certified only where" in props["arithmetic"] and props["norm"] == "l2" and props["lipcert"]
    x = images(network).float().numpy()
    whole, one = (session.run(None, {"image": batch})[0] for batch in (x, x[:1]))
    assert one.shape == (1, network.classes) and np.allclose(whole[:1], one)


def test_distances_in_blocks_are_the_same(runtime, monkeypatch):
    for kind, entries in (("distance", 24), ("distance_convolution", 1)):  # two of four points, and one for each group
        network = one_operation(kind, 0, wild=False)
        whole = run(runtime, network, images(network))
        monkeypatch.setattr(onnx_distances, "ENTRIES", entries)
        assert sum(node.op_type == "Sub" for node in export.model(network).graph.node) == 2
        assert torch.equal(run(runtime, network, images(network)), whole)
        monkeypatch.undo()


def test_a_class_without_images_is_infinitely_far(runtime):
    b = Builder(0, (1, 2, 2))
    stored = torch.randint(0, 256, (4, 1, 2, 2), dtype=torch.uint8)
    b.add("nearest_neighbour", 0, images=stored, labels=torch.tensor([0, 2, 2, 0]), classes=4)
    network = b.network()
    assert run(runtime, network, images(network))[0].isinf().tolist() == [False, True, False, True]


def test_windows_that_begin_inside_and_end_outside(runtime):
    """With `ceil_mode` and padding, where runtimes differ from torch."""
    b = Builder(0, (1, 6, 7))
    plan = {"kernel": (3, 3), "stride": (3, 4), "padding": (1, 1), "dilation": (1, 2), "ceil_mode": True}
    b.add("max_pool", 0, **plan)
    network = b.network()
    assert torch.equal(run(runtime, network, images(network)), network(images(network)))


def test_what_has_no_place_in_float32_is_refused_by_name(tmp_path):
    big = Builder(0, (3,))
    big.add("affine", 0, scale=torch.tensor([1.0, 1e200, 1.0], dtype=torch.float64), shift=None, name="stem")
    small = Builder(0, (3,))
    small.add("pointwise", 0, function="softplus", parameters=(1e-310,), name="stem")
    for network in (big.network(), small.network()):
        with pytest.raises(ValueError, match="operation 1, `stem`.* in float32"):
            export.write(network, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'lipcert\[export\]'$"):
        export.write(one_operation("linear", 3, wild=False), tmp_path / "network.onnx")


def test_a_name_is_not_part_of_the_graph():
    network = one_operation("linear", 3, wild=False)
    strange = replace(network, operations=tuple(replace(o, name='a"; b') for o in network.operations))
    graph, plain = (export.model(n).graph for n in (strange, network))
    assert [(n.name, *n.output) for n in graph.node] == [(n.name, *n.output) for n in plain.node]
    assert graph.node[0].doc_string == 'a"; b'
