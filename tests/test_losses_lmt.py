"""LMT, GloRo and their baselines against formulas written out, and what trains and judges them."""

import copy
import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from commandline import TINY, lipcert, refused
from torch import nn
from torch.nn import functional as F

from lipcert.certificates.pairwise import Pairwise
from lipcert.certificates.statistical import Statistical
from lipcert.contracts import CertificateRow, Kind
from lipcert.frozen import Network, freeze
from lipcert.frozen.lipschitz import Walk
from lipcert.layers import ConvexSum, MinMax, ParsevalConv2d
from lipcert.losses.cross_entropy import CrossEntropy
from lipcert.losses.gloro import GloRo
from lipcert.losses.lmt import LMT
from lipcert.losses.spectral_norm import SpectralNorm
from lipcert.models.ibp_convnet import IBPConvNet
from lipcert.models.l2nnn import L2NNN
from lipcert.models.l2nnn_cifar import L2NNNCifar
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.parseval_resnet import ParsevalResNet
from lipcert.runs.directory import RunDirectory
from lipcert.schedules import Linear, Schedule
from lipcert.training.module import Training

SHAPE, CLASSES = (1, 6, 6), 4
SIZES = {"features.0": (6, 6), "features.2": (6, 6)}  # of what the convnet's convolutions see
NETWORKS = {
    "convnet": lambda: LMTConvNet(
        input_shape=SHAPE, num_classes=CLASSES, channels=[3, 4], kernels=[3, 4], strides=[1, 2], hidden=[8]
    ),
    "resnet": lambda: LMTResNet(input_shape=SHAPE, num_classes=CLASSES, depth=10, width=1, dropout=0.0),
}


def network(name: str) -> nn.Module:
    """With biases away from 0, and with an answer for every class."""
    model = NETWORKS[name]()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


def judged(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels, three in four of which are the network's answer."""
    x = torch.rand(24, *SHAPE)
    answers = copy.deepcopy(model)(x).argmax(1)
    return x, torch.where(torch.arange(24) % 4 == 0, (answers + 1) % CLASSES, answers)


def prepared(loss: nn.Module, model: nn.Module, settle: int = 0) -> nn.Module:
    loss.prepare(model, SHAPE)
    for _ in range(settle):
        loss.estimate(model)
    return loss


def seen(model: nn.Module, loss: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the estimate's own pairs as the loss's next call will have them; nothing moves on."""
    model, vectors = copy.deepcopy(model), copy.deepcopy(loss.estimate.state_dict())
    with loss.estimate.captured.watching(model):
        logits = model(x)
    pairs = loss.estimate(model)
    loss.estimate.load_state_dict(vectors)
    return logits.detach(), pairs.detach()


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(g) for g in logits)) - logits[label]


def shares(logits: list[float], label: int, ahead: list[float]) -> list[float]:
    """The paper's appendix E, a logit."""
    margins = [logits[label] - g for g in logits]
    return [
        1.0 if i == label else 0.0 if m < 0 else 1.0 if m >= ahead[i] else m / ahead[i] for i, m in enumerate(margins)
    ]


def by_hand(logits: torch.Tensor, pairs: torch.Tensor, labels: torch.Tensor, c: float) -> tuple[float, list[float]]:
    """LMT's loss image by image, and each image's share."""
    losses, kept = [], []
    for g, t in zip(logits.tolist(), labels.tolist(), strict=True):
        ahead = [0.0 if i == t else c * float(pairs[t, i]) for i in range(CLASSES)]
        a = min(shares(g, t, ahead))
        losses.append(cross_entropy([y + a * r for y, r in zip(g, ahead, strict=True)], t))
        kept.append(a)
    return sum(losses) / len(losses), kept


@pytest.mark.parametrize("name", ["convnet", pytest.param("resnet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("proposition", [1, 2])
def test_lmt_is_its_formula(name, proposition):
    model = network(name)
    x, y = judged(model)
    kinds = set()
    for c in (1e-5, 1e-3, 0.01, 1.0):
        loss = prepared(LMT(num_classes=CLASSES, c=c, proposition=proposition), model)
        logits, pairs = seen(model, loss, x)
        expected, share = by_hand(logits, pairs, y, c)
        terms = loss(model, x, y)
        assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
        assert terms["share"].item() == pytest.approx(sum(share) / len(share), rel=1e-5)
        assert terms["steepness"].item() == pytest.approx(float(pairs.max()), rel=1e-6)
        kinds |= {0 if a == 0 else 1 if a == 1 else "between" for a in share}
    assert kinds == {0, 1, "between"}


def test_a_misclassified_image_costs_its_cross_entropy_and_no_other_more_than_a_tie():
    """However large c is: the addition never drives the smallest margin below zero."""
    model = network("convnet")
    x, y = judged(model)
    right = model(x).argmax(1) == y
    for c in (0.01, 1.0, 1e4):
        loss = prepared(LMT(num_classes=CLASSES, c=c), model)
        for image, label, ahead in zip(x, y, right, strict=True):
            plain = F.cross_entropy(model(image[None]), label[None]).item()
            ours = loss(model, image[None], label[None])["loss"].item()
            if ahead:
                assert plain <= ours <= math.log(CLASSES) + 1e-5
            else:
                assert ours == plain
        assert right.any() and not right.all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("proposition", [1, 2])
def test_no_radius_asked_for_is_cross_entropy_to_the_bit(name, proposition):
    model = network(name)
    x, y = judged(model)
    other = copy.deepcopy(model)
    ours = prepared(LMT(num_classes=CLASSES, c=0.0, proposition=proposition), model)(model, x, y)["loss"]
    plain = F.cross_entropy(other(x), y)
    assert torch.equal(ours, plain)
    ours.backward()
    plain.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def pairs_by_hand(model: nn.Module, vectors: dict[str, torch.Tensor], proposition: int) -> torch.Tensor:
    """(K, K) from the vectors, which are constants: ‖φ(u)‖ a layer, by torch's own operations."""
    steep = torch.ones(())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            image = F.conv2d(
                vectors[name].view(1, layer.in_channels, *SIZES[name]), layer.weight, None, layer.stride, layer.padding
            )
        elif isinstance(layer, nn.Linear) and not (name == "head" and proposition == 2):
            image = F.linear(vectors[name].flatten(), layer.weight)
        else:
            continue
        steep = steep * image.square().sum().sqrt()
    rows = model.head.weight
    off = 1 - torch.eye(CLASSES)
    if proposition == 1:
        return math.sqrt(2) * steep * off
    return steep * ((rows[:, None] - rows[None]).square().sum(2) + torch.eye(CLASSES)).sqrt() * off


def vectors_of(loss: nn.Module, model: nn.Module) -> dict[str, torch.Tensor]:
    """By the layers' names: they are measured from the last to the first, without the head by proposition 2."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    vectors = [buffer.clone() for buffer in loss.estimate.buffers()]
    return dict(zip(layers[: len(vectors)], reversed(vectors), strict=True))


def compare_gradients(loss: torch.Tensor, expected: torch.Tensor, model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    found, due = (torch.autograd.grad(v, list(parameters.values()), allow_unused=True) for v in (loss, expected))
    for name, ours, theirs in zip(parameters, found, due, strict=True):
        assert ours is not None and ours.abs().sum() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("proposition", [1, 2])
@pytest.mark.parametrize("c", [0.01, 0.1])
def test_gradients_flow_through_every_norm_and_never_through_the_share(proposition, c):
    model = network("convnet")
    x, y = judged(model)
    loss = prepared(LMT(num_classes=CLASSES, c=c, proposition=proposition), model)
    vectors = vectors_of(loss, model)
    logits = model(x)
    ahead = c * pairs_by_hand(model, vectors, proposition)[y]
    images = zip(logits.tolist(), y.tolist(), ahead.tolist(), strict=True)
    share = torch.tensor([min(shares(*image)) for image in images])
    assert (share < 1).any() and (share > 0).any()
    expected = F.cross_entropy(logits + share[:, None] * ahead, y)
    ours = loss(model, x, y)["loss"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    compare_gradients(ours, expected, model)


def last_layer(frozen: Network) -> torch.Tensor:
    """Proposition 2, (K, K), on proved norms."""
    head = frozen.operations[-1]
    return Walk(frozen, frozen.norm).constant(head.inputs[0]) * torch.cdist(head.weight, head.weight)


def test_proposition_2_asks_for_less_and_both_end_at_the_networks_bound():
    model = network("convnet")
    first, second = (
        prepared(LMT(num_classes=CLASSES, c=1.0, proposition=p), model, settle=300).estimate(model).detach()
        for p in (1, 2)
    )
    off = ~torch.eye(CLASSES, dtype=torch.bool)
    assert (second < first)[off].all() and (first.diag() == 0).all() and (second.diag() == 0).all()
    frozen = freeze(model, SHAPE)
    proved = last_layer(frozen)
    torch.testing.assert_close(second.double(), proved, rtol=0.02, atol=1e-6)
    assert (second[off] <= proved[off] * (1 + 1e-6)).all()  # an estimate comes from below
    torch.testing.assert_close(first.double()[off], Pairwise(["vector"])(frozen).pairs[off], rtol=0.02, atol=0)


def test_a_schedule_drives_c():
    model = network("convnet")
    x, y = judged(model)
    loss = prepared(LMT(num_classes=CLASSES, c=0.4), model)
    schedule = Schedule(epochs=10, c=Linear("loss.c", start=0.0, end=0.4, over=0.5))
    for epoch, c in ((0, 0.0), (1.25, 0.1), (5, 0.4), (10, 0.4)):
        schedule.apply(epoch, model=model, loss=loss)
        expected, _ = by_hand(*seen(model, loss, x), y, c)
        assert loss(model, x, y)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("eps", [0.0, 0.02])
def test_gloro_is_its_formula(weight, eps):
    """At weight 1 the cross-entropy over the classes and ⊥; at others CE + weight·KL(without ⊥ ‖ with it)."""
    model = network("convnet")
    x, y = judged(model)
    loss = prepared(GloRo(num_classes=CLASSES, eps=eps, weight=weight), model)
    pairs = pairs_by_hand(model, vectors_of(loss, model), 2)
    logits = model(x)
    bottom = []
    for g in logits:
        first = int(g.argmax())
        bottom.append(max(g[i] + eps * pairs[first, i] for i in range(CLASSES) if i != first))
    wider = torch.cat([logits, torch.stack(bottom)[:, None]], 1)
    p, q = logits.softmax(1), wider.softmax(1)[:, :CLASSES]
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    expected = F.cross_entropy(logits, y) + weight * divergence
    if weight == 1:
        assert F.cross_entropy(wider, y).item() == pytest.approx(expected.item(), rel=1e-5)
    terms = loss(model, x, y)
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["robust"].item() == pytest.approx(divergence.item(), rel=1e-4)
    compare_gradients(terms["loss"], expected, model)


@pytest.mark.parametrize("name", ["convnet", pytest.param("resnet", marks=pytest.mark.slow)])
def test_spectral_norm_regularisation_is_weight_decay_of_the_largest_singular_value(name):
    """Its gradient is rate·σ·uvᵀ a weight once the vectors have converged."""
    model = network(name).eval()
    x, y = judged(model)
    loss = SpectralNorm(num_classes=CLASSES, rate=0.3)
    loss.prepare(model, SHAPE)
    for _ in range(3000):
        for p, vector in zip((p for p in model.parameters() if p.dim() > 1), loss.buffers(), strict=True):
            w = p.detach().flatten(1)
            vector.copy_(F.normalize(vector @ w.T @ w))
    parameters = dict(model.named_parameters())
    plain = torch.autograd.grad(F.cross_entropy(model(x), y), list(parameters.values()))
    terms = loss(model, x, y)
    ours = torch.autograd.grad(terms["loss"], list(parameters.values()))
    penalty = 0.0
    for p, a, b in zip(parameters.values(), ours, plain, strict=True):
        if p.dim() == 1:
            assert torch.equal(a, b)
            continue
        u, sigma, v = torch.linalg.svd(p.detach().flatten(1), full_matrices=False)
        penalty += float(sigma[0]) ** 2
        torch.testing.assert_close(a - b, (0.3 * sigma[0] * u[:, :1] @ v[:1]).view_as(p), rtol=1e-2, atol=2e-3)
    assert terms["penalty"].item() == pytest.approx(penalty, rel=1e-3)


def test_every_step_brings_the_vectors_of_spectral_norm_regularisation_closer():
    model = network("convnet")
    x, y = judged(model)
    loss = SpectralNorm(num_classes=CLASSES)
    loss.prepare(model, SHAPE)
    penalties = [loss(model, x, y)["penalty"].item() for _ in range(60)]
    assert all(b >= a * (1 - 1e-6) for a, b in pairwise(penalties))
    weights = [p.detach().flatten(1) for p in model.parameters() if p.dim() > 1]
    exact = sum(float(torch.linalg.matrix_norm(w, 2)) ** 2 for w in weights)
    assert penalties[0] < 0.9 * exact and penalties[-1] == pytest.approx(exact, rel=0.02)


def test_head_decay_is_weight_decay_of_the_head_alone():
    ours = network("convnet")
    other = copy.deepcopy(ours)
    x, y = judged(ours)
    one = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    groups = [{"params": other.features.parameters()}, {"params": other.head.parameters(), "weight_decay": 0.3}]
    two = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    loss, start = CrossEntropy(num_classes=CLASSES, head_decay=0.3), copy.deepcopy(ours.head.weight.data)
    loss.prepare(ours, SHAPE)
    for _ in range(5):
        for optimizer, value in ((one, loss(ours, x, y)["loss"]), (two, F.cross_entropy(other(x), y))):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert ours.head.weight.norm() < 0.95 * start.norm()


@pytest.mark.parametrize(
    ("loss", "key", "values"),
    [
        (LMT, "c", {"c": -0.1}),
        (LMT, "c", {"c": math.nan}),
        (LMT, "c", {"c": math.inf}),
        (LMT, "proposition", {"c": 0.1, "proposition": 3}),
        (GloRo, "eps", {"eps": -0.1}),
        (GloRo, "eps", {"eps": math.nan}),
        (GloRo, "weight", {"eps": 0.1, "weight": -1.0}),
        (SpectralNorm, "rate", {"rate": -0.1}),
        (SpectralNorm, "rate", {"rate": math.nan}),
        (CrossEntropy, "head_decay", {"head_decay": -0.1}),
        (CrossEntropy, "head_decay", {"head_decay": math.inf}),
    ],
)
def test_impossible_values_are_refused(loss, key, values):
    with pytest.raises(ValueError, match=f"`loss.{key}`") as told:
        loss(num_classes=3, **values)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("channels", {"channels": [4, 4, 4]}),
        ("channels", {"channels": [4] * 9, "kernels": [4] * 9, "strides": [2] * 9}),
        ("activation", {"activation": "gelu"}),
        ("channels", {"activation": "min_max", "channels": [3, 4]}),
        ("hidden", {"activation": "min_max", "hidden": [7]}),
    ],
)
def test_impossible_networks_are_refused(key, values):
    with pytest.raises(ValueError, match=f"`model.{key}`"):
        LMTConvNet(input_shape=(1, 28, 28), num_classes=3, **values)


@pytest.mark.parametrize(
    ("key", "values"),
    [("depth", {"depth": 12}), ("depth", {"depth": 4}), ("width", {"width": 0}), ("dropout", {"dropout": 1.0})],
)
def test_impossible_residual_networks_are_refused(key, values):
    with pytest.raises(ValueError, match=f"`model.{key}`"):
        LMTResNet(input_shape=(1, 8, 8), num_classes=3, **values)


@pytest.mark.parametrize(("key", "values"), [("starts", {"starts": 0}), ("iterations", {"iterations": 1})])
def test_impossible_certificates_are_refused(key, values):
    with pytest.raises(ValueError, match=f"`certificate.{key}`"):
        Statistical(**values)


@pytest.mark.parametrize("loss", ["lmt", "gloro"])
@pytest.mark.parametrize(("model", "name"), [("linf_dist", "LinfDist"), ("ibp_convnet", "IBPConvNet")])
def test_what_is_certified_in_another_norm_is_refused_before_anything_is_written(
    capsys, tmp_path, monkeypatch, model, name, loss
):
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", f"model={model}", f"loss={loss}", "schedule=constant", *TINY, "output_dir=run")
    assert told.startswith(f"`loss={loss}` can't train {name}, take another loss: {name} is certified in linf")
    assert not Path("run").exists()


OTHERS = {
    "l2nnn": lambda: L2NNN(input_shape=SHAPE, num_classes=CLASSES, channels=[3], kernel_size=3, depth=1, width=6),
    "parseval": lambda: ParsevalResNet(input_shape=SHAPE, num_classes=CLASSES, depth=10, width=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_layers_that_normalise_their_weights_are_estimated_as_what_they_compute(name):
    model = OTHERS[name]().eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    estimate = prepared(LMT(num_classes=CLASSES, c=1.0), model, settle=150).estimate
    found, proved = estimate(model), last_layer(freeze(model, SHAPE))
    torch.testing.assert_close(found.double(), proved, rtol=0.1, atol=1e-6)
    assert (found <= proved * (1 + 1e-5)).all()
    slopes = torch.autograd.grad(found.sum(), [p for p in model.parameters() if p.dim() > 1])
    assert all(slope.isfinite().all() and slope.abs().sum() > 0 for slope in slopes)


@pytest.mark.parametrize(
    ("loss", "key"), [(LMT(num_classes=3, c=0.1), "lmt"), (GloRo(num_classes=3, eps=0.1), "gloro")]
)
def test_a_layer_that_is_not_in_the_table_is_named(loss, key):
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 3))
    with pytest.raises(ValueError, match=f"`loss={key}` can't train Sequential.*layer normalisation") as told:
        loss.prepare(model, SHAPE)
    assert "\n" not in str(told.value)


def test_what_head_decay_cannot_train_is_refused_too():
    branched = L2NNNCifar(input_shape=(1, 4, 4), num_classes=2, channels=[2, 2], kernel_size=3, depth=1, width=4)
    with pytest.raises(ValueError, match="`loss.head_decay` needs a model whose `head` is linear; take 0 for L2NNNC"):
        CrossEntropy(num_classes=2, head_decay=0.1).prepare(branched, (1, 4, 4))


SMALL_RESNET = ("model=lmt_resnet", "model.depth=10", "model.width=1")
TRAININGS = {
    "lmt, batch normalisation": (*SMALL_RESNET, "optimizer.lr=0.05"),
    "lmt": ("model=lmt_convnet", "model.channels=[4,4]", "model.hidden=[16]"),
    "gloro": ("model=lmt_convnet", "loss=gloro", "model.channels=[4,4]", "model.activation=min_max"),
    "spectral_norm": ("model=lmt_convnet", "loss=spectral_norm", "model.channels=[4,4]"),
    "parseval": ("model=parseval_resnet", "model.depth=10", "model.width=1", "loss.head_decay=0.1"),
}


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_stopped_in_training_and_resumed_it_ends_as_a_whole_one(capsys, tmp_path, monkeypatch, name):
    """The same weights and the same vectors, bit for bit, though it begins with vectors of its own."""
    monkeypatch.chdir(tmp_path)
    run = (*TRAININGS[name], "attack=none", "dataset.subset=60", "schedule.epochs=2", "schedule.batch_size=25")
    whole = lipcert(capsys, "train", *run, "output_dir=whole")
    assert whole.status == 0, whole.err
    step = Training.training_step

    def stop(module, batch, batch_idx):
        if module.global_step == 3:
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", stop)
        assert lipcert(capsys, "train", *run, "output_dir=run").status == 130
    halfway = state(Path("run"))
    assert lipcert(capsys, "train", "resume=run").status == 0
    weights, expected = state(Path("run")), state(Path("whole"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)
    kept = [key for key in weights if key.startswith("loss.")]
    assert bool(kept) == (name != "parseval")
    assert all(not torch.equal(weights[key], halfway[key]) for key in kept if weights[key].numel() > 1)
    assert Path("run/certificates.csv").read_bytes() == Path("whole/certificates.csv").read_bytes()
    with Path("whole/metrics.csv").open(newline="") as file:
        logged = list(csv.DictReader(file))
    if name.startswith("lmt"):
        assert all(0 <= float(row["train/share"]) <= 1 and float(row["train/steepness"]) > 0 for row in logged)


@pytest.mark.slow
def test_both_of_parsevals_projections_follow_every_step_of_any_optimizer(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order: list[str] = []

    def noted(owner, name, word):
        original = getattr(owner, name)

        def call(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            order.append(word)
            return result

        monkeypatch.setattr(owner, name, call)

    noted(torch.optim.SGD, "step", "step")
    noted(ParsevalConv2d, "project", "convolution")
    noted(ConvexSum, "project", "sum")
    plain = ("optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0")
    run = (*TRAININGS["parseval"], *plain, *TINY, "schedule.batch_size=25", "output_dir=run")
    told = lipcert(capsys, "train", *run)
    assert told.status == 0, told.err
    convolutions, sums = 9, 3  # 1 + 2 a block, and 2 shortcuts where the image is halved
    once = ["step", *sorted(["convolution"] * convolutions + ["sum"] * sums)]
    steps = [order[i : i + len(once)] for i in range(0, len(order), len(once))]
    assert len(steps) == 4
    assert all([first, *sorted(rest)] == once for first, *rest in steps)
    alphas = [value for key, value in state(Path("run")).items() if key.endswith("alpha")]
    assert len(alphas) == sums
    for alpha in alphas:
        assert float(alpha.sum()) == pytest.approx(1) and (alpha >= 0).all()
    assert any((alpha != 0.5).all() for alpha in alphas)


def test_a_parseval_convolution_is_drawn_towards_orthonormal_rows():
    layer = ParsevalConv2d(3, 5, 3, 2, 1, beta=0.1).double()
    w = layer.weight.detach().flatten(1).clone()
    expected = torch.stack([(1 + 0.1) * w[i] - 0.1 * sum((w[i] @ w[j]) * w[j] for j in range(5)) for i in range(5)])
    layer.project()
    torch.testing.assert_close(layer.weight.detach().flatten(1), expected)
    assert ParsevalConv2d(3, 5, 3).beta == 1e-4
    for _ in range(400):
        layer.project()
    rows = layer.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [([0.5, 0.5], [0.5, 0.5]), ([0.7, 0.1], [0.8, 0.2]), ([2.0, 0.0], [1.0, 0.0]), ([-1.0, 3.0], [0.0, 1.0])],
)
def test_a_convex_sum_is_put_back_on_its_simplex(alpha, expected):
    layer = ConvexSum()
    assert layer.alpha.tolist() == [0.5, 0.5]
    layer.alpha.data = torch.tensor(alpha)
    x, y = torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(x, y), alpha[0] * x + alpha[1] * y)
    layer.project()
    assert layer.alpha.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("geometry", [(3, 1, 1), (3, 2, 1), (1, 2, 0), (1, 1, 0)])
def test_a_parseval_convolution_is_a_convolution_over_the_root_of_its_kernels_area(geometry):
    layer = ParsevalConv2d(3, 5, *geometry).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = F.conv2d(x, layer.weight, None, *geometry[1:]) / geometry[0]
    torch.testing.assert_close(layer(x), expected)
    frozen = freeze(nn.Sequential(layer, nn.Flatten()), x.shape[1:])
    assert [operation.kind for operation in frozen.operations] == ["convolution", "reshape"]
    torch.testing.assert_close(frozen(x), expected.flatten(1))
    weight = frozen.operations[0].weight.clone()
    layer.project()
    assert torch.equal(frozen.operations[0].weight, weight)  # a copy


def test_min_max_sorts_pairs_and_loses_no_gradient():
    layer = MinMax()
    for shape in ((8,), (6, 3, 3)):
        x = torch.randn(5, *shape, dtype=torch.float64, requires_grad=True)
        out = layer(x)
        half = shape[0] // 2
        sorted_pairs = torch.stack([x[:, :half], x[:, half:]]).sort(0, descending=True).values
        assert torch.equal(out, torch.cat([sorted_pairs[0], sorted_pairs[1]], 1))
        v = torch.randn_like(out)
        (back,) = torch.autograd.grad(out, x, v)
        assert torch.equal(back.flatten(1).sort(1).values, v.flatten(1).sort(1).values)  # hence of the same norm
    for shape in ((1,), (3,), (5, 2, 2)):
        with pytest.raises(ValueError, match=f"got {shape[0]} channels, an odd number"):
            layer(torch.randn(2, *shape))
    with pytest.raises(ValueError, match="got 3 channels, an odd number"):
        freeze(nn.Sequential(nn.Linear(4, 3), MinMax()), (4,))


def dense_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    x = torch.zeros(1, *shape, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda v: layer(v).flatten(), x)
    return float(torch.linalg.matrix_norm(matrix.reshape(matrix.shape[0], -1), 2))


def test_statistical_norms_are_norms_from_above_and_say_how_likely():
    model = network("convnet").double().eval()
    frozen = freeze(model, SHAPE)
    bound = Statistical(starts=16, iterations=3000)(frozen)
    assert bound.kind is Kind.STATISTICAL
    shapes = {"features.0": SHAPE, "features.2": (3, 6, 6), "features.5": (36,), "head": (8,)}
    exact = {name: dense_norm(model.get_submodule(name), shape) for name, shape in shapes.items()}
    rows = {row["layer"]: row["norm"] for row in bound.report["layers"]}
    assert rows.keys() == exact.keys()
    for name, norm in rows.items():
        assert exact[name] * (1 - 1e-12) <= norm <= exact[name] * (1 + 1e-3)
    assert bound.report["lipschitz_bound"] == pytest.approx(math.prod(exact.values()), rel=3e-3)
    assert bound.report["failure_probability"] == pytest.approx(len(exact) * (2 / math.pi) ** 8)  # rows are proved
    torch.testing.assert_close(bound.pairs, Pairwise()(frozen).pairs, rtol=0.02, atol=0)
    other_norm = IBPConvNet(input_shape=SHAPE, num_classes=3, channels=[4], halving=[], hidden=8)
    with pytest.raises(ValueError, match="`certificate=statistical` is for networks certified in l2"):
        Statistical()(freeze(other_norm, SHAPE, other_norm.norm))


@pytest.mark.slow
def test_a_run_judged_by_probability_is_never_called_certified(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ("model=lmt_convnet", "model.channels=[8,8]", "model.hidden=[16]", "loss.c=0.01", "optimizer.lr=0.02", *TINY)
    run += ("schedule.epochs=8",)
    told = lipcert(capsys, "train", *run, "schedule.batch_size=25", "output_dir=run")
    assert told.status == 0, told.err
    proved = RunDirectory("run").read_rows("certificates.csv", CertificateRow)
    told = lipcert(capsys, "certify", "run=run", "certificate=statistical", "certificate.starts=16")
    assert told.status == 0, told.err
    both = RunDirectory("run").read_rows("certificates.csv", CertificateRow)
    assert both[: len(proved)] == proved
    likely = both[len(proved) :]
    assert {row.kind for row in likely} == {"statistical"} and {row.kind for row in proved} == {"proof"}
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["kind"], summary["clean_accuracy"] > 0.3) == ("proof", True)
    assert summary["certificates"] == {"pairwise": "proof", "statistical-starts=16": "statistical"}
    assert {"statistical_accuracy", "statistical_mean_radius", "statistical_median_radius"} <= summary.keys()
    facts = json.loads(Path("run/certificates.json").read_text())["test"]["statistical-starts=16"]
    assert facts["certificate"] == "Statistical" and 0 < facts["failure_probability"] < 0.2
    told = lipcert(capsys, "train", *run, "schedule.batch_size=25", "output_dir=alone", "certificate=statistical")
    assert told.status == 0 and "statistical accuracy" in told.out and "certified" not in told.out
    alone = json.loads(Path("alone/summary.json").read_text())
    assert alone["certificate"].endswith("statistical.Statistical") and alone["kind"] == "statistical"
    assert not any("certified" in key or key in ("mean_radius", "median_radius") for key in alone)
    assert any(row.radius > 0 for row in proved)
    for ours, theirs in zip(likely, proved, strict=True):
        assert ours.radius == pytest.approx(theirs.radius, rel=0.05)
    again = lipcert(capsys, "certify", "run=run")
    assert again.status == 0
    assert sorted(RunDirectory("run").read_rows("certificates.csv", CertificateRow)) == sorted(both)


def test_a_frozen_parseval_network_computes_the_same():
    model = ParsevalResNet(input_shape=SHAPE, num_classes=CLASSES, depth=10, width=1).double()
    model.train()(torch.rand(32, *SHAPE, dtype=torch.float64))
    x = torch.rand(8, *SHAPE, dtype=torch.float64)
    frozen = freeze(model, SHAPE)
    assert model.training
    torch.testing.assert_close(frozen(x), model.eval()(x))


def test_a_classifier_that_is_not_trained_needs_no_loss_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = lipcert(
        capsys, "train", "model=nearest_neighbour", "loss=lmt", "loss.c=0.1", "attack=none", "output_dir=run"
    )
    assert told.status == 0, told.err
