"""The package holds what the repository holds, and works where only the package is."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CI = (ROOT / ".ci/run").read_text()


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


def test_a_citation_is_of_this_version():
    cited, project = yaml.safe_load((ROOT / "CITATION.cff").read_text()), PROJECT["project"]
    for key in ("version", "license", "keywords"):
        assert cited[key] == project[key]
    assert (cited["title"], cited["abstract"]) == (project["name"], project["description"])
    assert cited["authors"] == project["authors"] and cited["repository-code"] == project["urls"]["Homepage"]
    released = re.search(r"^## (\S+) — (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released and released.groups() == (cited["version"], str(cited["date-released"]))


def test_the_workflow_runs_the_steps_of_ci_and_no_other_commands():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    tests, others = (jobs[name]["strategy"]["matrix"] for name in ("tests", "others"))
    steps = re.search(r"\$\{\*:-([\w ]+)\}", CI)
    assert steps and ["tests", *others["step"]] == steps[1].split()
    assert all(f"\n{step}() {{" in CI for step in steps[1].split())
    run = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert run == [".ci/run tests", ".ci/run ${{ matrix.step }}"]
    prefix = "Programming Language :: Python :: 3."
    named = [each.removeprefix(prefix) for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)]
    assert tests["python"] == [f"3.{minor}" for minor in named]


def test_a_commit_is_checked_as_ci_checks_it():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"\nlint\(\) \{\n(.*?)\n\}", CI, re.S)
    assert lint
    checked = [re.sub(r" (\.|--\S+)", "", line.strip()) for line in lint[1].splitlines()[1:]]
    assert checked == [hook["entry"].removesuffix(" --force-exclude") for hook in hooks]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What a build reads, away from the repository, in which it would leave its traces."""
    source = tmp_path_factory.mktemp("source")
    for name in ("lipcert", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_cpu.*"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
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
    assert run(bin_ / "lipcert", "--version") == f"lipcert {PROJECT['project']['version']}\n"
    assert "l2nnn" in run(bin_ / "lipcert", "train", "--help")
    out = run(bin_ / "lipcert", "train", "debug=true", "output_dir=run")
    assert "record: run" in out and (folder / "run/summary.json").exists()
    assert "record: run" in run(bin_ / "lipcert", "certify", "run=run")
    assert "(10, 'l2')" in run(
        bin_ / "python", "-c", "import lipcert; net = lipcert.load('run'); print((net.classes, str(net.norm)))"
    )


@pytest.mark.slow
def test_a_wheel_is_all_it_takes(copy, tmp_path):
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(copy)]  # the wheel out of the sdist
    subprocess.run(build, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("lipcert-*.whl")
    with ZipFile(wheel) as files:
        names = files.namelist()
        metadata = files.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert any("/_cpu." in name for name in names) == any((ROOT / "lipcert/kernels").glob("_cpu.*"))
    assert not any("csrc" in name for name in names)
    assert re.findall(r"\]\((?!https://)|src=\"(?!https://)", metadata) == []  # an index has no files beside it
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
def test_an_editable_installation_works_without_a_compiler(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    works(environment(tmp_path / "env", "--editable", copy), tmp_path / "foreign", copy)
    assert not list(copy.glob("lipcert/kernels/_cpu.*"))
