"""Prints pyproject.toml's requirements of some extras for pip, one a line: everything that rexit depends on, but not rexit.

    python tools/requirements.py export dev

The Makefile installs these, and then rexit and optimum-rexit without build isolation.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    yield from project["dependencies"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            yield from requirements(project, re.split(r"\s*,\s*", own[1])) if own else [line]


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    lines = requirements(tomllib.loads(pyproject.read_text())["project"], sys.argv[1:])
    print(*dict.fromkeys(lines), sep="\n")
