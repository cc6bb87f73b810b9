"""The rooms of runtime/src/, and which may include which: includes go one way, towards `base`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "runtime" / "src"
ROOMS: dict[str, set[str]] = {
    "base": set(),
    "files": {"base"},
    "bundle": {"base", "files"},
    "prompt": {"base", "files", "bundle", "kernels"},
    "kernels": {"base"},
    "backends": {"base", "files", "bundle", "kernels"},
    "session": {"base", "files", "bundle", "prompt", "backends"},
    "api": {"base", "files", "bundle", "session"},
}
"""Each room, and those it may include from beside itself."""


def test_every_file_has_a_room() -> None:
    assert {path.relative_to(SOURCES).parts[0] for path in SOURCES.glob("**/*.[ch]pp")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_includes_go_one_way(room: str) -> None:
    files = list((SOURCES / room).glob("**/*.[ch]pp"))
    assert files
    for path in files:
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            folder = include.split("/")[0]
            assert folder in ROOMS[room] | {room, "rexit"}, f"{path}: {include}"


def test_the_program_stands_on_the_public_headers() -> None:
    folder = SOURCES.parent / "program"
    own = {path.name for path in folder.glob("*.hpp")}
    for path in folder.glob("*.[ch]pp"):
        assert set(re.findall(r'^#include "([^"]+)"', path.read_text(), re.M)) <= own | {"rexit/rexit.h", "rexit/rexit.hpp"}, path
