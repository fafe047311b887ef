"""What the README shows is what happens: its example architecture runs, its keys and options exist."""

import re
from pathlib import Path

import pytest

from lipcert.cli import main
from lipcert.cli.choices import options
from lipcert.runs.summary import KEYS

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.S)
    assert found, name
    return found.group(1)


def test_the_example_architecture_trains_and_certifies(tmp_path, monkeypatch, capsys):
    (tmp_path / "myconf" / "model").mkdir(parents=True)
    (tmp_path / "mypackage.py").write_text(block("model"))
    (tmp_path / "myconf/model/mlp.yaml").write_text(block("yaml").replace("lipcert.models.mlp", "mypackage"))
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--config-dir", str(tmp_path / "myconf"), "model=mlp", "schedule.epochs=2", "attack=none"]
    assert main.run("train", [*arguments, f"output_dir={tmp_path / 'run'}"]) == 0, capsys.readouterr().err
    assert (tmp_path / "run/summary.json").exists()


def test_every_key_of_a_summary_is_documented():
    for key, meaning in KEYS.items():
        assert f"| `{key}` | {meaning} |" in README


@pytest.mark.parametrize("group", ["model", "dataset"])
def test_every_model_and_dataset_is_in_its_table(group):
    """Each once, in the first column, and no other."""
    table = re.search(rf"^\| `{group}=` \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.M).group(1)
    cells = [line.split("|")[1] for line in table.splitlines()]
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)[^`]*`", cell)) == options(group)


def test_the_two_commands_are_the_ones_that_ci_runs():
    assert block("main").startswith("pip install")
    assert "pytest" in block("tests")
    assert "<!-- tests -->" in (Path(__file__).parents[1] / ".ci/run").read_text()


@pytest.mark.slow
def test_the_example_of_the_python_api_runs(tmp_path, monkeypatch, capsys):
    """Torchvision's network is bounded layer by layer; a network of one's own is certified, attacked and saved."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block("api"), names)
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0]) == names["bound"].vector > 1 and lines[1].startswith("conv1+bn1 ")
    assert len(lines) > 1 + len(names["bound"].layers) > 20
    assert (names["verdict"].radius > 0).any() and str(names["verdict"].norm) == "linf"
    assert (names["found"].distance >= names["verdict"].radius).all()
    assert [path.name for path in tmp_path.iterdir()] == ["mynet"]
