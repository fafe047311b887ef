"""The logits of an exported network with nothing but Python and numpy: python read_network.py FOLDER images.npy

FOLDER has network.json, a list of operations, and network.safetensors, their constants. images.npy holds images
(B, C, H, W) in [0, 1], or their bytes; the images.npz that lies in FOLDER can be given, too. All is computed in
float64. Shapes in the list have no axis for the batch; here it is the first one.
"""

import hashlib
import json
import sys
from math import inf, prod
from pathlib import Path

import numpy as np

STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def read(folder):
    """The content of network.json, with the constants of each operation as arrays."""
    network = json.loads((Path(folder) / "network.json").read_text("utf-8"))
    packed = (Path(folder) / "network.safetensors").read_bytes()
    if hashlib.sha256(packed).hexdigest() != network["sha256"]:
        raise ValueError("network.safetensors is not the file that network.json was written with")
    start = 8 + int.from_bytes(packed[:8], "little")  # of the numbers; before them is a table of contents
    for name, entry in json.loads(packed[8:start]).items():
        number, _, constant = name.partition(".")
        low, high = entry["data_offsets"]
        numbers = packed[start + low : start + high]
        if entry["dtype"] == "BF16":  # the upper halves of float32 numbers
            array = (np.frombuffer(numbers, "<u2").astype("<u4") << 16).view("<f4")
        else:
            array = np.frombuffer(numbers, STORED[entry["dtype"]])
        constants = network["operations"][int(number) - 1]["constants"]
        constants[constant] = array.reshape(entry["shape"]).astype(constants[constant])
    return network


def logits(network, images):
    """(B, K), of images (B, C, H, W)."""
    values = [np.asarray(images, dtype=np.float64)]
    for number, o in enumerate(network["operations"], 1):
        name = o["function"] if o["kind"] == "pointwise" else o["kind"]
        if o["kind"] not in KINDS or (o["kind"] == "pointwise" and name not in FUNCTIONS):
            raise ValueError(f"operation {number}, {name!r}, is none that this reader knows")
        values.append(KINDS[o["kind"]](o, *(values[i] for i in o["inputs"]), **o["constants"]))
    return values[-1]


def windows(x, o, kernel, fill=0.0):
    """The windows (B, C, *places, *kernel) that an operation looks at; the image is padded with `fill`."""
    axes, places = len(kernel), o["shape"][1:]
    usual = {"stride": 1, "padding": 0, "dilation": 1}
    stride, padding, dilation = (np.broadcast_to(o.get(key, number), axes) for key, number in usual.items())
    spans = dilation * (np.array(kernel) - 1) + 1
    after = (np.array(places) - 1) * stride + spans - x.shape[2:] - padding
    x = np.pad(x, [(0, 0), (0, 0), *np.stack((padding, after.clip(0)), 1)], constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + axes)))
    at = [slice(0, int(n * s), int(s)) for n, s in zip(places, stride, strict=True)]
    return found[(..., *at, *(slice(None, None, int(d)) for d in dilation))]


def patches(x, o, weight):
    """The patches (B, groups, places, n) of a convolution, and its filters (groups, C'/groups, n)."""
    found, groups = windows(x, o, weight.shape[2:]), o["groups"]
    found = found.reshape(len(x), groups, weight.shape[1], prod(o["shape"][1:]), -1).swapaxes(2, 3)
    return found.reshape(*found.shape[:3], -1), weight.reshape(groups, -1, weight[0].size)


def convolution(o, x, weight, bias=None):
    found, filters = patches(x, o, weight)
    y = (found @ filters.swapaxes(1, 2)).swapaxes(2, 3).reshape(len(x), len(weight), -1)
    return (y if bias is None else y + bias[:, None]).reshape(len(x), *o["shape"])


def distance_convolution(o, x, weight):
    found, filters = patches(x, o, weight)
    y = [distances(found[:, group], points, inf) for group, points in enumerate(filters)]
    return np.stack(y, 1).swapaxes(2, 3).reshape(len(x), *o["shape"])


def distances(x, points, p):
    """‖x − w‖_p for x (..., n) and the rows w of points (m, n): (..., m)."""
    rows = [np.linalg.norm(points - row, p, axis=1) for row in x.reshape(-1, x.shape[-1])]
    return np.reshape(rows, (*x.shape[:-1], len(points)))


def nearest_neighbour(o, x, images, labels):
    x, y = x.reshape(len(x), -1), np.full((len(x), o["classes"]), -inf)
    for k in set(labels.tolist()):
        y[:, k] = -distances(x, images[labels == k].reshape(-1, x.shape[1]) / 255, 2).min(1)
    return y


def two_sided(o, x, t=1.0):
    curves = {"relu": lambda z: z.clip(0), "tanh": np.tanh, "sigmoid": lambda z: FUNCTIONS["sigmoid"](4 * z)}
    curve = t * curves[o["function"]](x / t)
    return np.concatenate((curve, curve - x), o["axis"] + 1)


FUNCTIONS = {  # of one number, with parameters
    "relu": lambda x: x.clip(0),
    "abs": np.abs,
    "clamp": lambda x, low, high: x.clip(low, high),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, a, scale, steep: scale * np.where(x > 0, x, a * np.expm1(steep * x.clip(None, 0))),
    "softplus": lambda x, beta: np.logaddexp(0, beta * x) / beta,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),
    "silu": lambda x: x * np.exp(-np.logaddexp(0, -x)),
    "tanh": np.tanh,
}

KINDS = {  # of operations: functions of one as network.json describes it, its inputs, and its constants by their names
    "linear": lambda o, x, weight, bias=0.0: (weight @ x[..., None])[..., 0] + bias,
    "convolution": convolution,
    "along_axis": lambda o, x, matrix: (x.swapaxes(o["axis"] + 1, -1) @ matrix.T).swapaxes(o["axis"] + 1, -1),
    "affine": lambda o, x, scale=1.0, shift=0.0: scale * x + shift,
    "pointwise": lambda o, x: FUNCTIONS[o["function"]](x, *map(float, o["parameters"])),
    "leaky_relu": lambda o, x, slope: np.where(x > 0, x, slope * x),
    "two_sided": two_sided,
    "max_pool": lambda o, x: windows(x, o, o["kernel"], -inf).max(tuple(range(-len(o["kernel"]), 0))),
    "norm_pool": lambda o, x: (windows(x * x, o, o["kernel"]).sum((-2, -1)) / o["divisor"] + o["delta"]) ** 0.5,
    "subtract_mean": lambda o, x: x - x.mean(tuple(k + 1 for k in o["axes"]), keepdims=True),
    "sort": lambda o, x: np.sort(-x if o["descending"] else x, o["axis"] + 1) * (-1) ** o["descending"],
    "min_max": lambda o, x, y: np.concatenate((np.maximum(x, y), np.minimum(x, y)), o["axis"] + 1),
    "maximum": lambda o, x, y: np.minimum(x, y) if o["minimum"] else np.maximum(x, y),
    "add": lambda o, x, y: x - y if o["minus"] else x + y,
    "concatenate": lambda o, *x: np.concatenate(x, o["axis"] + 1),
    "split": lambda o, x, first, second: np.stack((first * x, second * x), 1),
    "merge": lambda o, x, y, first, second: first * x + second * y,
    "reshape": lambda o, x: x.reshape(len(x), *o["shape"]),
    "permute": lambda o, x: x.transpose(0, *(k + 1 for k in o["axes"])),
    "slice": lambda o, x: x[(slice(None),) * (o["axis"] + 1) + (slice(o["start"], o["stop"], o["step"]),)],
    "rearrange": lambda o, x, index: np.where(index < 0, 0.0, x.reshape(len(x), -1)[:, index]),
    "distance": lambda o, x, weight: distances(x, weight, float(o["p"])),
    "distance_convolution": distance_convolution,
    "nearest_neighbour": nearest_neighbour,
}

if __name__ == "__main__":
    network, images = read(sys.argv[1]), np.load(sys.argv[2])
    images = images["images"] if sys.argv[2].endswith(".npz") else images
    images = images / 255 if images.dtype == np.uint8 else images
    batches = [logits(network, images[k : k + 16]) for k in range(0, len(images), 16)]
    np.savetxt(sys.stdout, np.concatenate(batches), "%.17g")
