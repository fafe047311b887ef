"""Who may import whom (design, section 3), read from the source; with controls that show that a breach is found."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lipcert"

# What each part may import of the others, besides itself. Strangers to one another meet by `_target_` alone.
MAY = {
    "__init__": set(),
    "contracts": set(),
    "kernels": set(),
    "layers": {"contracts", "kernels"},
    "bounds": {"contracts", "layers"},
    "models": {"contracts", "layers"},
    "losses": {"contracts", "bounds"},  # losses that enlarge what a bound proves
    "schedules": {"contracts"},
    "optimizers": {"contracts"},
    "certificates": {"contracts", "bounds"},
    "attacks": {"contracts"},
    "datasets": {"contracts"},
    "reporting": {"contracts"},
    "training": {"contracts"},
    "tasks": {"contracts", "training", "reporting", "datasets", "attacks", "layers", "bounds", "conf"},
    "cli": {"contracts", "tasks"},
}
# What lies outside, and who alone may import it.
ONLY = {
    "hydra": {"cli", "tasks"},
    "omegaconf": {"cli", "tasks"},
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
    models = {
        node.name
        for path, tree in files.items()
        if path.parts[0] == "models"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = []
    for path, tree in files.items():
        part = path.parts[0].removesuffix(".py")
        for line, name in imports(tree, path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "lipcert" and other not in ("", "__version__", part, *MAY[part]):
                found.append(f"{path}:{line}: {part} imports {name}")
            if top in ONLY and part not in ONLY[top]:
                found.append(f"{path}:{line}: {part} imports {top}")
        if part != "models":
            found += [f"{path}:{line}: {part} names the model {name}" for line, name in names(tree) if name in models]
        found += [f"{path}:{line}: {what} at import" for line, what in at_import(tree)]
    return found


def imports(tree: ast.Module, path: Path) -> Iterator[tuple[int, str]]:
    """Modules that a file imports, wherever in it, but for what only type checkers see."""
    unseen = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
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
            if module == "lipcert" or module.count(".") == 0:
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.lineno, ast.unparse(node.args[0]).strip("'\"")


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


def test_every_part_has_a_rule():
    assert {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or list(path.glob("*.py"))} <= MAY.keys()


BREACHES = {
    "layers/a.py": ("from lipcert.bounds import Walk", "layers imports lipcert.bounds"),
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
        (tmp_path / path).parent.mkdir(exist_ok=True)
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


REPORTING = [f"lipcert.reporting.{path.stem}" for path in (ROOT / "reporting").glob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize(
    "modules", [["lipcert"], ["lipcert.contracts"], ["lipcert.cli"], REPORTING], ids=lambda m: m[0]
)
def test_no_torch_is_loaded(modules):
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
