"""Signposts are true: each path and each dotted name in backticks, in comments, docstrings and pages, leads to what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = "exporter|calibration|runtime|src|tests|tools|docs|examples|benchmarks"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*\w\.(?:py|cpp|hpp|h|c|md|sh|mk|json|toml))`")
NAME = re.compile(r"`(rexit(?!\.hp*`)(?:\.\w+)+)`")


def test_paths_and_dotted_names_in_backticks_lead_somewhere() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    dead = []
    for name in listed:
        path = ROOT / name
        if path.suffix not in {".py", ".cpp", ".hpp", ".h", ".md", ".sh", ".mk"} or name == "CHANGELOG.md" or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        dead += [f"{name}: {place}" for place in PATH.findall(text) if "NAME" not in place and not (ROOT / place).exists()]
        dead += [f"{name}: {dotted}" for dotted in NAME.findall(text) if not _is_there(dotted)]
    assert not dead, "\n".join(dead)


def _is_there(dotted: str) -> bool:
    """Whether a module or package has this name, or has the rest of it in its text."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath("src", *parts[:length])
        for file in (place.with_suffix(".py"), place / "__init__.py", place.with_suffix(".pyi")):
            if file.is_file():
                rest = parts[length:]
                return not rest or re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")) is not None
    return False
