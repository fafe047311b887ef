"""Every name on the command line is a file that composes and builds, and what the user writes wins."""

import pytest
from configurations import CONF, built, composed, kind, names
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lipcert.configuration import build, check, plain
from lipcert.contracts import Kind
from lipcert.datasets import batches
from lipcert.frozen import freeze
from lipcert.runs.numbers import attack_norm

BROUGHT = {  # what each model brings: loss, optimizer, certificate, norm
    "convnet": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "ordinary_deep": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "nearest_neighbour": ("CrossEntropy", "Adam", "pairwise", "l2"),
    "l2nnn": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_deep": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_cifar": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_resnet": ("L2NNNLoss", None, "pairwise", "l2"),
    "l2nnn_recurrent": ("L2NNNLoss", None, "pairwise", "l2"),
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
OPTIONS = {group.name: found for group in sorted(CONF.iterdir()) if group.is_dir() and (found := names(group))}
LARGE = (
    "l2nnn_cifar",
    "l2nnn_deep",
    "l2nnn_resnet",
    "ordinary_deep",
    "lmt_resnet",
    "parseval_resnet",
)  # seconds each, at their own depth
TRAINING = {"radius", "c", "eps_train", "eps_ibp", "epochs", "batch_size"}


def chosen(nth: int) -> dict[str, str]:
    """The nth option of every group, with the loss that the schedule drives where it drives one."""
    options = {group: found[nth % len(found)] for group, found in OPTIONS.items()}
    return options | {"loss": DRIVEN.get(options["schedule"], options["loss"])}


NTH = range(2 * max(map(len, OPTIONS.values())))


@pytest.mark.parametrize("nth", NTH)
def test_every_option_of_every_group_composes_and_fits_what_it_is_for(nth):
    options = chosen(nth)
    config = composed(*(f"{group}={name}" for group, name in options.items()))
    norm = options.pop("radii")
    assert config["eps"] == config["dataset"]["eps" if norm == "l2" else f"eps_{norm}"]
    assert all(config[group] for group, name in options.items() if name not in ("none", "csv"))


def test_no_option_is_left_out_of_that():
    tried = {pair for nth in NTH for pair in chosen(nth).items()}
    assert tried == {(group, name) for group, found in OPTIONS.items() for name in found}


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
    assert attack_norm(attack.label) is attack.norm
    assert attack.eps is None or len(attack.eps)


@pytest.mark.parametrize("schedule", DRIVEN)
def test_a_schedule_that_drives_a_loss_needs_that_loss(schedule):
    with pytest.raises(ValueError, match=r"`schedule\.\w+\.\w+` has no value: .*loss\.(eps|weight|c)"):
        composed(f"schedule={schedule}", "loss=cross_entropy")


@pytest.mark.parametrize("schedule", names(CONF / "schedule"))
@pytest.mark.parametrize(("model", "has"), [("l2nnn", {"strict"}), ("ibp_convnet", set()), ("linf_dist", {"p"})])
def test_every_schedule_drives_every_kind_of_network_if_it_can(model, has, schedule):
    driver = composed(f"schedule={schedule}", f"loss={DRIVEN.get(schedule, 'cross_entropy')}")
    config = composed(f"model={model}") | {key: driver[key] for key in ("schedule", "loss")}
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


def test_the_radii_reported_are_the_data_sets_unless_someone_says_otherwise():
    assert composed("dataset=mnist")["eps"] == composed("dataset=mnist")["dataset"]["eps"] != composed()["eps"]
    assert composed("dataset=mnist", "eps=[0.25]")["eps"] == [0.25]
    assert composed("dataset=mnist", "attack=pgd_l2", "eps=[0.25]")["attack"]["eps"] == [0.25]


@pytest.mark.parametrize("dataset", names(CONF / "dataset"))
def test_every_data_set_says_how_it_is_trained_on_and_knows_nothing_of_it_itself(dataset):
    config = composed(f"dataset={dataset}", *(["dataset.path=x"] if dataset in ("npz", "image_folder") else []))
    assert config["training"].keys() == TRAINING and None not in config["training"].values()
    assert not TRAINING & config["dataset"].keys()
    assert names(CONF / "training") == names(CONF / "dataset")


def test_what_the_user_writes_of_training_wins_and_the_schedule_and_the_loss_follow():
    overrides = ("model=l2nnn", "dataset=mnist", "training.epochs=5", "training.radius=0.5")
    config = composed(*overrides)
    assert (config["schedule"]["epochs"], config["loss"]["radius"]) == (5, 0.5)
    assert composed(*overrides, "schedule.epochs=7", "loss.radius=1.0")["schedule"]["epochs"] == 7
    assert composed("dataset=cifar10", "training=mnist")["training"] == composed("dataset=mnist")["training"]


def test_a_data_set_of_ones_own_needs_no_training_file_until_a_loss_needs_a_radius(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text(
        "_target_: lipcert.datasets.digits.digits\neps: [0.1]\neps_linf: [0.1]\n"
    )

    def own(*overrides: str) -> dict:
        GlobalHydra.instance().clear()
        with initialize_config_module("lipcert.conf", version_base="1.3"):
            search = f"hydra.searchpath=[file://{tmp_path}]"
            config = plain(compose("train", ["output_dir=nowhere", "dataset=mine", search, *overrides]))
        check(config)
        return config

    config = own("model=convnet")
    assert config["training"] == dict.fromkeys(TRAINING) | {"epochs": 100, "batch_size": 128}
    for loss, key in (("gloro", "loss.eps"), ("lmt", "loss.c"), ("hinge", "loss.eps"), ("ibp", "loss.eps")):
        with pytest.raises(ValueError, match=f"`{key}` must be float, got None"):
            own("model=convnet", f"loss={loss}")
    assert own("model=convnet", "loss=gloro", "training.radius=0.5")["loss"]["eps"] == 0.5
