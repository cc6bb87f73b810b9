"""Prints Python files and all files of this repository that they import, directly or indirectly.

    python tools/imports.py exporter/index.py

Imports inside functions count, except in an `__init__`, whose importer may never ask for what it loads on demand.

The Makefile uses it for dependencies, so that an edit remakes what it affects and nothing else. It only reads source, with the
standard library alone, since make needs the answer before there is an environment.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def imported(path: Path) -> Iterator[str]:
    """Yields the names that a file imports; for `from a import b`, where b may be a module, both `a` and `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in tree.body if path.name == "__init__.py" else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def files_of(name: str, folders: tuple[Path, ...]) -> Iterator[Path]:
    """Yields a module's file and the `__init__` of its packages, which run when it is imported."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        for folder in folders:
            place = folder.joinpath(*parts[:depth])
            yield from (file.resolve() for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def closure(paths: list[Path]) -> list[Path]:
    visited: dict[Path, None] = {}
    todo = [path.resolve() for path in paths]
    while todo:
        path = todo.pop()
        if path not in visited:
            visited[path] = None
            folders = (ROOT / "src", ROOT / "tests", path.parent)
            todo += [file for name in imported(path) for file in files_of(name, folders)]
    return list(visited)


if __name__ == "__main__":
    print(*(path.relative_to(ROOT) for path in closure([Path(word) for word in sys.argv[1:]])))
