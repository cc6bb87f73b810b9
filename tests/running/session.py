"""What all processes of a test run share: built by the first that asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def session_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of a test run share."""
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder = shared / name
    folder.mkdir(exist_ok=True)
    return folder


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder `name` that `build` fills. Copy what is in it before changing it."""
    folder = session_folder(factory, "built") / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = Path(f"{folder}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return folder
