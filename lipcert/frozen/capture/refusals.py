"""Why some operations cannot be part of a network that has a bound, and what to use instead."""

from __future__ import annotations

from typing import Any


class Refused(ValueError):
    """The module computes what is not in the table of operations. The message, one line, names it and the way out."""


SCALES = "divides by the spread of its own input, which has no finite Lipschitz constant where that is small"
CENTRE = "subtract the mean alone (lipcert.layers.SubtractMean), or use batch normalisation"
PRODUCT = "a product of two activations grows with both: it has no finite Lipschitz constant"
ATTENTION = f"attention multiplies activations: {PRODUCT}"
STEP = "a comparison of activations is a step: it has no finite slope; write relu, leaky_relu, clamp or maximum"
MATRIX = "write it as a matrix product, nn.Linear or a convolution"
LENGTH = "a norm has no rule by itself; torch.cdist has distances to fixed points, lipcert.layers.NormPool2d norms"
RANDOM = "it draws random numbers (is a dropout left on?), so that the network is no fixed function"
DROPOUT = "a dropout that is on in evaluation is no fixed function; pass `training=self.training`"
BATCH = "normalisation by the batch's own statistics is no fixed function; keep running statistics"

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
    "scaled_dot_product_attention": ATTENTION,
    "bmm": PRODUCT,
    "matmul": PRODUCT,
    "bilinear": PRODUCT,
    "glu": PRODUCT,
    "prod": PRODUCT,
    "mul": PRODUCT,
    "pow": "a power of an activation has no finite slope, unless it is cut off; use an activation with a bounded slope",
    "square": "the square of an activation has no finite slope; lipcert.layers.NormPool2d takes the norm of windows",
    "exp": "exp has no finite slope",
    "expm1": "expm1 has no finite slope",
    "log1p": "log(1 + x) has no finite slope at −1",
    "remainder": "a step has no finite slope",
    "logsumexp": "exp has no finite slope; certify the logits themselves",
    **dict.fromkeys(("empty", "empty_like", "new_empty"), "an empty tensor holds whatever was in memory"),
    **dict.fromkeys(("_native_batch_norm_legit", "native_batch_norm"), BATCH),
    "log": "log has no finite slope at 0",
    "sqrt": "a square root has no finite slope at 0; lipcert.layers.NormPool2d takes the norm of windows",
    "rsqrt": "1/√x has no finite slope at 0",
    "reciprocal": "1/x has no finite slope at 0",
    "div": "a quotient by an activation has no finite Lipschitz constant",
    "sign": "a step has no finite slope",
    "round": "a step has no finite slope",
    "floor": "a step has no finite slope",
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), STEP),
    "where": "a choice by the values of activations may be a step; write relu, clamp or maximum",
    "argmax": "an index is a step: it has no finite slope",
    "hardshrink": "hardshrink jumps at its threshold; use softshrink",
    "threshold": "a threshold jumps; use a ReLU",
    "floor_divide": "a step has no finite slope",
    "embedding": "indices are no images: an embedding has no Lipschitz constant",
    "einsum": MATRIX,
    "tensordot": MATRIX,
    **dict.fromkeys(("linalg_vector_norm", "norm"), LENGTH),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "cosine_similarity"), f"it {SCALES}"),
    **dict.fromkeys(("rand", "rand_like", "randn", "randn_like", "randint", "randperm", "bernoulli"), RANDOM),
    **dict.fromkeys(("normal", "normal_functional", "uniform", "multinomial", "poisson", "exponential"), RANDOM),
    **dict.fromkeys(("lstm_cell", "gru_cell"), f"its gates multiply activations: {PRODUCT}"),
    **dict.fromkeys(("_native_multi_head_attention", "_transformer_encoder_layer_fwd"), ATTENTION),
    "lstm": f"the gates of an LSTM multiply activations: {PRODUCT}; lipcert.layers.NonexpansiveRNN has a bound",
    "gru": f"the gates of a GRU multiply activations: {PRODUCT}; lipcert.layers.NonexpansiveRNN has a bound",
    "rnn_tanh": "torch's recurrent layers are not in the table; lipcert.layers.NonexpansiveRNN has a bound",
    "rnn_relu": "torch's recurrent layers are not in the table; lipcert.layers.NonexpansiveRNN has a bound",
}

HOPELESS = frozenset(
    name
    for name, reason in REASONS.items()
    if reason in (ATTENTION, BATCH) or name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell")
)


def because(target: Any) -> str:
    """Why an operation of torch is refused, with its name."""
    name = operation_name(target)
    reason = REASONS.get(name, "it is not in the table of operations (docs/operations.md)")
    return f"`{name}` can't be certified: {reason}"


def operation_name(target: Any) -> str:
    """The name without its parts: `layer_norm` for aten.layer_norm.default."""
    parts = str(target).split(".")
    return (parts[1] if len(parts) > 2 else parts[0]).removesuffix("_")


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
