"""The rows of the l_inf-distance papers keep the papers' recipes, whatever the defaults become."""

import json
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from configurations import CONF, built, calls, changes, composed, kind, names, shape

from lipcert import cli
from lipcert.contracts import CertificateRow
from lipcert.layers import DistanceConv2d, DistanceLinear
from lipcert.optimizers.lp_adamw import LpAdamW
from lipcert.reporting.rows import read_rows
from lipcert.tasks.settings import build

LINF_DIST = CONF / "experiment" / "linf_dist"
SHARED = [name for name in names(LINF_DIST) if name.startswith("_")]
ROWS = [name for name in names(LINF_DIST) if not name.startswith("_")]
IBP = [name for name in ROWS if name.endswith("_ibp")]
NETS = [name for name in ROWS if name not in IBP]


def row(name: str, *overrides: str) -> dict:
    return composed(f"experiment=linf_dist/{name}", *overrides)


@dataclass(frozen=True)
class Recipe:
    """A row as the papers have it: images, epochs and radii in pixels. `epochs`: p leaves 8, p reaches inf, the end."""

    model: str
    data: str
    radii: tuple[float, ...]
    epochs: tuple[float, float, float]
    layers: int  # distance layers, the last one included
    theta: float | None = None  # of the hinge, in pixels
    mix: float | None = None
    eps_train: float | None = None
    kappa: float | None = None  # weight of the natural loss
    weight: tuple[float, float] | None = None  # of the follow-up's cross-entropy, first and last
    lr: float = 0.02
    decay: float = 0.005
    follow_p: bool = True
    identity: bool = True
    width: int = 5120
    hold: float | None = None  # epochs before the learning rate falls: as long as p is 8
    p: float = 8.0
    steps: int = 20  # of the attack
    crop: tuple[int, float | str] | None = (4, 0)  # padding and what with
    flip: bool = True


def net(data: str, epochs: tuple[float, float, float], radius: float, layers: int, **more) -> Recipe:
    return Recipe("LinfDist", data, (radius,), epochs, layers, **more)


def mlp(data: str, epochs: tuple[float, float, float], radius: float, layers: int, **more) -> Recipe:
    return Recipe("LinfDistMLP", data, (radius,), epochs, layers, **more)


GREY = {"crop": (1, 0), "flip": False}
MNIST, CIFAR10 = (50, 350, 400), (100, 750, 800)
OF_CIFAR10 = (2 / 255, 8 / 255, 16 / 255)  # table 3 reports at the data set's radii, so that it may be another


def table3(recipe: Recipe, **switches) -> Recipe:
    return Recipe(**{**recipe.__dict__, "radii": OF_CIFAR10, **switches})


def follow_up(data: str, radius: float, eps: float, weight: tuple[float, float]) -> Recipe:
    """ICLR 2022: theta is twice eps_train; plain Adam, one cosine, borders repeated."""
    grey = data == "mnist"
    return net(
        data,
        (25, 400, 450) if grey else (100, 1250, 1300),
        radius,
        5 if grey else 6,
        theta=2 * eps,
        weight=weight,
        lr=0.03,
        decay=0.0,
        hold=0,
        steps=100,
        crop=(1 if grey else 3, "edge"),
        flip=not grey,
    )


CIFAR10_NET = net("cifar10", CIFAR10, 8 / 255, 6, theta=80 / 255, mix=0.75)
CIFAR10_MLP = mlp("cifar10", CIFAR10, 8 / 255, 5, eps_train=8.8 / 255, kappa=0.0)
RECIPES = {
    "table1_mnist_net": net("mnist", MNIST, 0.3, 5, theta=0.9, mix=0.75, **GREY),
    "table1_mnist_net_mlp": mlp("mnist", MNIST, 0.3, 4, eps_train=0.35, kappa=0.5, **GREY),
    "table1_fashion_mnist_net": net("fashion_mnist", MNIST, 0.1, 5, theta=0.45, mix=1.0, **GREY),
    "table1_fashion_mnist_net_mlp": mlp("fashion_mnist", MNIST, 0.1, 4, eps_train=0.11, kappa=0.5, **GREY),
    "table1_cifar10_net": CIFAR10_NET,
    "table1_cifar10_net_mlp": CIFAR10_MLP,
    "table2_tiny_imagenet_net_mlp": mlp(
        "tiny_imagenet", (100, 450, 500), 1 / 255, 5, eps_train=0.005, kappa=0.0, lr=0.04, crop=None
    ),
    "table9_conv_net_mlp": Recipe(**{**CIFAR10_MLP.__dict__, "model": "LinfDistConv", "layers": 6, "width": 512}),
    **{
        f"table3_{letter}_{name}": table3(full, **switches)
        for name, full in {"net": CIFAR10_NET, "net_mlp": CIFAR10_MLP}.items()
        for letter, switches in {
            "a": {"decay": 0.0, "identity": False, "p": math.inf},
            "b": {"decay": 0.0, "identity": False},
            "c": {"decay": 0.0},
            "d": {"follow_p": False},
            "e": {},
        }.items()
    },
    **{
        f"table7_{start}_{depth}": table3(CIFAR10_NET, layers=depth, identity=start == "identity", steps=0)
        for start in ("gaussian", "identity")
        for depth in range(5, 11)
    },
    "iclr2022_mnist_0.1": follow_up("mnist", 0.1, 0.3, (0.05, 0.0002)),
    "iclr2022_mnist_0.3": follow_up("mnist", 0.3, 0.45, (0.05, 0.0002)),
    "iclr2022_cifar10_2": follow_up("cifar10", 2 / 255, 10 / 255, (0.05, 0.002)),
    "iclr2022_cifar10_8": follow_up("cifar10", 8 / 255, 24 / 255, (0.1, 0.0005)),
    "iclr2022_cifar10_16": follow_up("cifar10", 16 / 255, 40 / 255, (0.1, 0.0002)),
}
PIXELS = {  # mean a channel and the one std
    "mnist": ([0.1307], 0.3081),
    "fashion_mnist": ([0.2860], 0.3520),
    "cifar10": ([0.4914, 0.4822, 0.4465], 0.2009),
    "tiny_imagenet": ([0.4802, 0.4481, 0.3975], 0.2276),
}
MULTIPLICATIONS = {  # an image, as the papers print them
    "table1_mnist_net": "82.7M",
    "table1_mnist_net_mlp": "85.3M",
    "table1_fashion_mnist_net": "82.7M",
    "table1_fashion_mnist_net_mlp": "85.3M",
    "table1_cifar10_net": "121M",
    "table1_cifar10_net_mlp": "123M",
    "table2_tiny_imagenet_net_mlp": "156M",
    "table9_conv_net_mlp": "566M",
    "table1_mnist_ibp": "114M",
    "table1_fashion_mnist_ibp": "114M",
    "table1_cifar10_ibp": "151M",
}


def distance_layers(model: torch.nn.Module) -> list:
    return [layer for layer in model.modules() if isinstance(layer, DistanceLinear | DistanceConv2d)]


def test_no_row_is_missing():
    assert set(RECIPES) == set(NETS)
    tables = Counter(name.partition("_")[0] for name in ROWS)
    assert tables == {"table1": 9, "table2": 1, "table3": 10, "table7": 12, "table9": 1, "iclr2022": 5}
    used = "\n".join(path.read_text() for path in LINF_DIST.glob("*.yaml"))
    assert [name for name in SHARED if f"/{name}\n" not in used] == []


@pytest.mark.parametrize("name", [*SHARED, *ROWS])
def test_a_row_is_a_short_delta_that_says_what_it_is(name):
    lines = (LINF_DIST / f"{name}.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ")][1:]
    assert len(lines) - len(comments) <= (25 if name in SHARED else 20)
    assert lines[0] == "# @package _global_"  # Hydra reads it from nowhere but the first line
    assert lines[1].startswith("# Shared: " if name in SHARED else ("# Table ", "# ICLR 2022"))
    assert max(map(len, lines)) <= 120
    assert name in SHARED or "Published" in " ".join(comments)


@pytest.mark.parametrize("name", NETS)
def test_a_row_has_the_papers_architecture_and_input(name):
    config, recipe = row(name), RECIPES[name]
    dataset, model = config["dataset"], config["model"]
    assert (kind(model), kind(dataset)) == (recipe.model, recipe.data)
    assert (model["mean"], model["std"]) == PIXELS[recipe.data]
    assert (model["width"], model["identity"]) == (recipe.width, recipe.identity)
    assert "hidden" not in model or model["hidden"] == 512
    assert (dataset["val_size"], dataset["subset"], dataset["label_noise"]) == (0, None, 0.0)
    assert dataset["crop"] == (56 if recipe.data == "tiny_imagenet" else None)
    expected = [] if recipe.crop is None else [("RandomCrop", *recipe.crop)]
    expected += [("HorizontalFlip", None, None)] if recipe.flip else []
    found = [(kind(a), a.get("padding"), a.get("fill", 0 if "padding" in a else None)) for a in dataset["augment"]]
    assert found == expected
    layers = distance_layers(built(config)[0])
    assert len(layers) == recipe.layers
    assert all(torch.equal(layer.weight == -10.0, starts(layer, recipe.identity)) for layer in layers)


def starts(layer, identity: bool) -> torch.Tensor:
    """Where a distance layer has its −10 at the start: nowhere if it narrows, or is the last, which has a bias."""
    expected = torch.zeros(layer.weight.shape, dtype=torch.bool)
    outputs, inputs = layer.weight.shape[:2]
    if identity and inputs <= outputs and layer.bias is None:
        for i in range(outputs):
            expected[i, i % inputs][(1, 1) if expected.dim() == 4 else ()] = True
    return expected


@pytest.mark.parametrize("name", NETS)
def test_a_row_has_the_papers_loss_and_optimizer(name):
    config, recipe = row(name), RECIPES[name]
    _, loss, optimizer, _ = built(config)
    names_of = {"Hinge": ("theta", "mix"), "IBP": ("eps_train", "kappa"), "ClippedHinge": ("theta", "weight")}
    due = {"eps_train": loss.eps, "theta": 2 * loss.eps}
    due |= {key: getattr(loss, key) for key in ("mix", "kappa") if hasattr(loss, key)}
    if kind(config["loss"]) == "ClippedHinge":
        due["weight"] = (config["loss"]["weight"], loss.weight)  # the schedule has been driven to its end
        assert loss.scale_rate * config["optimizer"]["lr"] == pytest.approx(0.006)
    keys = names_of[kind(config["loss"])]
    given = [key for key in ("theta", "mix", "eps_train", "kappa", "weight") if getattr(recipe, key) is not None]
    assert sorted(given) == sorted(keys)
    assert all(due[key] == pytest.approx(getattr(recipe, key)) for key in keys)
    assert isinstance(optimizer, LpAdamW)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.99), 1e-10, 0)
    assert (group["initial_lr"], group["decay"]) == (recipe.lr, recipe.decay)
    assert optimizer.follow_p == recipe.follow_p


@pytest.mark.parametrize("name", NETS)
def test_a_row_has_the_papers_schedule_and_ends_at_infinity(name):
    config, recipe = row(name), RECIPES[name]
    model, _, _, schedule = built(config)
    assert all(layer.p == layer.weight.p == math.inf for layer in distance_layers(model))
    begin, finish, end = recipe.epochs
    hold = begin if recipe.hold is None else recipe.hold
    assert (schedule.epochs, schedule.batch_size, schedule.early_stopping) == (end, 512, None)
    just = 1e-9

    def at(key: str, *epochs: float) -> list[float]:
        return [schedule.values(epoch)[key] for epoch in epochs]

    if recipe.p == 8:
        between = math.sqrt(8 * 1000)
        expected = [8, 8, between, 1000, math.inf, math.inf]
        assert at("p", 0, begin, (begin + finish) / 2, finish - just, finish, end) == pytest.approx(expected, rel=1e-6)
        assert at("p", begin + 1)[0] > 8
    else:
        assert at("p", 0, begin, finish, end) == [math.inf] * 4
    assert at("lr", 0, hold, (hold + end) / 2, end) == pytest.approx([1, 1, 0.5, 0])
    assert at("lr", hold + 1)[0] < 1
    if recipe.eps_train:
        expected = [0, recipe.eps_train / 2, recipe.eps_train, recipe.eps_train]
        assert at("eps", 0, begin / 2, begin, end) == pytest.approx(expected)
    if recipe.weight:
        first, last = recipe.weight
        expected = [first, first, math.sqrt(first * last), last, last]
        assert at("weight", 0, begin, (begin + finish) / 2, finish, end) == pytest.approx(expected)
    assert schedule.ramps.keys() == {"p", "lr"} | ({"eps"} if recipe.eps_train else set()) | (
        {"weight"} if recipe.weight else set()
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_certified_and_attacked_at_the_papers_radius(name):
    config = row(name)
    radii = RECIPES[name].radii if name in RECIPES else {"mnist": (0.3,), "cifar10": (8 / 255,)}.get(data(name), (0.1,))
    assert config["eps"] == pytest.approx(radii)
    assert kind(config["certificate"]) == "Interval"
    steps = RECIPES[name].steps if name in RECIPES else 20
    if not steps:
        assert "_target_" not in config["attack"]
        return
    attack = build(config["attack"])
    assert (attack.norm, attack.eps, attack.steps, attack.restarts) == ("linf", config["eps"], steps, 1)
    assert attack.rel_stepsize == 0.25
    assert attack.loss == "ce" and attack.random_start and attack.images is None


def data(name: str) -> str:
    return name.removeprefix("table1_").removesuffix("_ibp")


@pytest.mark.parametrize("name", IBP)
def test_the_baselines_are_trained_by_interval_propagation_for_as_long(name):
    config = row(name)
    _, loss, optimizer, schedule = built(config)
    total = {"mnist": 400, "fashion_mnist": 400, "cifar10": 800}[data(name)]
    eps = {"mnist": 0.4, "fashion_mnist": 0.11, "cifar10": 8.8 / 255}[data(name)]
    assert (kind(config["model"]), kind(config["dataset"])) == ("IBPConvNet", data(name))
    assert config["dataset"]["val_size"] == 0
    assert (schedule.epochs, schedule.batch_size) == (total, 512)
    values = [schedule.values(epoch) for epoch in (0, total / 20, 11 * total / 40, total / 2, 3 * total / 4, total)]
    assert [v["eps"] for v in values] == pytest.approx([1e-6, 1e-6, math.sqrt(1e-6 * eps), eps, eps, eps])
    assert [v["lr"] for v in values] == pytest.approx([1, 1, 1, 1, 0.5, 0])
    assert type(optimizer) is torch.optim.Adam and optimizer.param_groups[0]["initial_lr"] == 5e-4
    assert (loss.eps, loss.kappa) == (pytest.approx(eps), 0.5)


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_a_network_is_as_large_as_the_paper_prints(name):
    """What an image costs at full width, a weight once wherever it is used: without its memory, on the meta device."""
    config = row(name)
    counts = []

    def count(layer, _, output):
        counts.append(output[0].numel() * layer.weight[0].numel())

    with torch.device("meta"), torch.no_grad():
        classes = 200 if "tiny_imagenet" in name else 10
        model = build(config["model"], input_shape=shape(config), num_classes=classes).eval()
        for layer in model.modules():
            if hasattr(layer, "weight"):
                layer.register_forward_hook(count)
        assert model(torch.zeros(1, *shape(config))).shape == (1, classes)
    assert f"{sum(counts) / 1e6:.3g}M" == MULTIPLICATIONS[name]


@pytest.mark.parametrize("kind_of_net", ["net", "net_mlp"])
def test_ablations_change_one_thing(kind_of_net):
    a, b, c, d, e = (row(f"table3_{letter}_{kind_of_net}") for letter in "abcde")
    radius = [8 / 255]
    assert changes(e, row(f"table1_cifar10_{kind_of_net}")) == {"eps": radius, "attack.eps": radius}
    assert changes(e, d) == {"optimizer.follow_p": False}
    assert changes(e, c) == {"optimizer.weight_decay": 0.0}
    assert changes(c, b) == {"model.identity": False}
    assert changes(b, a) == {"schedule.p.begin": 0.0, "schedule.p.finish": 0.0}


def test_depths_and_starts_change_nothing_else():
    full = row("table7_identity_6")
    changed = changes(row("table3_e_net"), full)
    assert {key for key in changed if not key.startswith("attack.")} == {"model.depth"}
    for depth in range(5, 11):
        deep = row(f"table7_identity_{depth}")
        assert changes(full, deep) == ({} if depth == 6 else {"model.depth": depth})
        assert changes(deep, row(f"table7_gaussian_{depth}")) == {"model.identity": False}


def test_the_convolutional_row_changes_the_network_alone():
    changed = changes(row("table1_cifar10_net_mlp"), row("table9_conv_net_mlp"))
    assert {key.partition(".")[0] for key in changed} == {"model"}
    assert row("table9_conv_net_mlp")["model"]["channels"] == [128, 128, 256, 256, 256]


@pytest.mark.parametrize("letter", "abcde")
@pytest.mark.parametrize("kind_of_net", ["net", "net_mlp"])
def test_ablations_fit_another_data_set_and_a_small_machine(kind_of_net, letter):
    name = f"table3_{letter}_{kind_of_net}"
    small = row(name, "dataset=mnist", "model.width=256", "schedule.epochs=20")
    plain = composed("dataset=mnist", "model=linf_dist")
    assert changes(plain["dataset"], small["dataset"]) == {"val_size": 0}
    assert small["eps"] == small["attack"]["eps"] == plain["dataset"]["eps_linf"] == [0.1, 0.3]
    assert (small["model"]["mean"], small["model"]["std"]) == PIXELS["mnist"]
    assert small["loss"]["eps"] == (0.45 if kind_of_net == "net" else 0.35)
    _, _, _, schedule = built(small)
    assert schedule.values(2.5)["lr"] == 1 > schedule.values(2.6)["lr"]
    assert schedule.values(18.8)["p"] == math.inf
    assert changes(row(name), small).keys() >= {"schedule.epochs", "model.width"}
    assert not [key for key in changes(row(name), small) if key.startswith("optimizer.")]


def test_the_follow_ups_rows_change_radii_and_weights_alone():
    own = {"eps", "attack.eps", "loss.eps", "loss.weight", "schedule.weight.start", "schedule.weight.end"}
    for rows in (["mnist_0.1", "mnist_0.3"], ["cifar10_2", "cifar10_8"], ["cifar10_8", "cifar10_16"]):
        changed = changes(*(row(f"iclr2022_{name}") for name in rows))
        assert changed.keys() <= own


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1_mnist_net", "table3_a_net", "table3_e_net_mlp", "iclr2022_mnist_0.3"])
def test_a_row_can_be_tried_in_seconds(tmp_path, name):
    directory = tmp_path / "run"
    small = ["dataset=digits", "eps=[0.02]", "model.width=16", "schedule.epochs=2", "schedule.batch_size=128"]
    assert cli.run("train", [f"experiment=linf_dist/{name}", *small, f"output_dir={directory}"]) == 0
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["finished"] and summary["norm"] == "linf" and summary["kind"] == "proof"
    (robust,) = summary["robust_accuracy"].values()
    certified, plain = (summary[f"certified_accuracy{by}"]["0.02"] for by in ("", "_by_lipschitz"))
    assert plain <= certified <= robust["0.02"] <= summary["clean_accuracy"]
    rows = read_rows(directory / "certificates.csv", CertificateRow)
    assert len(rows) == 359 and any(row.radius > 0 for row in rows)


def test_the_reproduction_script_names_every_row_and_nothing_else(tmp_path):
    """It is run with a `lipcert` that only writes down what it was asked for."""
    told = calls("reproduce_linf_dist.sh", tmp_path)
    assert {task for task, *_ in told} == {"train", "compare"}
    trained: list[str] = []
    for task, keys, others in told:
        if task == "train":
            rows = keys.pop("experiment").split(",")
            trained += rows
            assert others == ["-m"]
            assert keys.keys() <= {"data_dir", "output_dir", "seed"}
            median = any(f"linf_dist/{name}" in rows for name in NETS if name.startswith("table1_"))
            assert len(keys.get("seed", "0").split(",")) == (8 if median else 1)
        else:
            assert not keys and others and all(path.startswith("OUT/") for path in others)
    assert len(set(trained)) == len(trained)
    again = {f"linf_dist/table3_e_{name}" for name in ("net", "net_mlp")}  # table 1's
    assert set(trained) == {f"linf_dist/{name}" for name in ROWS} - again
