"""What becomes of torch's operations that only move entries: views, permutations, slices, copies and padding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from lipcert.frozen.capture.arithmetic import scaled
from lipcert.frozen.capture.constants import map_constants
from lipcert.frozen.capture.lowering import Batch, Lowering, Value, one_image, rule
from lipcert.frozen.capture.refusals import DROPOUT
from lipcert.frozen.operation import Shape
from lipcert.frozen.ops.moves import Permute, Rearrange, Reshape, Slice


def reshaped(low: Lowering, value: Value, shape: Shape) -> Value:
    return value if value.shape == tuple(shape) else low.emit(Reshape, [value], shape)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
def reshape(low: Lowering, node: fx.Node, x: Any, *_: Any, **__: Any) -> Value:
    value, shape = low.value(x), low.shape_of(node)
    if str(node.target).endswith("squeeze.default") and len(node.args) == 1:
        raise low.refused("squeeze() also removes the axis of a batch of one image; name the axis")
    if math.prod(shape) != math.prod(value.shape):
        raise low.refused("this view mixes the images of a batch; keep the batch as the first axis: flatten(1)")
    return reshaped(low, value, shape)


@rule("alias", "clone", "detach", "contiguous", "lift_fresh_copy", "lift_fresh", "positive")
def same(low: Lowering, node: fx.Node, x: Any, **_: Any) -> Value:
    return low.value(x)


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(low: Lowering, node: fx.Node, x: Any, p: float = 0.5, train: bool = True) -> Value:
    if train and p:
        raise low.refused(DROPOUT)
    return low.value(x)


@rule("to", "_to_copy", "type_as")
def convert(low: Lowering, node: fx.Node, x: Any, *_: Any, **__: Any) -> Value:
    if node.meta["val"].dtype != low.dtype:
        raise low.refused(f"it converts activations to {node.meta['val'].dtype}; leave the precision to the caller")
    return low.value(x)


@rule("permute", "transpose", "t", "movedim", "swapaxes")
def permute(low: Lowering, node: fx.Node, x: Any, *args: Any) -> Value:
    value, rank = low.value(x), len(low.value(x).shape) + 1
    name = str(node.target).split(".")[1]
    axes = [a % rank for a in args[0]] if name == "permute" else list(range(rank))
    if name in ("transpose", "swapaxes", "t"):
        one, other = (a % rank for a in (args or (0, 1)))
        axes[one], axes[other] = axes[other], axes[one]
    if axes[0] != 0:
        raise low.refused("it moves the axis of the batch")
    return low.emit(Permute, [value], low.shape_of(node), axes=tuple(a - 1 for a in axes[1:]))


@rule("slice")
def slice_(
    low: Lowering, node: fx.Node, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    value = low.value(x)
    axis = low.axis(value.shape, dim)
    if axis < 0:
        if start not in (None, 0) or step != 1 or not (end is None or isinstance(end, Batch) or end >= 2**31):
            raise low.refused("it selects some images of a batch")
        return value
    entries = range(value.shape[axis])[slice(start, end, step)]
    if (entries.start, entries.stop, entries.step) == (0, value.shape[axis], 1):
        return value
    return low.emit(
        Slice, [value], low.shape_of(node), axis=axis, start=entries.start, stop=entries.stop, step=entries.step
    )


@rule("select", "narrow")
def select(low: Lowering, node: fx.Node, x: Any, dim: int, start: int, length: int = 1) -> Value:
    value = low.value(x)
    axis = low.axis(value.shape, dim, "it selects one image of a batch")
    start %= value.shape[axis]
    shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
    piece = low.emit(Slice, [value], shape, axis=axis, start=start, stop=start + length, step=1)
    return reshaped(low, piece, low.shape_of(node))


def slices(low: Lowering, value: Value, axis: int, sizes: list[int]) -> tuple[Value, ...]:
    """The value cut into consecutive pieces along an axis."""
    pieces, start = [], 0
    for size in sizes:
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        pieces.append(low.emit(Slice, [value], shape, axis=axis, start=start, stop=start + size, step=1))
        start += size
    return tuple(pieces)


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")
def split(low: Lowering, node: fx.Node, x: Any, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    value = low.value(x)
    axis = low.axis(value.shape, dim, "it splits the batch")
    return slices(low, value, axis, [int(piece.shape[axis + 1]) for piece in node.meta["val"]])


@rule("unbind")
def unbind(low: Lowering, node: fx.Node, x: Any, dim: int = 0) -> tuple[Value, ...]:
    value = low.value(x)
    axis = low.axis(value.shape, dim, "it splits the batch")
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    return tuple(reshaped(low, piece, shape) for piece in slices(low, value, axis, [1] * value.shape[axis]))


@rule(
    *("expand", "repeat", "tile", "repeat_interleave", "flip", "roll", "index_select", "rot90", "broadcast_to"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "unfold", "diagonal", "fliplr", "tril", "triu"),
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "_pad_circular"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
)
def rearrange(low: Lowering, node: fx.Node, x: Any, *args: Any, **options: Any) -> Value:
    """Runs an operation that only moves entries on three images whose entries are numbered: the result is the index."""
    value, shape = low.value(x), low.shape_of(node)
    count = math.prod(value.shape)
    numbers = torch.arange(1.0, 3 * count + 1, dtype=torch.float64).view(3, *value.shape)
    fill, name = 0.0, str(node.target).split(".")[1]
    args, options = on_three_images(args), on_three_images(options)
    if name in ("pad", "constant_pad_nd"):
        constant = (
            name == "constant_pad_nd" or (args[1] if len(args) > 1 else options.get("mode", "constant")) == "constant"
        )
        fill = padding_value(name, args, options) if constant else 0.0
        moved = torch.nn.functional.pad(numbers, args[0]) if constant else node.target(numbers, *args, **options)  # type: ignore[operator]
    else:
        moved = node.target(numbers, *args, **options)  # type: ignore[operator]
    index = moved[0].round().long() - 1
    same = [torch.equal(other.round(), (index + 1 + k * count) * (index >= 0)) for k, other in enumerate(moved)]
    if tuple(moved.shape) != (3, *shape) or not all(same) or int(index.max()) >= count:
        raise low.refused(f"`{name}` moves entries between images")
    if bool((index >= 0).all()) and torch.equal(index.flatten(), torch.arange(count)):
        return reshaped(low, value, shape)
    result = low.emit(Rearrange, [value], shape, {"index": low.constants.literal(index)})
    if fill:
        result = scaled(low, result, None, low.constants.literal((index < 0) * torch.tensor(fill, dtype=torch.float64)))
    return result


@rule("index")
def index(low: Lowering, node: fx.Node, x: Any, indices: Any) -> Value:
    """Entries that constants select, as in x[:, [2, 0, 1]]."""
    if not indices or indices[0] is not None:
        raise low.refused("it selects some images of a batch")
    if any(isinstance(i, Value) for i in indices):
        raise low.refused("it chooses by the values of the image")
    return rearrange(low, node, x, indices)


def on_three_images(arguments: Any) -> Any:
    return map_constants(one_image(arguments, 3), lambda constant: constant.value)


def padding_value(name: str, args: Any, options: Any) -> float:
    given = args[1:] if name == "constant_pad_nd" else args[2:]
    value = options.get("value", given[0] if given else 0.0)
    return float(value or 0.0)
