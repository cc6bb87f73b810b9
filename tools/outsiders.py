"""Prints for each feature how many product files outside its room name it: what a change of the feature may touch.

    python tools/outsiders.py            a table
    python tools/outsiders.py exit-zero  the files, a line each

A feature that is known everywhere is hard to change or to remove, however well each file reads. A rise is for the review to
weigh: this never fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("exporter", "calibration", "src", "runtime")
SUFFIXES = {".py", ".cpp", ".hpp", ".h"}


class Feature(NamedTuple):
    """Regular expressions: the paths of its room, and the words that name it."""

    room: str
    words: str


FEATURES = {
    "exit-zero": Feature(r"/zero", r"exit_zero|[Ee]xit zero|has_zero|zero_head"),
    "inputs": Feature(r"/inputs|input_columns", r"\binputs\.hpp|bundle\.inputs|\bInputs?\b|input_columns"),
    "tensorrt": Feature(r"tensorrt|/engine/|/nvidia/|accelerators", r"[Tt]ensor_?[Rr][Tt]|TENSORRT|\btrt\b"),
    "floor": Feature(r"/floor", r"\bfloor\b"),
    "audit": Feature(r"/audit|auditor", r"[Aa]udit"),
    "refresh": Feature(r"/refresh", r"\b[Rr]efresh"),
    "training": Feature(r"/training/", r"fine_tuning|\btrainer\b"),
    "kernels": Feature(r"/kernels/|ort_kernels", r"\bkernels/|ort_kernels|_kernels\b"),
}


def outsiders(feature: Feature, texts: dict[str, str]) -> list[str]:
    """Returns the files outside the room that name the feature. texts: the product's files, by path."""
    room, words = re.compile(feature.room), re.compile(feature.words)
    return [path for path, text in texts.items() if not room.search(path) and words.search(text)]


def product() -> dict[str, str]:
    """Returns the text of each tracked file of the product, by path."""
    listed = subprocess.run(["git", "ls-files", *PRODUCT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [Path(line) for line in listed.splitlines()]
    return {
        str(path): (ROOT / path).read_text(encoding="utf-8")
        for path in files
        if path.suffix in SUFFIXES and (ROOT / path).is_file() and not (ROOT / path).is_symlink()
    }


def main(names: list[str]) -> None:
    texts = product()
    if unknown := [name for name in names if name not in FEATURES]:
        sys.exit(f"outsiders: {unknown[0]!r}, expected one of {', '.join(FEATURES)}")
    for name in names:
        print(*outsiders(FEATURES[name], texts), sep="\n")
    if not names:
        print(f"{len(texts)} product files; outside its room, files that name")
        for name, feature in FEATURES.items():
            print(f"  {name:<10}{len(outsiders(feature, texts)):>4}")


if __name__ == "__main__":
    main(sys.argv[1:])
