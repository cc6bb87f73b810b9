"""What each package lists in `__all__` is what it offers."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import rexit

LIBRARY = ("rexit", "rexit.format.bundle", "rexit.calibration", "rexit.exporter", "rexit.runtime")
INSIDE = {found.name for found in pkgutil.walk_packages(rexit.__path__, "rexit.") if found.ispkg}
PACKAGES = sorted({*LIBRARY, *(name for name in INSIDE if hasattr(import_module(name), "__all__"))})


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements outside functions and classes, those behind an `if` too: what type checkers see is public as well."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from at_import([*node.body, *node.orelse])


def offered(package: str) -> set[str]:
    """Names without an underscore that its `__init__` defines, or imports from rexit; and a version."""
    names: set[str] = set()
    for node in at_import(ast.parse(Path(str(import_module(package).__file__)).read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "rexit":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_") or name == "__version__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_listed_names_are_those_it_offers(package: str) -> None:
    listed = import_module(package).__all__
    assert len(listed) == len(set(listed))
    assert set(listed) == offered(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_listed_names_resolve(package: str) -> None:
    """Also those that are loaded on first use."""
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = module.nothing_of_this_name
