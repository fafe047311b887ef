"""Training in bf16: every model takes it with its loss; what does not is refused before anything is written."""

import pytest
import torch
from configurations import CONF, composed, names
from torch import nn

import lipcert
from lipcert.configuration import build
from lipcert.frozen.exact import exact_arithmetic
from lipcert.training.preparation import prepare
from lipcert.training.trial import try_precision

SMALL = {
    "resnet34": ("model.depth=10", "model.width=2"),
    "tulip_resnext": ("model.depth=10",),
    "parseval_resnet": ("model.depth=10", "model.width=1"),
    "lmt_resnet": ("model.width=1",),
}
USUAL = ("l2nnn", "linf_dist", "lmt_convnet")  # a bound of matrices, distances, an estimate
RARE = sorted(set(names(CONF / "model")) - {"nearest_neighbour", *USUAL})


@pytest.fixture(scope="module")
def digits():
    return build(composed("dataset=digits", "dataset.subset=10")["dataset"])


@pytest.mark.parametrize("model", [*USUAL, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)])
def test_every_model_takes_bf16(model, digits):
    config = composed(f"model={model}", *SMALL.get(model, ()))
    network = build(config["model"], input_shape=digits.input_shape, num_classes=10)
    loss = build(config["loss"], num_classes=10)
    prepare(loss, network, digits)
    try_precision(network, loss, digits, "cpu", "bf16-mixed")


class Scattered(nn.Module):
    """A loss that expects logits in the precision of the image."""

    def forward(self, model, x, y):
        own = model(x).gather(1, y[:, None])
        return {"loss": x.new_zeros(own.shape).scatter_(1, y[:, None] * 0, own).sum()}


def test_what_does_not_take_it_is_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="`trainer.precision`: this model and loss can't be trained in bf16-mixed"):
        try_precision(model, Scattered(), digits, "cpu", "bf16-mixed")
    try_precision(model, Scattered(), digits, "cpu", "64-true")


def test_no_proof_is_computed_in_less_than_float64():
    """TF32 and bf16, which the caller has switched on, are off where certificates are computed."""
    before = torch.get_float32_matmul_precision()
    net = lipcert.freeze(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), (1, 4, 4))
    x = torch.rand(5, 1, 4, 4)
    due = net.certify(x)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = net.certify(x)
            with exact_arithmetic():
                assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.enabled
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32  # and not bfloat16
        assert torch.get_float32_matmul_precision() == "high"  # the caller's own choice is back
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.radius, due.radius) and torch.equal(found.margin, due.margin)
