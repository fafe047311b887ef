"""Why some operations have no place in a network with a bound, and the way out."""

from __future__ import annotations

from typing import Any


class Refused(ValueError):
    """The module computes something that is not in the table of operations. The message names it and the way out."""


SCALES = "divides by the spread of its own input, which has no finite Lipschitz constant where that is small"
CENTRE = "subtract the mean alone (lipcert.layers.SubtractMean), or use batch normalisation"
PRODUCT = "a product of two activations grows with both: it has no finite Lipschitz constant"
RANDOM = "draws random numbers, so that the network is no fixed function"

REASONS: dict[str, str] = {
    "layer_norm": f"layer normalisation {SCALES}; {CENTRE}",
    "native_layer_norm": f"layer normalisation {SCALES}; {CENTRE}",
    "group_norm": f"group normalisation {SCALES}; {CENTRE}",
    "native_group_norm": f"group normalisation {SCALES}; {CENTRE}",
    "instance_norm": f"instance normalisation {SCALES}; {CENTRE}",
    "rms_norm": f"normalisation by the root mean square {SCALES}; {CENTRE}",
    "_fused_rms_norm": f"normalisation by the root mean square {SCALES}; {CENTRE}",
    "softmax": "a network is certified by its logits: leave the softmax out",
    "_softmax": "a network is certified by its logits: leave the softmax out",
    "log_softmax": "a network is certified by its logits: leave the log_softmax out",
    "_log_softmax": "a network is certified by its logits: leave the log_softmax out",
    "scaled_dot_product_attention": f"attention multiplies activations: {PRODUCT}",
    "bmm": PRODUCT,
    "matmul": PRODUCT,
    "mul": PRODUCT,
    "pow": "a power of an activation has no finite slope, unless it is cut off; use an activation with a bounded slope",
    "square": "the square of an activation has no finite slope; lipcert.layers.NormPool2d takes the norm of windows",
    "exp": "exp has no finite slope",
    "expm1": "expm1 has no finite slope",
    "log": "log has no finite slope at 0",
    "sqrt": "a square root has no finite slope at 0; lipcert.layers.NormPool2d takes the norm of windows",
    "rsqrt": "1/√x has no finite slope at 0",
    "reciprocal": "1/x has no finite slope at 0",
    "div": "a quotient by an activation has no finite Lipschitz constant",
    "sign": "a step has no finite slope",
    "round": "a step has no finite slope",
    "floor": "a step has no finite slope",
    "gt": "a comparison of activations is a step: it has no finite slope",
    "lt": "a comparison of activations is a step: it has no finite slope",
    "where": "a choice by the values of activations may be a step",
    "argmax": "an index is a step: it has no finite slope",
    "hardshrink": "hardshrink jumps at its threshold; use softshrink",
    "threshold": "a threshold jumps; use a ReLU",
    "rand": RANDOM,
    "rand_like": RANDOM,
    "randn": RANDOM,
    "randn_like": RANDOM,
    "bernoulli": RANDOM,
    "lstm": f"the gates of an LSTM multiply activations: {PRODUCT}; lipcert.layers.NonexpansiveRNN has a bound",
    "gru": f"the gates of a GRU multiply activations: {PRODUCT}; lipcert.layers.NonexpansiveRNN has a bound",
    "rnn_tanh": "torch's recurrent layers are not in the table; lipcert.layers.NonexpansiveRNN has a bound",
    "rnn_relu": "torch's recurrent layers are not in the table; lipcert.layers.NonexpansiveRNN has a bound",
}


def because(target: Any) -> str:
    """The reason why an operation is refused, with its name."""
    name = operation_name(target)
    reason = REASONS.get(name, "it is not in the table of operations (docs/operations.md)")
    return f"`{name}` can't be certified: {reason}"


def operation_name(target: Any) -> str:
    """As in aten.layer_norm.default: layer_norm."""
    parts = str(target).split(".")
    return (parts[1] if len(parts) > 2 else parts[0]).removesuffix("_")
