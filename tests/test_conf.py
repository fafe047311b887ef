"""Every name on the command line is a file that composes and builds, and what the user writes wins."""

from collections import Counter

import pytest
import torch
from configurations import CONF, built, calls, changes, composed, kind, names

from lipcert.contracts import Kind
from lipcert.datasets import batches
from lipcert.frozen import freeze
from lipcert.tasks.settings import build

L2NNN = CONF / "experiment" / "l2nnn"

BROUGHT = {  # what each model brings: loss, optimizer, certificate, norm
    "convnet": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "ordinary_deep": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "nearest_neighbour": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "l2nnn": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_deep": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_cifar": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_resnet": ("L2NNNLoss", None, "pairwise", "l2"),
    "linf_dist": ("Hinge", "LpAdamW", "interval", "linf"),
    "linf_dist_mlp": ("IBP", "LpAdamW", "interval", "linf"),
    "linf_dist_conv": ("IBP", "LpAdamW", "interval", "linf"),
    "ibp_convnet": ("IBP", "Adam", "interval", "linf"),
    "lmt_convnet": ("LMT", "Adam", "pairwise", "l2"),
    "lmt_resnet": ("LMT", "SGD", "pairwise", "l2"),
    "parseval_resnet": ("CrossEntropy", "SGD", "pairwise", "l2"),
    "allcnn": ("Tulip", "SGD", "nominal", "l2"),
    "resnet34": ("Tulip", "SGD", "nominal", "l2"),
    "tulip_resnext": ("Tulip", "SGD", "nominal", "l2"),
}
DRIVEN = {
    "clipped_hinge": "clipped_hinge",
    "ibp": "ibp",
    "lmt_resnet": "lmt",
    "gloro": "gloro",
    "linf_dist_mlp": "ibp",
    "linf_dist_mlp_laptop": "ibp",
}  # schedules that drive a loss
RADII = {"mnist": [0.3, 1.0, 1.58, 3.0], "cifar10": [36 / 255, 72 / 255, 108 / 255, 1.5]}
OPTIONS = {group.name: found for group in sorted(CONF.iterdir()) if group.is_dir() and (found := names(group))}
SHARED = [name for name in names(L2NNN) if name.startswith("_")]
ROWS = [name for name in names(L2NNN) if not name.startswith("_")]


def row(name: str, *overrides: str) -> dict:
    return composed(f"experiment=l2nnn/{name}", *overrides)


def chosen(nth: int) -> dict[str, str]:
    """The nth option of every group, with the loss that the schedule drives where it drives one."""
    options = {group: found[nth % len(found)] for group, found in OPTIONS.items()}
    return options | {"loss": DRIVEN.get(options["schedule"], options["loss"])}


NTH = range(2 * max(map(len, OPTIONS.values())))


@pytest.mark.parametrize("nth", NTH)
def test_every_option_of_every_group_composes_and_fits_what_it_is_for(nth):
    options = chosen(nth)
    config = composed(*(f"{group}={name}" for group, name in options.items()))
    norm = options.pop("norm")
    assert config["eps"] == config["dataset"]["eps" if norm == "l2" else f"eps_{norm}"]
    assert all(config[group] for group, name in options.items() if name != "none")


def test_no_option_is_left_out_of_that():
    tried = {pair for nth in NTH for pair in chosen(nth).items()}
    assert tried == {(group, name) for group, found in OPTIONS.items() for name in found}


LARGE = ("l2nnn_cifar", "l2nnn_resnet", "lmt_resnet", "parseval_resnet")  # seconds each, at their own depth


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=[pytest.mark.slow] if m in LARGE else []) for m in names(CONF / "model")]
)
def test_every_model_is_trained_and_certified_by_what_it_brings(model):
    config = composed(f"model={model}")
    dataset = build(config["dataset"])
    network, loss, optimizer, _ = built(config)
    x, y = next(iter(batches(dataset.train, 8, device="cpu")))
    if hasattr(network, "memorise"):
        network.memorise(dataset.train.images[:100], dataset.train.labels[:100])
    if hasattr(loss, "prepare"):
        loss.prepare(network, dataset.input_shape)
    terms = loss(network, x, y)
    assert terms["loss"].isfinite()
    if optimizer:
        terms["loss"].backward()
        optimizer.step()
    certificate = build(config["certificate"])(freeze(network, dataset.input_shape, network.norm))
    assert certificate.kind is (Kind.NOMINAL if certificate.observe else Kind.PROOF)
    if certificate.observe:
        certificate.observe(x.double(), y)
    verdict = certificate.judge(x.double(), y)
    assert (verdict.radius >= 0).all()
    assert (verdict.radius[verdict.prediction != y] == 0).all()


@pytest.mark.parametrize("name", [name for name in names(CONF / "attack") if name != "none"])
def test_every_attack_builds_and_says_what_it_is(name):
    attack = build(composed(f"attack={name}")["attack"])
    assert attack.label.startswith(name)
    assert attack.norm in ("l2", "linf")
    assert attack.eps is None or len(attack.eps)


@pytest.mark.parametrize("schedule", names(CONF / "schedule"))
@pytest.mark.parametrize(("model", "has"), [("l2nnn", {"strict"}), ("ibp_convnet", set()), ("linf_dist", {"p"})])
def test_every_schedule_drives_every_kind_of_network_if_it_can(model, has, schedule):
    overrides = [f"model={model}", f"schedule={schedule}"]
    if schedule in DRIVEN:
        with pytest.raises(ValueError, match=r"`schedule\.\w+\.\w+` has no value: .*loss\.(eps|weight|c)"):
            composed(*overrides, "loss=cross_entropy")
        overrides.append(f"loss={DRIVEN[schedule]}")
    config = composed(*overrides)
    if lacking := {"p", "strict"} & config["schedule"].keys() - has:
        with pytest.raises(ValueError, match=rf"`schedule\.{lacking.pop()}` drives model\."):
            built(config)
    else:
        built(config)


def test_a_schedule_of_p_is_none_of_dropouts():
    with pytest.raises(ValueError, match=r"`schedule\.p` drives model\.p"):
        built(composed("model=convnet", "schedule=linf_dist"))


@pytest.mark.parametrize("model", BROUGHT)
def test_a_model_brings_its_loss_optimizer_certificate_and_norm(model):
    config, (loss, optimizer, certificate, norm) = composed(f"model={model}"), BROUGHT[model]
    assert (kind(config["loss"]), kind(config["certificate"]).lower()) == (loss, certificate)
    assert optimizer in (None, kind(config["optimizer"]))
    assert config["eps"] == config["dataset"]["eps" if norm == "l2" else f"eps_{norm}"]
    assert config["attack"].get("eps", config["eps"]) == config["eps"]
    assert config["attack"]["norm"] == built(config)[0].norm == norm


def test_all_models_are_in_the_table_of_what_they_bring():
    assert set(BROUGHT) == set(names(CONF / "model"))


def test_what_the_user_writes_wins_over_what_a_model_brings():
    config = composed("model=l2nnn", "loss=cross_entropy", "optimizer=sgd", "schedule=constant", "certificate=margin")
    targets = [kind(config[part]) for part in ("model", "loss", "optimizer", "certificate")]
    assert targets == ["L2NNN", "CrossEntropy", "SGD", "Pairwise"]
    assert config["certificate"]["bounds"] == ["vector", "logits"]
    assert "lr" not in config["schedule"]
    assert composed("loss=cross_entropy", "model=l2nnn") == composed("model=l2nnn", "loss=cross_entropy")


def test_what_the_user_writes_wins_over_an_experiment():
    config = row("table1_model4", "schedule.epochs=3", "loss.omega=0.5", "eps=[0.7]", "dataset.val_size=1000", "seed=4")
    assert (config["schedule"]["epochs"], config["loss"]["omega"], config["eps"]) == (3, 0.5, [0.7])
    assert (config["dataset"]["val_size"], config["dataset"]["seed"]) == (1000, 4)
    assert row("table1_model4", "dataset=fashion_mnist")["dataset"]["_target_"].endswith("fashion_mnist")
    assert row("table1_model4", "loss.adversary=null")["loss"]["adversary"] is None
    assert kind(row("table1_model3", "attack=pgd_l2")["attack"]) == "ProjectedGradient"
    assert "_target_" not in row("table1_model3", "attack=none")["attack"]


def test_the_radii_reported_are_the_data_sets_unless_someone_says_otherwise():
    assert composed("dataset=mnist")["eps"] == composed("dataset=mnist")["dataset"]["eps"] != composed()["eps"]
    assert composed("dataset=mnist", "eps=[0.25]")["eps"] == [0.25]
    assert composed("dataset=mnist", "attack=pgd_l2", "eps=[0.25]")["attack"]["eps"] == [0.25]
    assert row("table1_model3")["eps"] == RADII["mnist"]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_a_table_builds_on_its_own_data(name):
    config = row(name)
    data = kind(config["dataset"])
    assert data == ("cifar10" if "cifar10" in name or name.startswith("table2") else "mnist")
    assert config["eps"] == RADII[data]
    assert config["dataset"]["val_size"] == (5000 if "early_stopping" in name else 0)
    assert (config["schedule"]["early_stopping"] is not None) == ("early_stopping" in name)
    if "_target_" in config["attack"]:
        build(config["attack"])
    built(config)


@pytest.mark.parametrize("name", [*SHARED, *ROWS])
def test_a_row_is_a_short_delta_that_says_what_it_is(name):
    lines = (L2NNN / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= (20 if name in SHARED else 15)
    assert lines[0] == "# @package _global_"  # Hydra reads it from nowhere but the first line
    assert lines[1].startswith("# Shared: " if name in SHARED else ("# Table ", "# Poster, table "))
    comment = " ".join(line for line in lines if line.startswith("# "))
    assert name in SHARED or "Published" in comment


def test_no_row_is_missing():
    tables = Counter(name.partition("_")[0] if name[0] == "t" else "_".join(name.split("_")[:2]) for name in ROWS)
    assert tables == {
        "table1": 4,
        "table2": 4,
        "table3": 6,
        "table4": 4,
        "table5": 5,
        "table6": 6,
        "table7": 25,
        "table8": 25,
        "table9": 4,
        "table10": 7,
        "poster_table1": 6,
        "poster_table2": 6,
    }
    used = "\n".join(path.read_text() for path in L2NNN.glob("*.yaml"))
    assert [name for name in SHARED if f"/{name}\n" not in used] == []


def test_the_papers_rows_keep_their_recipe_whatever_the_defaults_become():
    config = row("table1_model3")
    assert kind(config["model"]) == "L2NNNDeep"
    assert (config["model"]["shared"], config["model"]["branch"], config["model"]["pooling"]) == (10, 9, "norm")
    model, loss, optimizer, schedule = built(config)
    assert [loss.alpha, loss.gamma, loss.omega, loss.z, loss.lambda_w, loss.v.item()] == [1] * 6
    assert loss.v.requires_grad and loss.u.requires_grad and loss.adversary is None
    assert isinstance(optimizer, torch.optim.Adam)
    assert (schedule.epochs, schedule.batch_size) == (120, 128)
    lr = config["optimizer"]["lr"]
    rates = [schedule.values(epoch)["lr"] * lr for epoch in (0, 59.9999, 60, 120)]
    assert rates == pytest.approx([1e-3, 1e-6, 3e-4, 1e-6], rel=1e-3)
    assert [schedule.values(epoch)["strict"] for epoch in (0, 59, 60, 120)] == [0, 0, 1, 1]
    assert all(layer.strict == 1 for layer in model.modules() if hasattr(layer, "strict"))


@pytest.mark.parametrize("name", ["table1_model2", "table1_model4", "table2_model2", "table2_model4"])
def test_adversarial_rows_train_on_madrys_attack(name):
    config = row(name)
    eps, step, steps = (0.3, 0.01, 40) if name.startswith("table1") else (8 / 255, 2 / 255, 10)
    attack = built(config)[1].adversary
    assert (attack.norm, attack.eps, attack.steps) == ("linf", [eps], steps)
    assert attack.rel_stepsize * eps == pytest.approx(step)
    assert attack.random_start and attack.seed is None  # else every step would start from the same points
    plain_row = row(name.replace("model2", "model1").replace("model4", "model3"))
    assert {key for key in config if config[key] != plain_row[key]} == {"loss"}


def test_ablations_change_one_thing():
    full = row("table1_model3")
    assert changes(full, row("table3_no_confidence_loss")) == {"loss.omega": 0.0}
    assert changes(full, row("table3_max_pooling")) == {"model.pooling": "max"}
    assert changes(full, row("table3_one_sided_relu")) == {"model.activation": "relu"}
    assert changes(full, row("table3_omega0.5")) == {"loss.omega": 0.5}
    assert changes(full, row("table3_omega2.0")) == {"loss.omega": 2.0}
    assert changes(full, row("table5_rand25")).pop("dataset.label_noise") == 0.25
    assert "_target_" not in row("table5_rand25")["attack"]


@pytest.mark.parametrize("table", [6, 9, 10])
def test_trade_offs_go_one_way_and_end_in_table_5(table):
    rows = [row(name) for name in ROWS if name.startswith(f"table{table}_")]
    rows.sort(key=lambda config: config["loss"]["omega"])
    assert [config["loss"]["v"] for config in rows] == sorted((config["loss"]["v"] for config in rows), reverse=True)
    assert len({config["loss"]["omega"] for config in rows}) == len(rows)
    share = {6: 50, 9: 25, 10: 75}[table]
    assert {config["dataset"]["label_noise"] for config in rows} == {share / 100}
    assert rows[-1] == row(f"table5_rand{share}")


@pytest.mark.parametrize("table", [7, 8])
def test_scrambled_rows_have_what_their_names_say(table):
    for share in (0, 25, 50, 75, 100):
        for variant in ("vanilla", "wd", "dropout", "early_stopping", "wd_dropout_early_stopping"):
            config = row(f"table{table}_rand{share}_{variant}")
            assert kind(config["model"]) == ("ConvNet" if table == 7 else "OrdinaryDeep")
            assert config["dataset"]["label_noise"] == share / 100
            assert (config["optimizer"]["weight_decay"] > 0) == variant.startswith("wd")
            assert (config["model"]["dropout"] > 0) == ("dropout" in variant)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("poster")])
def test_poster_rows_have_what_their_names_say(name):
    config = row(name)
    _, table, w, dbc = name.split("_", 3)
    model, loss, _, schedule = built(config)
    assert kind(config["model"]) == ("L2NNN" if table == "table1" else "L2NNNResNet")
    assert config["model"]["divide"] == (dbc == "dbc")
    assert (loss.lambda_w, loss.omega, schedule.epochs) == (float(w[1:]), 0.1, 99)
    assert not any(layer.strict for layer in model.modules() if hasattr(layer, "strict"))
    assert schedule.values(50)["strict"] == 0


def test_the_reproduction_script_names_every_row_and_nothing_else(tmp_path):
    """It is run with a `lipcert` that only writes down what it was asked for."""
    told = calls("reproduce_l2nnn.sh", tmp_path)
    assert {task for task, *_ in told} == {"train", "attack", "compare"}
    trained: list[str] = []
    for task, keys, others in told:
        if task == "train":
            trained += keys.pop("experiment").split(",")
            assert others == ["-m"]
            assert keys.keys() <= {"data_dir", "output_dir", "seed"}
        elif task == "attack":
            keys.pop("run"), keys.pop("device")
            assert not others
            build(composed(*(f"{key}={value}" for key, value in keys.items()))["attack"])
        else:
            assert not keys and others and all(path.startswith("OUT/") for path in others)
    assert len(set(trained)) == len(trained)
    again = {f"l2nnn/{name}" for name in ROWS if name.startswith("table4_")}  # tables 1 and 2 under another attack
    assert set(trained) == {f"l2nnn/{name}" for name in ROWS} - again


def test_the_laptop_recipes_build_and_end_where_they_can_be_certified():
    for name in names(CONF / "experiment" / "laptop"):
        config = composed(f"experiment=laptop/{name}")
        *_, schedule = built(config)
        assert schedule.values(schedule.epochs).get("p", float("inf")) == float("inf")
