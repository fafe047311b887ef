"""The losses against their formulas in float64, where those can be computed, and finite where they can't."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lipcert.layers import NonexpansiveLinear
from lipcert.losses.adversary import evaluating
from lipcert.losses.cross_entropy import CrossEntropy
from lipcert.losses.l2nnn import L2NNNLoss, log_complement

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.3, 0.2, 0.1], [-1.0, 4.0, 0.0]])
LABELS = torch.tensor([0, 2, 1])


class Fixed(nn.Module):
    """A model that answers with its input."""

    def forward(self, x):
        return x


def test_the_confidence_term_is_its_formula():
    p = torch.softmax(LOGITS.double(), 1).gather(1, LABELS[:, None])[:, 0]
    torch.testing.assert_close(log_complement(LOGITS.double(), LABELS), torch.log1p(-p))


def test_the_confidence_term_survives_gaps_that_its_formula_does_not():
    """1 − softmax is 0 in float32 from a gap of 17 on; the term goes on as −gap, and its gradient with it."""
    logits = torch.tensor([[100.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    term = log_complement(logits, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(term, torch.tensor([-100.0, -1000.0, 0.0]))
    term.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]))


def test_the_three_terms_and_their_sum():
    loss = L2NNNLoss(num_classes=3, gamma=0.7, omega=0.3, z=2.0, v=1.5)
    loss.u.data = torch.tensor([1.0, 2.0, 0.5])
    terms = loss(Fixed(), LOGITS, LABELS)
    y = LOGITS.double()
    a = nn.functional.cross_entropy(loss.u.double() * y, LABELS)
    b = nn.functional.cross_entropy(1.5 * y, LABELS)
    p = torch.softmax(2 * y, 1).gather(1, LABELS[:, None])
    c = torch.log1p(-p).mean() / 2
    for name, expected in {"a": a, "b": b, "c": c, "loss": a + 0.7 * b + 0.3 * c}.items():
        torch.testing.assert_close(terms[name].double(), expected.detach(), rtol=1e-6, atol=1e-6, check_dtype=False)
    assert float(terms["c"].detach()) < 0


@pytest.mark.parametrize(("u", "v"), [(True, True), (False, False), (True, False)])
def test_u_and_v_are_trained_or_fixed(u, v):
    loss = L2NNNLoss(num_classes=3, u_trainable=u, v_trainable=v)
    loss(Fixed(), LOGITS, LABELS)["loss"].backward() if u or v else None
    assert (loss.u.grad is not None) is u and (loss.v.grad is not None) is v


def test_the_weight_penalty_counts_soft_layers_only():
    model = nn.Sequential(NonexpansiveLinear(3, 3), NonexpansiveLinear(3, 3))
    for layer in model:
        layer.weight.data *= 2
    loss = L2NNNLoss(num_classes=3, lambda_w=0.5)
    assert float(loss(model, LOGITS, LABELS)["w"].detach()) == 0
    model[1].strict = 0.0
    terms = loss(model, LOGITS, LABELS)
    assert float(terms["w"].detach()) == pytest.approx(3 * 3.0, rel=1e-4)  # three rows of squared norm 4
    parts = terms["a"] + terms["b"] + terms["c"] + 0.5 * terms["w"]
    torch.testing.assert_close(terms["loss"], parts)


def test_an_adversary_distorts_what_it_is_asked_to():
    def adversary(answer, x, y, eps):
        assert torch.equal(answer(x), x) and eps is None
        return -x

    clean, a, ab = (
        L2NNNLoss(num_classes=3, adversary=adv, adversarial_terms=which)(Fixed(), LOGITS, LABELS)
        for adv, which in ((None, "a"), (adversary, "a"), (adversary, "ab"))
    )
    assert a["a"] != clean["a"] and a["b"] == clean["b"] and a["c"] == clean["c"]
    assert ab["a"] == a["a"] and ab["b"] != clean["b"] and ab["c"] == clean["c"]
    distorted = CrossEntropy(num_classes=3, adversary=adversary)(Fixed(), LOGITS, LABELS)["loss"]
    torch.testing.assert_close(distorted, nn.functional.cross_entropy(-LOGITS, LABELS))


class Failed(Exception):
    """Raised by an adversary in these tests."""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("loss", [None, CrossEntropy, L2NNNLoss])
def test_an_adversary_sees_an_evaluated_model_and_gives_it_back_as_it_was(loss, fails):
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), nn.Linear(4, 3))
    model[0][0].eval()  # a frozen layer inside a model in training
    model[1].bias.requires_grad_(False)
    modes, grads = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    seen = []

    def adversary(answer, x, y, eps):
        seen.append(x)
        assert not any(m.training for m in model.modules()) and not any(p.requires_grad for p in model.parameters())
        assert torch.equal(answer(x), answer(x)) and not answer(x).requires_grad
        if fails:
            raise Failed
        return x

    x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.long)
    with pytest.raises(Failed) if fails else nullcontext():
        if loss is None:
            with evaluating(model) as answer:
                adversary(answer, x, y, None)
        else:
            loss(num_classes=3, adversary=adversary)(model, x, y)
    assert len(seen) == 1
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("wrong", [{"z": 0.0}, {"v": -1.0}, {"omega": -0.1}, {"adversarial_terms": "c"}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=f"loss.{next(iter(wrong))}"):
        L2NNNLoss(num_classes=3, **wrong)


def test_a_uniform_answer_costs_the_logarithm_of_the_classes():
    terms = L2NNNLoss(num_classes=3)(Fixed(), torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    assert float(terms["a"].detach()) == pytest.approx(math.log(3))
    assert float(terms["c"].detach()) == pytest.approx(math.log(2 / 3))
