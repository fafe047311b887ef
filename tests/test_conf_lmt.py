"""The rows of the LMT paper keep its recipe, whatever the defaults become; and they train on SVHN's own files."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from configurations import CONF, built, calls, changes, composed, kind, names, shape
from test_datasets import write_svhn
from torch import nn
from torch.nn import functional as F

from lipcert import cli, training
from lipcert.contracts import CertificateRow
from lipcert.layers import ConvexSum, ParsevalConv2d
from lipcert.losses.cross_entropy import CrossEntropy
from lipcert.losses.lmt import LMT
from lipcert.losses.spectral_norm import SpectralNorm
from lipcert.models.lmt_convnet import LMTConvNet
from lipcert.models.lmt_resnet import LMTResNet
from lipcert.models.parseval_resnet import ParsevalResNet
from lipcert.reporting.rows import read_rows
from lipcert.tasks.settings import build

ROOT = CONF / "experiment" / "lmt"
SHARED = [name for name in names(ROOT) if name.startswith("_")]
ROWS = [name for name in names(ROOT) if not name.startswith("_")]
MNIST = [name for name in ROWS if name.startswith("mnist")]
SVHN = [name for name in ROWS if name not in MNIST]


def row(name: str, *overrides: str) -> dict:
    return composed(f"experiment=lmt/{name}", *overrides)


@dataclass(frozen=True)
class Recipe:
    """A row as the paper and its code have it."""

    model: type
    loss: type
    keys: dict  # of the loss
    parameters: int
    decay: float = 0.0  # of all weights
    c: float | None = None  # the radius asked for in the end, in pixels
    average: bool = False
    published: str = ""


RESNET, CONVNET = 2_748_890, 166_406  # a WRN-16-4's, and the network's of Wong & Kolter
RECIPES = {
    "mnist_naive": Recipe(
        LMTConvNet, CrossEntropy, {"adversary": None}, CONVNET, published="0.012 0.97 39.9 1.13 1.82"
    ),
    "mnist_lmt": Recipe(LMTConvNet, LMT, {}, CONVNET, c=1.0, published="1.02 1.42 1.15 1.72"),
    "mnist_adversarial": Recipe(LMTConvNet, CrossEntropy, {}, CONVNET, published="2.4"),
    "table1_weight_decay": Recipe(LMTResNet, CrossEntropy, {}, RESNET, decay=5e-4, published="98.31 72.38 20.98 2.02"),
    "table1_parseval": Recipe(
        ParsevalResNet, CrossEntropy, {"head_decay": 5e-4}, RESNET + 6 * 2, published="98.30 71.35 17.92 0.94"
    ),
    "table1_spectral_norm": Recipe(LMTResNet, SpectralNorm, {"rate": 0.01}, RESNET, published="98.27 73.66 20.35 1.39"),
    "table1_lmt": Recipe(LMTResNet, LMT, {}, RESNET, c=0.01, published="96.38 86.90 55.11 17.69 0.029"),
    "svhn_average": Recipe(LMTResNet, LMT, {}, RESNET, c=0.1, average=True, published="0.08 86"),
}


def test_no_row_is_missing():
    assert set(RECIPES) == set(ROWS)
    assert Counter(name.partition("_")[0] for name in ROWS) == {"table1": 4, "mnist": 3, "svhn": 1}
    used = "\n".join(path.read_text() for path in ROOT.glob("*.yaml"))
    assert [name for name in SHARED if f"/{name}\n" not in used] == []


@pytest.mark.parametrize("name", [*SHARED, *ROWS])
def test_a_row_is_a_short_delta_that_says_what_it_is(name):
    lines = (ROOT / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line for line in lines if line.startswith("# "))
    assert len(lines) <= (20 if name in SHARED else 15)
    assert lines[0] == "# @package _global_"  # Hydra reads it from nowhere but the first line
    assert lines[1].startswith("# Shared: " if name in SHARED else ("# Table 1, ", "# Section 6: "))
    assert max(map(len, lines)) <= 120
    if name in ROWS:
        assert "Published" in comment
        assert all(number in comment for number in RECIPES[name].published.split())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_network_and_images(name):
    """As large as it was published: without its memory, on the meta device."""
    config, recipe = row(name), RECIPES[name]
    dataset = config["dataset"]
    assert kind(dataset) == ("mnist" if name in MNIST else "svhn")
    assert (dataset["val_size"], dataset["subset"], dataset["label_noise"]) == (0, None, 0.0)
    assert (dataset["augment"], dataset["crop"]) == ([], None)
    assert name in MNIST or dataset["extra"] is True
    with torch.device("meta"):
        model = build(config["model"], input_shape=shape(config), num_classes=10)
    assert type(model) is recipe.model
    assert sum(p.numel() for p in model.parameters()) == recipe.parameters
    assert kind(config["certificate"]) == "Pairwise" and isinstance(model.head, nn.Linear)
    if name in MNIST:
        kinds = [type(layer) for layer in model.features]
        assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear, nn.ReLU]
        assert all(layer.bias is not None for layer in (*model.features, model.head) if hasattr(layer, "weight"))
        strided = [(m.kernel_size, m.stride, m.padding) for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert strided == [((4, 4), (2, 2), (1, 1))] * 2
        return
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    found = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in convolutions]
    assert found == wide_resnet(recipe.average)
    assert all(m.bias is None for m in convolutions)
    parseval = recipe.model is ParsevalResNet
    assert all(
        (type(m) is ParsevalConv2d and m.beta == 1e-4) if parseval else type(m) is nn.Conv2d for m in convolutions
    )
    assert sum(isinstance(m, ConvexSum) for m in model.modules()) == (6 if parseval else 0)
    normalisations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in normalisations] == [16, *[64] * 4, *[128] * 4, *[256] * 4]
    assert all((m.eps, m.momentum, m.affine, m.track_running_stats) == (2e-5, 0.1, True, True) for m in normalisations)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4] * 6
    pools = [m for m in model.modules() if isinstance(m, nn.AvgPool2d)]
    assert [(m.kernel_size, m.stride) for m in pools] == [(2, 2)] * (2 if recipe.average else 0)
    assert [type(layer) for layer in model.features.stem] == [type(convolutions[0]), nn.BatchNorm2d]  # and no ReLU


def wide_resnet(average: bool) -> list[tuple[int, int, int, int, int]]:
    """WRN-16-4's convolutions: inputs, outputs, kernel, stride, padding."""
    found, inputs = [(3, 16, 3, 1, 1)], 16
    for outputs, stride in ((64, 1), (128, 2), (256, 2)):
        found += [(inputs, outputs, 3, stride, 1), (outputs, outputs, 3, 1, 1)]
        found += [(inputs, outputs, 1, 1 if average else stride, 0)]
        found += [(outputs, outputs, 3, 1, 1)] * 2
        inputs = outputs
    return found


@pytest.mark.parametrize("name", SVHN)
def test_a_residual_network_computes_what_the_authors_does(name):
    """Their forward pass, written out from their code, on the same weights."""
    config = row(name)
    model = build({**config["model"], "width": 1}, input_shape=(3, 32, 32), num_classes=10).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-1, 2)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
        if isinstance(module, ConvexSum):
            module.alpha.data = torch.tensor([0.3, 0.7], dtype=torch.float64)
    model.eval()
    parseval = RECIPES[name].model is ParsevalResNet

    def conv(layer, x):
        y = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
        return y / layer.kernel_size[0] if parseval else y

    def bn(layer, x):
        scale = layer.weight / (layer.running_var + 2e-5).sqrt()
        return scale.view(-1, 1, 1) * (x - layer.running_mean.view(-1, 1, 1)) + layer.bias.view(-1, 1, 1)

    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    trunk = model.features
    x = bnx = bn(trunk.stem[1], conv(trunk.stem[0], image))
    assert (bnx < 0).any()
    shortcuts = []
    for block in trunk.blocks:
        h = conv(block.second, F.relu(bn(block.first[1], conv(block.first[0], bnx))))
        if block.shortcut is None:
            skip = x
        elif RECIPES[name].average and h.shape[2] < bnx.shape[2]:
            skip = conv(block.shortcut[1], F.avg_pool2d(bnx, 2))
        else:
            skip = conv(block.shortcut, bnx)
        shortcuts.append(block.shortcut is not None)
        x = 0.3 * h + 0.7 * skip if parseval else h + skip
        bnx = F.relu(bn(block.normalised[0], x))
    assert shortcuts == [False, False, True, False, True, False]  # at width 1 the first group is as wide as the stem
    assert bnx.shape[2:] == (8, 8)
    torch.testing.assert_close(model(image), F.linear(bnx.mean((2, 3)), model.head.weight, model.head.bias))


@pytest.mark.parametrize("name", ROWS)
def test_weights_start_as_the_papers_do(name):
    """Convolutions He-normal, linear layers LeCun-normal, biases 0."""
    config = row(name)
    model = build(config["model"], input_shape=shape(config), num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            std = (2 / fan_in) ** 0.5 if isinstance(module, nn.Conv2d) else fan_in**-0.5
            spread = 4 / module.weight.numel() ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=spread)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_loss_and_optimizer(name):
    config, recipe = row(name), RECIPES[name]
    _, loss, optimizer, _ = built(config)
    assert type(loss) is recipe.loss
    due = {"adversary": None, "head_decay": 0.0} if recipe.loss is CrossEntropy else {}
    due |= {"c": recipe.c, "proposition": 2} if recipe.loss is LMT else {}
    due |= recipe.keys
    if name == "mnist_adversarial":
        del due["adversary"]
    assert {key: getattr(loss, key) for key in due} == pytest.approx(due)
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == recipe.decay
    if name in MNIST:
        assert type(optimizer) is torch.optim.Adam
        assert (group["lr"], group["betas"], group["eps"], group["amsgrad"]) == (1e-3, (0.9, 0.999), 1e-8, False)
    else:
        assert type(optimizer) is torch.optim.SGD
        assert (group["initial_lr"], group["momentum"], group["nesterov"]) == (0.01, 0.9, True)
        assert group["dampening"] == 0


def test_the_adversarial_row_trains_on_carlini_and_wagners_examples():
    attack = built(row("mnist_adversarial"))[1].adversary
    assert type(attack).__name__ == "CarliniWagnerL2"
    assert (attack.steps, attack.binary_search_steps, attack.initial_const) == (30, 1, 1.0)
    assert (attack.stepsize, attack.confidence, attack.abort_early, attack.restarts) == (0.01, 0.0, False, 1)
    changed = changes(row("mnist_naive"), row("mnist_adversarial"))
    assert {key for key in changed if not key.startswith("loss.adversary")} == set()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_papers_schedule(name):
    *_, schedule = built(row(name))
    recipe = RECIPES[name]
    assert schedule.early_stopping is None
    assert (schedule.epochs, schedule.batch_size) == ((20, 50) if name in MNIST else (160, 128))
    if name in MNIST:
        assert schedule.ramps == {}
        return
    assert schedule.ramps.keys() == ({"lr", "c"} if recipe.c else {"lr"})
    rates = [schedule.values(epoch)["lr"] for epoch in (0, 79.999, 80, 119.999, 120, 160)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    if recipe.c:
        radii = [schedule.values(epoch)["c"] for epoch in (0, 2.5, 5, 5.001, 160)]
        assert radii == pytest.approx([1e-5, (1e-5 + recipe.c) / 2, recipe.c, recipe.c, recipe.c])
        assert schedule.values(4.999)["c"] < recipe.c


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_attacked_as_the_paper_does(name):
    config = row(name)
    attack = build(config["attack"])
    assert (attack.norm, attack.eps, attack.images) == ("l2", None, None)  # all test images
    if name in MNIST:
        assert type(attack).__name__ == "DeepFoolL2"
        assert (attack.steps, attack.overshoot, attack.candidates) == (50, 0.02, 10)
    else:
        assert config["eps"] == [0.2, 0.5, 1.0]
        assert type(attack).__name__ == "CarliniWagnerL2"
        assert (attack.steps, attack.binary_search_steps, attack.stepsize) == (100, 9, 0.01)
        assert (attack.initial_const, attack.confidence, attack.restarts) == (1e-3, 0.0, 1)
        assert attack.abort_early is False


def test_rows_differ_in_what_their_names_say():
    decay, lmt = row("table1_weight_decay"), row("table1_lmt")
    changed = changes(lmt, row("svhn_average"))
    assert changed == {"model.average_shortcut": True, "loss.c": 0.1, "schedule.c.end": 0.1}

    def parts(old: dict, new: dict) -> set[str]:
        return {key.partition(".")[0] for key in changes(old, new)}

    assert parts(decay, row("table1_spectral_norm")) == {"loss", "optimizer"}
    changed = changes(decay, row("table1_parseval"))
    own = {"model._target_": "lipcert.models.parseval_resnet.ParsevalResNet"}
    assert changed == own | {"loss.head_decay": 5e-4, "optimizer.weight_decay": 0.0}
    assert parts(decay, lmt) == {"loss", "optimizer", "schedule"}
    assert parts(row("mnist_naive"), row("mnist_lmt")) == {"loss"}


def test_the_reproduction_script_names_every_row_and_nothing_else(tmp_path):
    """It is run with a `lipcert` that only writes down what it was asked for."""
    told = calls("reproduce_lmt.sh", tmp_path)
    assert {task for task, *_ in told} == {"train", "certify", "compare"}
    trained: dict[str, list[str]] = {}
    analysed = []
    for task, keys, others in told:
        if task == "train":
            trained[keys["output_dir"]] = keys.pop("experiment").split(",")
            assert others == ["-m"] and keys.keys() == {"data_dir", "output_dir"}
        elif task == "certify":
            assert not others and keys.pop("analysis") == "tightness" and keys.keys() <= {"run", "device"}
            folder, _, number = keys["run"].rpartition("/")
            analysed.append(trained[folder][int(number)])
            config = composed(f"experiment={analysed[-1]}")
            assert kind(config["attack"]) == "DeepFoolL2"  # the analysis reads its rows
        else:
            assert not keys and others and all(path.startswith("OUT/") for path in others)
    everything = [name for rows in trained.values() for name in rows]
    assert sorted(everything) == sorted(f"lmt/{name}" for name in ROWS)
    assert {"lmt/mnist_naive", "lmt/mnist_lmt"} <= set(analysed) <= {f"lmt/{name}" for name in MNIST}
    table1 = [f"lmt/table1_{name}" for name in ("weight_decay", "parseval", "spectral_norm", "lmt")]
    assert trained["OUT/table1"] == table1  # compare shows them in the paper's order
    assert ("compare", {}, ["OUT/table1"]) in told


def finished(run: Path) -> dict:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"] and summary["kind"] == "proof" and summary["norm"] == "l2"
    rows = read_rows(run / "certificates.csv", CertificateRow)
    assert len(rows) == 10 and all(r.radius >= 0 for r in rows)
    return summary


def test_on_svhns_own_files_it_trains_certifies_and_resumes(tmp_path, monkeypatch, capsys):
    """The digits 0 that the files call 10, the extra images, batch normalisation, a stop in the second epoch."""
    data = tmp_path / "data"
    write_svhn(data, monkeypatch)
    small = ["model=lmt_resnet", "model.depth=10", "model.width=1", "dataset=svhn", "attack=none"]
    small += ["dataset.extra=true", "dataset.val_size=0", f"data_dir={data}"]
    small += ["schedule.epochs=2", "schedule.batch_size=30"]  # two steps an epoch, of the extra images too
    run = tmp_path / "run"
    step, steps = training.Training.training_step, []

    def stop(module, batch, batch_idx):
        steps.append(len(batch[1]))
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "training_step", stop)
        assert cli.run("train", [*small, f"output_dir={run}"]) == 130
    assert not (run / "summary.json").exists() and (run / "checkpoints" / "last.ckpt").exists()
    assert cli.run("train", [f"resume={run}"]) == 0, capsys.readouterr().err
    assert steps == [30] * 4
    summary = finished(run)
    assert summary["dataset"].endswith("svhn.svhn") and summary["model"].endswith("LMTResNet")
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and saved["epochs_done"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SVHN)
def test_a_row_can_be_tried_on_files_of_its_kind(tmp_path, monkeypatch, name):
    write_svhn(tmp_path / "data", monkeypatch)
    small = ["model.depth=10", "model.width=1", "schedule.epochs=2", "schedule.batch_size=30", "attack.steps=5"]
    run = tmp_path / "run"
    assert cli.run("train", [f"experiment=lmt/{name}", *small, f"data_dir={tmp_path}/data", f"output_dir={run}"]) == 0
    summary = finished(run)
    assert list(summary["certified_accuracy"]) == ["0.2", "0.5", "1.0"]
    (attack,) = summary["robust_accuracy"]
    assert attack.startswith("carlini_wagner_l2-5x9") and summary["attacked_images"][attack] == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MNIST)
def test_a_row_of_mnist_can_be_tried_on_digits(tmp_path, name):
    small = ["dataset=digits", "schedule.epochs=2", "attack.images=20"]
    run = tmp_path / "run"
    assert cli.run("train", [f"experiment=lmt/{name}", *small, f"output_dir={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"] and summary["clean_accuracy"] > 0.5
    (attack,) = summary["median_distance"]
    assert attack == "deepfool_l2-50" and summary["median_distance"][attack] > 0
