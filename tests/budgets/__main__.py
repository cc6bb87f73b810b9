"""Holds what each part of a request takes, in instructions, against a budget: a gate that no noise can fool.

    cd tests && python -m budgets DRIVER BUNDLES [--update]          (`make budgets` has both)

DRIVER is built from parts.cpp, BUNDLES is what `builders.bundles.counted` wrote. Valgrind's callgrind runs the driver and counts
every instruction of the program and its libraries; the counts are the same each time. budgets.json has, by compiler, what a part
took when it was measured and what it may take, a tenth more. What a compiler makes of the same source differs, so that the counts
of one that is not in the file are printed and not judged.

The status is 1 if a part takes more than it may, or is not in the file; `--update` writes the counts of the compiler at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).with_name("budgets.json")
MARGIN: Final = 0.1
LOOSE: Final = 0.2
"""Where a part takes so much less than when it was measured, its budget no longer holds it."""

# The libraries' functions are bound at the start, not when they are first called. memcpy and the like are those that any x86-64
# processor runs, and fill memory without the one instruction that callgrind counts once for each byte.
ENVIRONMENT: Final = {
    "LC_ALL": "C",
    "LD_BIND_NOW": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load:glibc.cpu.x86_rep_stosb_threshold=1073741824",
}

Budgets = dict[str, dict[str, dict[str, int]]]
"""By compiler and part: `measured` and `allowed`."""


class Counts(NamedTuple):
    """parts: instructions of each, for one of what it is made of (parts.cpp)."""

    compiler: str
    parts: dict[str, int]


class CountError(Exception):
    """Nothing could be counted."""


def measure(driver: Path, bundles: Path) -> Counts:
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "callgrind"
        words: list[Any] = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={files}", driver, bundles]
        try:
            done = subprocess.run(
                words, env={"PATH": os.environ["PATH"], **ENVIRONMENT}, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise CountError("valgrind is missing: apt-get install valgrind") from None
        if done.returncode != 0:
            raise CountError(f"{driver} ended with {done.returncode}: {done.stderr.strip()}")
        runs = dict(_run(path.read_text()) for path in files.parent.glob("callgrind.*"))
    compiler, *lines = done.stdout.splitlines()
    units = {part: int(number) for part, number in (line.split() for line in lines)}
    return Counts(compiler, {part: round((runs[f"{part} more"] - runs[f"{part} less"]) / n) for part, n in units.items()})


def _run(text: str) -> tuple[str, int]:
    """The name of a run and its instructions, out of callgrind's file."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    summary = re.search(r"^summary: (\d+)$", text, re.MULTILINE)
    assert name and summary, text[:500]
    return name[1], int(summary[1])


def judge(counts: Counts, budgets: Budgets) -> tuple[list[str], bool]:
    """Lines to print, and whether all parts are within their budgets; they are not judged if there are none for this compiler."""
    budget = budgets.get(counts.compiler)
    if budget is None:
        known = " and ".join(budgets)
        return [
            *(f"{part}: {count} instructions" for part, count in counts.parts.items()),
            f"not judged: the budgets are for {known}; this is {counts.compiler}",
        ], True
    lines, within = [], True
    for part, count in counts.parts.items():
        if part not in budget:
            lines.append(f"FAILED {part}: took {count} instructions, and has no budget")
            within = False
            continue
        allowed, measured = budget[part]["allowed"], budget[part]["measured"]
        said = f"{part}: took {count} instructions, allowed are {allowed} (ratio {count / allowed:.2f})"
        if count > allowed:
            within = False
            said = f"FAILED {said}"
        elif count < (1 - LOOSE) * measured:
            said = f"{said}; it was {measured}: lower the budget"
        lines.append(said)
    for part in budget.keys() - counts.parts.keys():
        lines.append(f"FAILED {part}: has a budget, and was not counted")
        within = False
    return lines, within


def updated(counts: Counts, budgets: Budgets) -> Budgets:
    entries = {part: {"measured": n, "allowed": math.ceil(n * (1 + MARGIN))} for part, n in counts.parts.items()}
    return {**budgets, counts.compiler: entries}


def write(budgets: Budgets, path: Path) -> None:
    """A part a line."""
    compilers = []
    for compiler in sorted(budgets):
        parts = ",\n".join(f"  {json.dumps(part)}: {json.dumps(entry)}" for part, entry in budgets[compiler].items())
        compilers.append(f" {json.dumps(compiler)}: {{\n{parts}\n }}")
    path.write_text("{\n" + ",\n".join(compilers) + "\n}\n", encoding="utf-8")


def main(words: list[str], file: Path = FILE) -> int:
    parser = argparse.ArgumentParser(prog="python -m budgets", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("driver", type=Path, help="tests/budgets/parts, as CMake built it")
    parser.add_argument("bundles", type=Path, help="what `python -m builders.bundles.counted` wrote")
    parser.add_argument("--update", action="store_true", help=f"write {file.name} anew for this compiler")
    given = parser.parse_args(words)
    budgets: Budgets = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    try:
        counts = measure(given.driver, given.bundles)
    except CountError as error:
        print(f"budgets: {error}", file=sys.stderr)
        return 2
    if given.update:
        budgets = updated(counts, budgets)
        write(budgets, file)
    lines, within = judge(counts, budgets)
    print("\n".join(lines))
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
