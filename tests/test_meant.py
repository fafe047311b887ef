"""What a word that is none here may mean: the key or option that is meant is named, in one line, and never the word."""

import re
from pathlib import Path

import pytest
from commandline import refused

from lipcert.cli import describe
from lipcert.cli.choices import chosen, options
from lipcert.cli.meant import WORDS, did_you_mean, keys_meant, options_meant, options_with, override_meant, spelt_like
from lipcert.cli.messages import elsewhere, unknown_key


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def configs():
    return {command: chosen(command) for command in ("train", "attack", "certify", "separation", "compare")}


KEYS = [  # a command, keys that it does not have, and what is meant
    ("train", "lr learning_rate optimizer.learning_rate model.lr training.lr", ["optimizer.lr"]),
    ("train", "epochs max_epochs num_epochs trainer.max_epochs trainer.epochs", ["schedule.epochs"]),
    ("train", "batch_size dataset.batch_size data.batch_size", ["schedule.batch_size", "attack.batch_size"]),
    ("train", "bs batch", ["schedule.batch_size"]),
    ("train", "momentum", ["optimizer.momentum"]),
    ("train", "devices gpus trainer.gpus num_gpus", ["trainer.devices"]),
    ("train", "precision", ["trainer.precision"]),
    ("train", "device gpu", ["trainer=gpu"]),
    ("train", "steps", ["attack.steps"]),
    ("train", "attack_eps", ["attack.eps"]),
    ("train", "subset", ["dataset.subset"]),
    ("train", "width", ["model.width"]),
    ("train", "network net arch", ["model"]),
    ("train", "data", ["dataset", "data_dir"]),
    ("train", "data_path root dataset.root data-path", ["data_dir"]),
    ("train", "checkpoint ckpt_path resume_from run", ["resume"]),
    ("train", "out output save_dir run_dir", ["output_dir"]),
    ("train", "val_split dataset.val_split", ["dataset.val_size"]),
    ("train", "tag", ["tags"]),
    ("train", "exp_name run_name", ["name"]),
    ("train", "radius", ["loss.radius"]),
    ("train", "fast_dev_run trainer.fast_dev_run", ["debug=true"]),
    ("train", "debg", ["debug"]),
    ("train", "foo model.foo", []),
    ("attack", "steps", ["attack.steps"]),
    ("attack", "checkpoint", ["run"]),
    ("certify", "gpus", ["device=cuda"]),
    ("separation", "subset", ["dataset.subset"]),
    ("separation", "batch", ["batch_size"]),
    ("compare", "out", ["output_dir"]),
]


@pytest.mark.parametrize(("command", "words", "due"), KEYS, ids=[f"{command} {words}" for command, words, _ in KEYS])
def test_the_key_that_is_meant(command, words, due, configs):
    for word in words.split():
        assert keys_meant(word, configs[command]) == due, word


def test_a_suggestion_is_a_key_that_there_is_and_never_the_word(configs):
    words = {f"{group}.{key}" for group in configs["train"].options if "@" not in group for name in options(group)
             for key in describe.option(group, name).keys}  # fmt: skip
    words |= {*WORDS, *(word.rpartition(".")[2] for word in words), *configs["train"].values}
    for config in configs.values():
        known = {*config.values, *config.options, *describe.DEBUG}
        for word in words:
            found = keys_meant(word, config) + spelt_like(word, config)
            assert word not in found and {key.partition("=")[0] for key in found} <= known, word


OPTIONS = [
    ("dataset", "MNIST", ["mnist"]),
    ("dataset", "CIFAR-10", ["cifar10"]),
    ("dataset", "FashionMNIST", ["fashion_mnist"]),
    ("dataset", "cifar", ["cifar10", "cifar100"]),
    ("model", "resnet", ["resnet34", "lmt_resnet", "l2nnn_resnet", "parseval_resnet"]),
    ("model", "l2nn", ["l2nnn"]),
    ("trainer", "cuda", ["gpu"]),
    ("optimizer", "AdamW", ["adam"]),
    ("attack", "cw", ["carlini_wagner_l2"]),
    ("experiment", "svhn", ["lmt/svhn"]),
    ("experiment", "l2nnn/mnst", ["l2nnn/mnist"]),
    ("norm", "qqq", []),
]


@pytest.mark.parametrize(("group", "word", "due"), OPTIONS)
def test_the_option_that_is_meant(group, word, due):
    assert options_meant(word, options(group)) == due


def test_a_key_is_looked_for_in_the_options_that_were_chosen():
    """The default model has a depth, and convnet has none."""
    line = unknown_key("model.depth", "train", ["model=convnet", "seed=1"])
    assert line.startswith("`model.depth`: model=convnet has no such key; model=l2nnn, l2nnn_cifar, ")
    assert line.endswith(" have `model.depth` (its keys: channels, hidden, dropout)")
    assert unknown_key("weight_decay", "train", ["optimizer=adam"]).endswith("did you mean `optimizer.weight_decay`?")
    assert unknown_key("schedule.epoch", "train", ["schedule=nothing"]).startswith(
        "`schedule.epoch`: schedule=l2nnn has"
    )
    assert unknown_key("modle.depth", "train").endswith("did you mean `model.depth`?")
    assert unknown_key("foo", "train") == "`foo` is not a key of `lipcert train` (--cfg job prints them all)"


def test_keys_of_options_that_were_not_chosen(configs):
    due = {"optimizer.weight_decay": ["adam", "lp_adamw", "momentum", "nesterov", "sgd"]}
    for word in ("weight_decay", "wd", "optimizer.weight_decay"):
        assert options_with(word, configs["train"]) == due
        assert elsewhere(word, configs["train"], None).endswith(", sgd have `optimizer.weight_decay`")
    assert options_with("certificate.tolerance", configs["train"]) == {"certificate.tolerance": ["interval"]}
    assert elsewhere("tolerance", configs["train"], None) == "; certificate=interval has `certificate.tolerance`"


def test_suggestions_in_a_sentence():
    assert did_you_mean([]) == ""
    assert did_you_mean(["a"]) == "; did you mean `a`?"
    assert did_you_mean(["a", "b", "c"]) == "; did you mean `a`, `b` or `c`?"


def test_a_word_without_a_value():
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    assert override_meant("run", "train") == ["resume=run"] and override_meant("run", "attack") == ["run=run"]
    assert override_meant("l2nnn", "train") == ["model=l2nnn", "loss=l2nnn", "schedule=l2nnn"]
    assert override_meant("seed", "train") == ["seed=..."] and override_meant("lr", "train") == ["optimizer.lr=..."]
    assert override_meant("help", "compare") == ["--help"]


LINES = [  # whole commands: how each of the messages looks
    ("train model=convnet model.depth=3", "`model.depth`: model=convnet has no such key; model=l2nnn, "),
    ("train +lr=3", "`lr` is not a key of `lipcert train`; did you mean `optimizer.lr`?"),
    ("train model=resnet", "`model=resnet`: there is no such option; did you mean `resnet34`, `lmt_resnet`, "),
    ("train experiment=mnst", "which --help experiment lists)"),
    (
        "attack run=R attack=fgsm steps=3",
        "`steps` is not a key of `lipcert attack`; attack=apgd_l1, apgd_l2, apgd_linf, boundary_l2",
    ),
    ("train -sc install=bash", "`-sc` is not a flag: `lipcert completion bash` prints a script for a shell"),
    ("train --lr=3", "`--lr=3` is not a flag: keys are written without dashes; did you mean `optimizer.lr=3`?"),
    ("train --foo", "`--foo` is not a flag; did you mean `--info`? (choices: --help, "),
    ("train mnist", "`mnist` is not of the form key=value; did you mean `dataset=mnist`?"),
    ("completions", "`completions` is not a command; did you mean `completion`?"),
]


@pytest.mark.parametrize(("written", "line"), LINES, ids=[written for written, _ in LINES])
def test_what_the_command_says(written, line, capsys):
    said = refused(capsys, *written.split())
    assert line in said
    words = re.split(r"[ =]", written)
    assert not {*re.findall(r"did you mean (.*?)\?", said)} & {f"`{word}`" for word in words}
