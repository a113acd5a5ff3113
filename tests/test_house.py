"""The rules of the house, counted: imports run one way, files and functions are short, every module has a test file."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("importlinter")

HOME = Path(__file__).parents[1]
PACKAGE = HOME / "difflab"
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
REGISTRIES = {"data/registry", "features/registry", "models/registry", "config/policy_registry"}
"""Modules that import what is asked for, when it is asked for."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.relative_to(PACKAGE).parts)
NAMES = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def contracts(folder: Path) -> tuple[int, str]:
    """Exit code and output of import-linter on the package in `folder`."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", ".importlinter"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, FUNCTION):
            yield node


def imports_inside(path: Path) -> list[str]:
    """difflab's own modules that are imported inside functions."""
    names = []
    for function in functions(path):
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("difflab"):
                names.append(node.module or "")
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names if alias.name.startswith("difflab")]
    return names


def test_imports_run_one_way_and_in_no_circle() -> None:
    code, output = contracts(HOME)
    assert code == 0, output


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/seeds.py", "import difflab.loop.chain"),
        ("data/decode.py", "from difflab.runs import store"),
        ("core/errors.py", "from difflab.core import files"),
    ],
    ids=["a lower room imports a higher one", "rooms beside each other", "a circle of files"],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "assets", "configs")
    shutil.copytree(PACKAGE, tmp_path / "difflab", ignore=ignored)
    shutil.copy(HOME / ".importlinter", tmp_path)
    (tmp_path / "difflab" / "assets").mkdir()
    (tmp_path / "difflab" / "assets" / "__init__.py").touch()
    path = tmp_path / "difflab" / file
    path.write_text(path.read_text() + f"\n{line}\n")
    code, output = contracts(tmp_path)
    assert code == 1 and "BROKEN" in output


def test_no_file_is_too_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in zip(NAMES, MODULES, strict=True)}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    too_long = {}
    for name, path in zip(NAMES, MODULES, strict=True):
        for function in functions(path):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > LONGEST_FUNCTION:
                too_long[f"{name}:{function.name}"] = length
    assert too_long == {}


def test_no_import_of_its_own_is_hidden_in_a_function() -> None:
    hidden = {}
    for name, path in zip(NAMES, MODULES, strict=True):
        allowed = name in REGISTRIES or name.startswith("cli/")
        if not allowed and (modules := imports_inside(path)):
            hidden[name] = modules
    assert hidden == {}


def test_every_module_has_a_test_file_of_its_name() -> None:
    without = []
    for name in NAMES:
        path = Path(name)
        if path.name.startswith("__") or name == "simulate":
            continue
        if not (HOME / "tests" / path.parent / f"test_{path.name}.py").exists():
            without.append(name)
    assert without == []


def test_a_package_file_defines_nothing() -> None:
    defining = []
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent == PACKAGE:
            continue
        if any(isinstance(node, (*FUNCTION, ast.ClassDef)) for node in ast.parse(path.read_text()).body):
            defining.append(str(path.relative_to(PACKAGE)))
    assert defining == []
