"""Who may import whom, read from the source; with controls that show that a breach is found."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lipcert"

# What each part may import of the others, besides itself. Strangers to one another meet by `_target_` alone.
MAY = {
    "__init__": {"api"},
    "contracts": set(),
    "kernels": {"contracts"},
    "norms": {"contracts"},
    "layers": {"contracts", "kernels"},
    "frozen": {"contracts", "norms", "kernels"},
    "models": {"contracts", "layers", "kernels"},
    "losses": {"contracts", "frozen", "norms"},  # losses that enlarge what a bound proves
    "schedules": {"contracts"},
    "optimizers": {"contracts"},
    "certificates": {"contracts", "frozen", "norms", "attacks"},
    "attacks": {"contracts"},
    "datasets": {"contracts"},
    "reporting": {"contracts"},
    "training": {"contracts"},
    "tasks": {"contracts", "training", "reporting", "datasets", "attacks", "frozen", "norms", "conf"},
    "cli": {"contracts", "tasks"},
    "api": {"contracts", "frozen", "attacks", "certificates", "tasks", "cli", "conf"},
}
CIRCLES = ("frozen", "norms", "kernels", "layers")  # whose files import one another in one direction only
# What lies outside, and who alone may import it.
ONLY = {
    "hydra": {"cli", "tasks"},
    "omegaconf": {"cli", "tasks", "api"},
    "lightning": {"training", "tasks", "datasets"},
    "foolbox": {"attacks"},
    "eagerpy": {"attacks"},
    "torch": {part for part in MAY if part not in ("__init__", "contracts", "reporting", "cli")},
    "torchvision": {"datasets"},
}
FORBIDDEN = ("print", "sys.argv", "argparse.ArgumentParser")  # while a file is imported


def violations(root: Path) -> list[str]:
    """Every breach of the rules in the package at `root`, as `file:line: what`."""
    files = {path.relative_to(root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    models, found = classes(files, "models"), []
    for path, tree in files.items():
        part = path.parts[0].removesuffix(".py")
        others = models - classes(files, part)  # `frozen` has an operation of the same name as a model
        for line, name in imports(tree, path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "lipcert" and other not in ("", "__version__", part, *MAY[part]):
                found.append(f"{path}:{line}: {part} imports {name}")
            if top in ONLY and part not in ONLY[top]:
                found.append(f"{path}:{line}: {part} imports {top}")
        if part != "models":
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
        if (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
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
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.lineno, ast.unparse(node.args[0]).strip("'\"")


def circle(root: Path, parts: tuple[str, ...]) -> list[str]:
    """Files of these parts that import one another in a circle while they are imported; [] where there is none."""
    files = {
        path.relative_to(root): ast.parse(path.read_text()) for part in parts for path in root.glob(f"{part}/**/*.py")
    }
    named = {".".join(["lipcert", *path.with_suffix("").parts]).removesuffix(".__init__"): path for path in files}

    def module(name: str) -> str:
        """The file that a name lies in; "" where it is none of these."""
        while name and name not in named:
            name = name.rpartition(".")[0]
        return name

    def reached(path: Path) -> set[str]:
        found = {(line, module(name)) for line, name in imports(files[path], path, later=False)}
        of_files = {(line, name.rpartition(".")[0]) for line, name in found}  # a package that they are taken from
        return {name for _, name in found - of_files} - {""}

    graph = {name: reached(path) - {name} for name, path in named.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


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
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "__main__" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Name | ast.Attribute) and (text := ast.unparse(child)) in FORBIDDEN:
            yield child.lineno, text
        yield from at_import(child)


def test_nobody_breaks_the_rules():
    assert violations(ROOT) == []


def test_no_files_import_one_another():
    assert circle(ROOT, CIRCLES) == []


def test_every_part_has_a_rule():
    assert {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))} <= MAY.keys()


BREACHES = {
    "layers/a.py": ("from lipcert.frozen import Network", "layers imports lipcert.frozen"),
    "frozen/ops/a.py": ("from lipcert.layers import MinMax", "frozen imports lipcert.layers"),
    "frozen/a.py": ("def f():\n    from lipcert import models", "frozen imports lipcert.models"),
    "norms/a.py": ("from lipcert.frozen.network import Network", "norms imports lipcert.frozen"),
    "attacks/b.py": ("from lipcert.frozen import Network", "attacks imports lipcert.frozen"),
    "certificates/b.py": ("import lipcert.layers", "certificates imports lipcert.layers"),
    "layers/b.py": ("from ..models import mine", "layers imports lipcert.models"),
    "kernels/a.py": ("import lipcert.layers", "kernels imports lipcert.layers"),
    "losses/a.py": ("from lipcert import schedules", "losses imports lipcert.schedules"),
    "losses/b.py": ("def f():\n    import omegaconf", "losses imports omegaconf"),
    "datasets/a.py": (
        "from importlib import import_module\nimport_module('lipcert.attacks')",
        "datasets imports lipcert.a",
    ),
    "attacks/a.py": ("import lightning.pytorch as pl", "attacks imports lightning"),
    "reporting/a.py": ("def f():\n    from torch import Tensor", "reporting imports torch"),
    "contracts.py": ("import torch", "contracts imports torch"),
    "training.py": ("from lipcert.tasks import store", "training imports lipcert.tasks"),
    "tasks/a.py": ("from lipcert.models.mine import Mine", "tasks imports lipcert.models.mine"),
    "tasks/b.py": ("target = 'lipcert.models.mine.Mine'", "tasks names the model Mine"),
    "schedules/a.py": ("print('hello')", "print at import"),
    "optimizers/a.py": ("import sys\nclass A:\n    quick = '-q' in sys.argv", "sys.argv at import"),
    "certificates/a.py": ("import argparse\nif True:\n    parser = argparse.ArgumentParser()", "argparse"),
}


@pytest.mark.parametrize("where", BREACHES)
def test_a_breach_is_found(where, tmp_path):
    """The control: a package with one offending file."""
    offence, found = BREACHES[where]
    for path, text in {"models/mine.py": "class Mine: pass", "__init__.py": "", where: offence}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    breaches = violations(tmp_path)
    assert any(breach.startswith(f"{where}:") and found in breach for breach in breaches), breaches


def test_what_is_allowed_is_not_found(tmp_path):
    fine = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n"
        "def f():\n    print('told')\nif __name__ == '__main__':\n    import sys\n    print(sys.argv)\n"
    )
    (tmp_path / "contracts.py").write_text(fine)
    assert violations(tmp_path) == []


TOWARDS_A = {
    "import lipcert.kernels.a": True,
    "if True:\n    from lipcert.kernels.a import f": True,
    "from lipcert.kernels import a": True,
    "from . import a": True,
    "class B:\n    from lipcert.layers.c import g": True,
    "def f():\n    import lipcert.kernels.a": False,
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lipcert.kernels.a": False,
    "import lipcert.models.a": False,
}


@pytest.mark.parametrize("line", TOWARDS_A)
def test_a_circle_is_found(line, tmp_path):
    """The control: kernels/a.py imports kernels/b.py and layers/c.py imports a; b imports one of them, or not."""
    files = {"kernels/__init__.py": "", "kernels/a.py": "from lipcert.kernels.b import f", "kernels/b.py": line}
    for path, text in {**files, "layers/c.py": "import lipcert.kernels.a", "models/a.py": ""}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    found = circle(tmp_path, CIRCLES)
    assert ("lipcert.kernels.b" in found) == TOWARDS_A[line]


REPORTING = [f"lipcert.reporting.{path.stem}" for path in (ROOT / "reporting").glob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize(
    "modules", [["lipcert"], ["lipcert.contracts"], ["lipcert.cli"], REPORTING], ids=lambda m: m[0]
)
def test_no_torch_is_loaded(modules):
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
