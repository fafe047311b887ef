"""The package holds what the repository holds, and works where only the package is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    """Setuptools doesn't look for them: conf/ lies outside of lipcert/ and is a package within it."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("lipcert/**/*.py")}
    assert {*PROJECT["tool"]["setuptools"]["packages"]} == {*map(".".join, (f.parts for f in folders)), "lipcert.conf"}
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)


def test_every_configuration_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["lipcert.conf"]
    packaged = {path for pattern in patterns for path in (ROOT / "conf").glob(pattern)}
    assert packaged == {
        path for path in (ROOT / "conf").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_the_version_is_said_once():
    from importlib.metadata import version

    from lipcert import __version__

    assert __version__ == version("lipcert")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What a build reads, away from the repository, in which it would leave its traces."""
    source = tmp_path_factory.mktemp("source")
    for name in ("lipcert", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def environment(folder: Path, *installed: str | Path) -> Path:
    """A new environment that sees this one's packages, but this lipcert only if it is installed there; its bin/."""
    venv.create(folder, with_pip=False)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    others = [path for path in sys.path if path.endswith("site-packages")]
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, *map(str, installed)], check=True, timeout=300)
    # Plain lines, not the .pth files of those directories: an editable lipcert there stays out.
    (purelib / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin"


def works(bin_: Path, folder: Path, source: Path) -> None:
    """The command runs from a foreign directory, on its own configuration, out of `source`."""
    folder.mkdir()
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(source) in run(bin_ / "python", "-c", "import lipcert; print(lipcert.__file__)")
    assert "l2nnn" in run(bin_ / "lipcert", "train", "--help")
    out = run(bin_ / "lipcert", "train", "schedule.epochs=1", "attack=none", "output_dir=run")
    assert "record: run" in out and (folder / "run/summary.json").exists()
    assert "record: run" in run(bin_ / "lipcert", "certify", "run=run")
    assert "(10, 'l2')" in run(
        bin_ / "python", "-c", "import lipcert; net = lipcert.load('run'); print((net.classes, str(net.norm)))"
    )


@pytest.mark.slow
def test_a_wheel_is_all_it_takes(copy, tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("lipcert-*.whl")
    bin_ = environment(tmp_path / "env", wheel)
    works(bin_, tmp_path / "foreign", tmp_path / "env")

    # A model of the user's own, in the directory in which the command is called.
    folder = tmp_path / "foreign"
    (folder / "myconf/model").mkdir(parents=True)
    (folder / "myconf/model/mine.yaml").write_text("_target_: mypkg.Mine\n")
    (folder / "mypkg.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Sequential):\n"
        "    norm = 'l2'\n"
        "    def __init__(self, *, input_shape, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    mine = ["--config-dir", "myconf", "model=mine", "schedule.epochs=1", "attack=none", "output_dir=mine"]
    done = subprocess.run(
        [str(bin_ / "lipcert"), "train", *mine], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_editable_installation_works(copy, tmp_path):
    works(environment(tmp_path / "env", "--editable", copy), tmp_path / "foreign", copy)
