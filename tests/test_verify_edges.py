"""`lipcert verify` at the edges: constants that underflow or overflow, what never moves, classes without images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from float32_cases import RELU, chain, linear
from frozen_builder import Builder
from test_verify import CLASSES, SHAPE, certified, dense, sealed

from lipcert.contracts import Norm
from lipcert.export import manifest
from lipcert.export.folder import export
from lipcert.export.verify import verify
from lipcert.export.verify_bounds import Bounds, moved
from lipcert.export.verify_norms import convolution_norm, matrix_norm
from lipcert.export.verify_radii import Judge
from lipcert.frozen import Network, freeze
from lipcert.models.nearest_neighbour import NearestNeighbour


def confirmed(path: Path, network: Network, certificate: str = "Pairwise") -> dict[str, str]:
    """What verify says of the folder of a network, every bound and radius of which is as it was computed."""
    return dict(verify(export(certified(path / "run", network, certificate), path / "out", "folder", None)))


# ---- bounds that were too small, or that raised


def test_a_row_of_a_small_weight_counts():
    """Weights of 1e200 and 1e-280, whose ratio is 0 in float64, on rows of 1e-110 and 1e140."""
    scaled = ("affine", {"scale": [1e100, 1e-140], "shift": None})
    layers = [linear([[1e-110, 0.0], [0.0, 1e140]]), scaled, RELU, linear([[1.0, 1.0], [0.0, -1.0]], [0.0, 1.0])]
    assert float(Bounds(chain((2,), layers)).pairs()[0, 1]) >= 2  # how far it moves with the second pixel


def recurrent(size: float, turn: float, steps: int) -> Network:
    builder, tensor = Builder(0, (steps, 1)), torch.tensor
    fields = {"cos": tensor(turn, dtype=torch.float64), "sin": tensor(turn, dtype=torch.float64), "bias": None}
    weight = torch.full((1, 3), size, dtype=torch.float64)
    return builder.network(builder.add("recurrent", 0, weight=weight, **fields))


@pytest.mark.parametrize(("size", "turn", "steps"), ((1e10, 1.0, 40), (1e170, 1e-165, 1)))
def test_a_recurrent_cell_that_overflows(size, turn, steps):
    """The square of its constant is infinite, or the square of the cosine is 0."""
    assert Bounds(recurrent(size, turn, steps)).constant(1) >= size * turn


def test_norms_of_the_largest_numbers():
    weight = torch.full((1, 1, 1), 1.5e308, dtype=torch.float64)
    geometry = ((1,), (0,), (1,))
    for found in (matrix_norm(weight), convolution_norm(weight, (1,), geometry)):
        assert 1.5e308 <= found < 1.6e308


@pytest.mark.parametrize("kind", ("distance", "nearest_neighbour"))
def test_distances_of_movements_whose_squares_are_0(kind):
    builder = Builder(0, (1, 1, 4))
    if kind == "distance":
        flat = builder.as_vector(0)
        builder.add(kind, flat, weight=torch.zeros(2, 4, dtype=torch.float64), p=2.0)
    else:
        images, labels = torch.zeros(2, 1, 1, 4, dtype=torch.uint8), torch.arange(2)
        builder.add(kind, 0, images=images, labels=labels, classes=2)
    operation = builder.operations[-1]
    before = builder.shapes[operation.inputs[0]]
    small = torch.full((1, *before), 1e-200, dtype=torch.float64)
    assert float(moved(operation, small).min()) >= 2e-200
    assert float(moved(operation, small * 0).max()) == 0


# ---- folders that were refused


def test_what_never_moves(tmp_path):
    """A logit that is a constant, in both norms; the difference of two of them makes radii that are infinite."""
    for norm in ("l2", "linf"):
        for dead in (1, 3):
            network = dense(norm)
            *body, head = network.operations
            weight, bias = head.weight.clone(), torch.arange(CLASSES).double()  # type: ignore[attr-defined]
            weight[:dead] = 0
            head = replace(head, weight=weight, bias=bias)  # type: ignore[call-arg]
            folder = tmp_path / f"{norm}-{dead}"
            folder.mkdir()
            told = confirmed(folder, replace(network, operations=(*body, head)))
            assert "confirmed" in told["radius"]


def test_an_infinite_radius_is_proved_alone_where_nothing_moves():
    network = chain((2,), [linear([[0.0, 0.0], [0.0, 0.0]], [0.0, 1.0])])
    for norm in (Norm.L2, Norm.LINF):
        assert float(Bounds(replace(network, norm=norm)).pairs().max()) == 0
        moving = chain((2,), [linear([[1e-300, 0.0], [0.0, 0.0]], [0.0, 1.0])], norm)
        assert float(Bounds(moving).pairs()[0, 1]) >= 1e-300


def test_a_radius_beyond_all_images(tmp_path):
    """No image is as far away; errors in float32 are those of images in [0, 1]."""
    network = dense()
    *body, head = network.operations
    bias = torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64)
    told = confirmed(tmp_path, replace(network, operations=(*body, replace(head, bias=bias))))  # type: ignore[call-arg]
    assert "confirmed" in told["radius_float32"]


def test_errors_of_all_images_count_where_they_are_smaller():
    judge = Judge(Bounds(dense()), None)
    assert judge.everywhere is not None and judge.bounded
    assert len(judge.choice(judge.everywhere)) == 2


def test_a_class_without_stored_images(tmp_path):
    """An image of that class has a margin of −∞, and no radius."""
    model = NearestNeighbour(input_shape=SHAPE, num_classes=CLASSES)
    stored = torch.randint(0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    model.memorise(stored, torch.arange(20) % (CLASSES - 2))  # class 0 alone; the wrong answer is of class 1
    assert "confirmed" in confirmed(tmp_path, freeze(model, SHAPE, "l2"))["radius"]


@pytest.mark.parametrize("unit", ("prelu", "falling", "gelu", "norm_pool", "two_sided"))
def test_radii_by_boxes_of_curves(unit, tmp_path):
    """The boxes of verify are as tight as those of the certificate."""
    torch.manual_seed(5)
    builder = Builder(0, SHAPE)
    weight, bias = torch.randn(8, 16).double(), torch.randn(8).double()
    value = builder.add("linear", builder.as_vector(0), weight=weight, bias=bias)
    slope = torch.full((8,), -0.5 if unit == "falling" else 0.1, dtype=torch.float64)
    if unit in ("prelu", "falling"):
        value = builder.add("leaky_relu", value, slope=slope)
    elif unit == "gelu":
        value = builder.add("pointwise", value, function="gelu", parameters=())
    elif unit == "norm_pool":
        value = builder.add("reshape", value, shape=(2, 2, 2))
        value = builder.add("norm_pool", value, kernel=(2, 1), stride=(1, 1), divisor=2, delta=0.1)
    else:
        value = builder.add("two_sided", value, function="tanh", t=slope.abs(), axis=0)
    value = builder.as_vector(value)
    weight = torch.randn(CLASSES, builder.shapes[value][0]).double()
    value = builder.add("linear", value, weight=weight, bias=None)
    network = Network(SHAPE, tuple(builder.operations), Norm.LINF)
    assert "by boxes" in confirmed(tmp_path, network, "Interval")["radius"]


# ---- damaged folders


def test_a_label_that_is_none(tmp_path):
    folder = export(certified(tmp_path / "run", dense(), "Pairwise"), tmp_path / "out", "folder", None)
    with np.load(folder / manifest.IMAGES) as found:
        images, labels = found["images"], found["labels"].copy()
    for label in (CLASSES, -1):
        labels[3] = label
        content = io.BytesIO()
        np.savez_compressed(content, images=images, labels=labels)
        (folder / manifest.IMAGES).write_bytes(content.getvalue())
        sealed(folder)
        with pytest.raises(ValueError, match="image 3 has the label"):
            verify(folder)
