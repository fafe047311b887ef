"""Training in bf16: every model takes it with its loss; what does not is refused before anything is written."""

import pytest
from configurations import CONF, composed, names
from torch import nn

from lipcert.configuration import build
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
