"""What --help says: on one screen, of keys that there are, and of a group where it is asked."""

import re
from pathlib import Path

import pytest
import yaml

from lipcert.cli import describe
from lipcert.cli.choices import chosen, options
from lipcert.cli.help import default_options, help_text
from lipcert.cli.main import COMMANDS

LINES, WIDTH = 45, 110  # of a screen
EVERY_GROUP = sorted({group for command in COMMANDS for group in describe.command(command).brings})
LAID_OVER = [  # options that are laid over others of their group
    "model=parseval_resnet",
    "loss=l2nnn_radius",
    "schedule=linf_dist_mlp_laptop",
    "attack=smallest_gradient",
    "trainer=cpu",
    "dataset=cifar10",
]


def command_of(group: str) -> str:
    return next(command for command in COMMANDS if group in describe.command(command).brings)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_one_screen_of_keys_that_there_are(command):
    told = help_text(command)
    lines = told.splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= WIDTH
    assert "{" not in told and "$$" not in told and "${" not in told
    known = describe.command(command)
    keys = re.findall(r"^  ([\w.]+)=", told, re.MULTILINE)
    assert keys
    for key in keys:
        group, _, inner = key.partition(".")
        if group in known.brings:
            in_options = [describe.option(group, name).keys for name in options(group)]
            assert inner in ("", "KEY") or any(inner in keys for keys in in_options), key
        else:
            assert key in known.keys, key
    assert all(re.search(rf"\b{group}\b", told) for group in known.brings)


@pytest.mark.parametrize("group", EVERY_GROUP)
def test_help_of_a_group_says_in_a_line_what_each_option_is(group):
    lines = help_text(command_of(group), [group]).splitlines()
    told = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if line.startswith("  "))
    assert list(told) == options(group) and all(told.values())
    assert max(map(len, lines)) <= WIDTH


def test_help_of_an_option_has_the_keys_and_values_that_hydra_composes():
    values = chosen("train", LAID_OVER).values
    for choice in LAID_OVER:
        group, _, name = choice.partition("=")
        keys = describe.option(group, name).keys
        composed = {key.partition(".")[2] for key in values if key.startswith(f"{group}.")}
        assert keys.keys() == {key for key in composed if not (isinstance(values[f"{group}.{key}"], dict))}
        for key, value in keys.items():
            assert yaml.safe_load(value.value) == values[f"{group}.{key}"] or "[" in value.value, key
        told = help_text("train", [choice])
        assert all(f"{group}.{key}=" in told for key in keys if not key.endswith("_"))


def test_help_of_an_option_says_what_it_brings_and_wraps_long_comments():
    told = help_text("train", ["model=l2nnn"])
    assert "brings loss=l2nnn_radius optimizer=muon schedule=l2nnn certificate=pairwise" in told
    assert re.search(r"model\.depth=16 +linear layers, each before a two-sided ReLU\n", told)
    assert max(map(len, told.splitlines())) <= WIDTH
    recipe = help_text("train", ["experiment=l2nnn/cifar10_adversarial"])
    assert "\n  loss.adversary.steps=10\n" in recipe and "model=l2nnn_cifar" in recipe


def test_the_options_by_default_are_those_of_the_default_configuration():
    config = chosen("train")
    for group, name in default_options("train").items():
        assert name == config.options[group] or group == "training"  # chosen by the data set


def test_help_of_a_key_says_where_it_is():
    told = help_text("train", ["model.depth"])
    assert re.search(r"model=l2nnn model\.depth=16 +linear layers", told) and "model=convnet" not in told
    assert help_text("train", ["resume"]).startswith("  resume=null  a run's directory")


def test_overrides_that_choose_no_option_are_not_looked_at():
    assert help_text("certify", ["run=x"]) == help_text("certify")
    assert help_text("compare", ["outputs", "RUN"]) == help_text("compare")
    assert help_text("train", ["seed=1", "model="]) == help_text("train", ["model"])


def test_options_of_ones_own_are_listed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("# My own network. It is new.\n_target_: my.Net\nwidth: 3 # neurons\n")
    own = str(tmp_path)
    assert "model=mine" in help_text("train", [], own)
    assert re.search(r"  mine +My own network \(", help_text("train", ["model"], own))
    assert re.search(r"  model\.width=3 +neurons", help_text("train", ["model=mine"], own))
    with pytest.raises(ValueError, match="`--config-dir`: nowhere is not a directory"):
        help_text("train", [], "nowhere")
    (tmp_path / "model/damaged.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="damaged.yaml can't be read"):
        help_text("train", ["model=damaged"], own)


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("modle", "`modle` is not a group of `lipcert train`; did you mean `model`? (groups: attack, "),
        ("model=l2nn", "`model=l2nn`: there is no such option; did you mean `l2nnn`? (choices: allcnn, "),
        ("l2nnn_deep", "`l2nnn_deep` is not a group of `lipcert train`; did you mean `model=l2nnn_deep`? (groups: "),
        ("model.l2nnn", "`model.l2nnn` is not a key of any option of `model`; did you mean `model=l2nnn`?"),
        ("model.foo", "`model.foo` is not a key of any option of `model`"),
    ],
)
def test_a_topic_that_there_is_not(topic, line):
    with pytest.raises(ValueError) as caught:
        help_text("train", [topic])
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_every_option_says_what_it_is_in_the_first_line_of_its_file():
    for group in EVERY_GROUP:
        for name in options(group):
            path = Path(describe.CONF, group, f"{name}.yaml")
            assert describe.about(path), path
