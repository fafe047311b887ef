"""Who may import whom, read from the source; with controls that show that a breach is found."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lipcert"

# Imports run downwards. Parts of one line are strangers to one another: they meet by `_target_`, or not at all.
LAYERS = (
    {"api", "cli"},
    {"commands"},
    {"analyses", "export", "report", "reproduction"},
    {"evaluation"},
    {"training", "certificates", "reporting"},
    {"runs", "attacks", "models", "losses", "schedules", "optimizers", "datasets"},
    {"frozen"},
    {"norms", "layers", "arrays"},
    {"kernels"},
    {"configuration", "parts", "contracts", "files", "errors", "imports", "progress"},
)
# Within a line, and what is left open above: (who, whom).
BESIDES = {
    ("api", "cli"),  # the Python API is above all
    ("report", "analyses"),  # it shows what they found
    ("reproduction", "report"),  # which makes a paper's page
    ("certificates", "attacks"),  # the statistical one searches by a step of theirs
    ("configuration", "parts"),
    ("configuration", "errors"),
}
# Parts whose place is lower than their line says: of what is below them they know this alone.
LITTLE = {
    "cli": {"commands", "configuration", "errors", "imports", "runs"},
    "runs": {"configuration", "contracts", "files", "errors"},
    "reporting": {"configuration", "contracts", "files", "errors", "runs"},
    "schedules": {"contracts"},
    "optimizers": {"contracts"},
    "datasets": {"contracts", "configuration", "errors", "files", "progress"},
    "attacks": {"contracts", "configuration"},
    "models": {"contracts", "layers", "kernels"},
    "layers": {"contracts", "kernels"},
    "frozen": {"contracts", "files", "norms", "kernels"},
    "norms": {"contracts"},
    "arrays": {"contracts"},
    "kernels": {"contracts"},
}
# What lies outside, and which parts or files alone may import it.
ONLY = {
    "hydra": ("cli", "commands"),
    "omegaconf": ("cli", "commands", "configuration", "api"),
    "lightning": ("training", "commands", "datasets", "api"),
    "foolbox": ("attacks", "api"),
    "eagerpy": ("attacks", "api"),
    "torchvision": ("datasets", "api"),
}
SINGLE_FILES = LAYERS[-1]
NO_TORCH = {"__init__", "cli", "reporting", "runs", *SINGLE_FILES}
TORCH_LATER = {"runs/checkpoint.py", "runs/tensorboard.py"}  # in functions
FORBIDDEN = ("print", "sys.argv", "argparse.ArgumentParser")  # while a file is imported


def below(part: str) -> set[str]:
    """The parts that a part may import."""
    place = next(i for i, layer in enumerate(LAYERS) if part in layer)
    lower = set[str]().union(*LAYERS[place + 1 :])
    return (LITTLE.get(part, lower) & lower) | {other for one, other in BESIDES if one == part}


@cache
def parsed(root: Path) -> dict[Path, ast.Module]:
    return {path.relative_to(root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}


def violations(root: Path) -> list[str]:
    """Every breach of the rules in the package at `root`, as `file:line: what`."""
    files = parsed(root)
    found, own = [], {part: classes(files, part) for part in {path.parts[0].removesuffix(".py") for path in files}}
    for path, tree in files.items():
        part = path.parts[0].removesuffix(".py")
        may = {"api"} if part == "__init__" else {part, *below(part)}
        at_once = {line for line, _ in imports(tree, path, later=False)}
        for line, name in imports(tree, path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "lipcert" and other not in ("", "conf", *may):
                there = (root / other).is_dir() or (root / f"{other}.py").is_file()
                what = f"imports {name}" if there else f"takes `{other}` from the bare package"
                found.append(f"{path}:{line}: {part} {what}")
            if top in ONLY and part not in ONLY[top]:
                found.append(f"{path}:{line}: {part} imports {top}")
            if top == "torch" and part in NO_TORCH and (path.as_posix() not in TORCH_LATER or line in at_once):
                found.append(f"{path}:{line}: {part} imports torch")
        if part not in ("models", "api"):
            others = own.get("models", set()) - own[part]  # `frozen` has an operation of the same name as a model
            found += [f"{path}:{line}: {part} names the model {name}" for line, name in names(tree) if name in others]
        found += [f"{path}:{line}: {what} at import" for line, what in at_import(tree)]
    return found


def classes(files: dict[Path, ast.Module], part: str) -> set[str]:
    """Those that a part defines."""
    trees = [tree for path, tree in files.items() if path.parts[0] == part]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def imports(tree: ast.Module, path: Path, later: bool = True) -> Iterator[tuple[int, str]]:
    """Modules that a file imports, and names in them, but not for type checkers alone; `later`: in functions too."""
    unseen = {
        child
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        or (not later and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["lipcert", *path.parent.parts][: len(path.parts) + 1 - node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.lineno, ast.unparse(node.args[0]).removeprefix("f").strip("'\"")


def circle(root: Path) -> list[str]:
    """Modules of the package at `root` that import one another in a circle, at once or later; [] where there is none.

    `from package import name` is an import of the module `name` where there is one, else of the package's __init__.
    """
    graph = reached(root, later=True)
    try:
        TopologicalSorter({name: found & graph.keys() - {name} for name, found in graph.items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@cache
def reached(root: Path, later: bool) -> dict[str, set[str]]:
    """What each module of the package at `root` imports: modules of the package, and names of other packages.

    later  in functions too
    """
    files = parsed(root)
    modules = {".".join(["lipcert", *path.with_suffix("").parts]).removesuffix(".__init__"): path for path in files}

    def module(name: str) -> str:
        while name.startswith("lipcert.") and name not in modules:
            name = name.rpartition(".")[0]
        return name if name.startswith("lipcert") else name.partition(".")[0]

    # The package itself resolves its names lazily, and to import it executes nothing of the others.
    return {
        name: {module(found) for _, found in imports(files[path], path, later)}
        for name, path in modules.items()
        if name != "lipcert"
    }


def loaded(root: Path, *names: str) -> set[str]:
    """The packages that importing these modules imports at once."""
    graph, seen, due = reached(root, later=False), set[str](), set(names)
    while due:
        name = due.pop()
        seen.add(name)
        due |= ({name.rpartition(".")[0]} & graph.keys() | graph.get(name, set())) - seen
    return {name for name in seen if not name.startswith("lipcert")}


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias):
            yield node.lineno, node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.lineno, node.value.rpartition(".")[2]


def at_import(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Printing and reading of the command line in what is run when a file is imported."""
    for child in node.body if isinstance(node, ast.ClassDef) else ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "__main__" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Name | ast.Attribute) and (text := ast.unparse(child)) in FORBIDDEN:
            yield child.lineno, text
        yield from at_import(child)


def test_nobody_breaks_the_rules():
    assert violations(ROOT) == []


def test_no_modules_import_one_another():
    assert circle(ROOT) == []


def test_every_part_has_a_rule():
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))} - {"__init__"}
    listed = [part for layer in LAYERS for part in layer]
    assert sorted(listed) == sorted(parts)
    assert LITTLE.keys() <= parts and {part for only in ONLY.values() for part in only} <= parts


BREACHES = {
    "kernels/a.py": ("import lipcert.layers", "kernels imports lipcert.layers"),
    "norms/a.py": ("from lipcert.frozen.network import Network", "norms imports lipcert.frozen"),
    "layers/a.py": ("from lipcert.frozen import Network", "layers imports lipcert.frozen"),
    "layers/b.py": ("from ..models import mine", "layers imports lipcert.models"),
    "frozen/a.py": ("def f():\n    from lipcert import models", "frozen imports lipcert.models"),
    "frozen/ops/a.py": ("from lipcert.layers import MinMax", "frozen imports lipcert.layers"),
    "losses/a.py": ("from lipcert import schedules", "losses imports lipcert.schedules"),
    "losses/b.py": ("def f():\n    import omegaconf", "losses imports omegaconf"),
    "attacks/a.py": ("import lightning.pytorch as pl", "attacks imports lightning"),
    "attacks/b.py": ("from lipcert.frozen import Network", "attacks imports lipcert.frozen"),
    "datasets/a.py": ("import importlib\nimportlib.import_module('lipcert.attacks')", "datasets imports lipcert.att"),
    "certificates/a.py": ("import argparse\nif True:\n    parser = argparse.ArgumentParser()", "argparse"),
    "runs/a.py": ("from lipcert.reporting import table", "runs imports lipcert.reporting"),
    "runs/b.py": ("def f():\n    import torch", "runs imports torch"),
    "runs/checkpoint.py": ("import torch\ndef f():\n    import torch", "1: runs imports torch"),
    "reporting/a.py": ("def f():\n    from torch import Tensor", "reporting imports torch"),
    "training/a.py": ("from lipcert.evaluation import load", "training imports lipcert.evaluation"),
    "evaluation/a.py": ("from lipcert.analyses.tightness import rows", "evaluation imports lipcert.analyses"),
    "evaluation/b.py": ("from lipcert.models.mine import Mine", "evaluation names the model Mine"),
    "analyses/one/a.py": ("import hydra", "analyses imports hydra"),
    "commands/a.py": ("from lipcert.cli import choices", "commands imports lipcert.cli"),
    "commands/b.py": ("target = 'lipcert.models.mine.Mine'", "commands names the model Mine"),
    "commands/c.py": ("from lipcert import load", "commands takes `load` from the bare package"),
    "cli/a.py": ("from lipcert.evaluation import load", "cli imports lipcert.evaluation"),
    "contracts.py": ("import torch", "contracts imports torch"),
    "files.py": ("from lipcert.errors import one_line", "files imports lipcert.errors"),
    "schedules/a.py": ("print('hello')", "print at import"),
    "optimizers/a.py": ("import sys\nclass A:\n    quick = '-q' in sys.argv", "sys.argv at import"),
}


def package(root: Path, files: dict[str, str]) -> Path:
    for path, text in {"__init__.py": "", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize("where", BREACHES)
def test_a_breach_is_found(where, tmp_path):
    """The control: a package with one offending file."""
    offence, found = BREACHES[where]
    every = {f"{part}/__init__.py": "" for layer in LAYERS[:-1] for part in layer - {"api"}}
    every |= {f"{part}.py": "" for part in LAYERS[-1]}
    breaches = violations(package(tmp_path, {**every, "models/mine.py": "class Mine: pass", where: offence}))
    assert breaches and all(breach.startswith(f"{where}:") for breach in breaches)
    assert any(found in breach for breach in breaches), breaches


def test_what_is_allowed_is_not_found(tmp_path):
    fine = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n"
        "def f():\n    print('told')\nif __name__ == '__main__':\n    import sys\n    print(sys.argv)\n"
    )
    later = "def f():\n    import torch\n    from lipcert.files import read"
    package(tmp_path, {"contracts.py": fine, "runs/checkpoint.py": later, "files.py": "", "api.py": "import hydra"})
    assert violations(tmp_path) == ["api.py:1: api imports hydra"]


TOWARDS_A = {
    "import lipcert.kernels.a": True,
    "if True:\n    from lipcert.kernels.a import f": True,
    "from lipcert.kernels import a": True,
    "from . import a": True,
    "class B:\n    from lipcert.layers.c import g": True,
    "def f():\n    import lipcert.kernels.a": True,
    "def f():\n    from lipcert.layers import c": True,
    "import importlib\ndef f():\n    importlib.import_module('lipcert.layers.c')": True,
    "from lipcert.kernels import nothing": True,  # from the package, which imports a
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lipcert.kernels.a": False,
    "import lipcert.models.a": False,
}


@pytest.mark.parametrize("line", TOWARDS_A)
def test_a_circle_is_found(line, tmp_path):
    """The control: kernels/a.py imports kernels/b.py, layers/c.py imports a; b imports one of them, or not."""
    files = {"kernels/a.py": "from lipcert.kernels.b import f", "kernels/b.py": line, "models/a.py": ""}
    files |= {"kernels/__init__.py": "from lipcert.kernels.a import f", "layers/c.py": "import lipcert.kernels.a"}
    found = circle(package(tmp_path, files))
    assert ("lipcert.kernels.b" in found) == TOWARDS_A[line]


LIGHT = ["lipcert", "lipcert.cli.main", "lipcert.configuration", "lipcert.contracts"]
HEAVY = {"torch", "hydra", "omegaconf", "lightning", "matplotlib"}


def test_no_torch_is_loaded():
    """To answer a mistake, and to read and compare runs."""
    files = [path.relative_to(ROOT) for part in ("runs", "reporting") for path in (ROOT / part).glob("[!_]*.py")]
    read = [".".join(("lipcert", *path.with_suffix("").parts)) for path in files]
    for modules in (LIGHT, [*LIGHT, *read]):
        code = f"import sys, {', '.join(modules)}; sys.exit(bool({HEAVY} & sys.modules.keys()))"
        assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


SLOW = {"lightning", "torchvision", "sklearn", "scipy", "matplotlib", "tensorboard", "foolbox"}  # to import: seconds


def test_what_is_slow_to_import_is_imported_where_it_is_needed():
    """All commands, on digits, report a mistake before; `scripts/bench_start.py` has the seconds."""
    commands = [f"lipcert.commands.{path.stem}" for path in (ROOT / "commands").glob("[!_]*.py")]
    assert loaded(ROOT, *commands, "lipcert.datasets.digits") & {"torch", *SLOW} == {"torch"}
    assert loaded(ROOT, "lipcert.training.fit", "lipcert.datasets.mnist") & SLOW == {"lightning", "torchvision"}
