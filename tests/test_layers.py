"""Imports only point up the list of layers, and the pure layers do no I/O (docs/design.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "netpold"
LAYERS = ["policy", "rules", "host", "daemon", "ctl"]
IMPURE = {
    "os",
    "io",
    "sys",
    "time",
    "datetime",
    "threading",
    "logging",
    "socket",
    "subprocess",
    "pathlib",
    "shutil",
    "random",
}
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "netpold" else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        theirs = layer(module)
        if own in LAYERS and theirs in LAYERS:
            assert LAYERS.index(theirs) <= LAYERS.index(own), f"{path} imports {module}"
        if own in ("policy", "rules"):
            assert theirs != "config", f"{path} imports the settings"


@pytest.mark.parametrize("path", [path for path in MODULES if path.relative_to(ROOT).parts[0] in ("policy", "rules")])
def test_the_pure_layers_do_no_io(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)}
    assert not used & IMPURE, f"{path} imports {used & IMPURE}"
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval"}, path
