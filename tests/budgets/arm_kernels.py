"""Counts the instructions of each kernel on 64-bit ARM, by what they work on: a scalar loop would show.

    cd tests && python -m budgets.arm_kernels DRIVER [--json]          (`make instructions-aarch64` has both)

DRIVER is built from arm_kernels.cpp, statically linked. QEMU's user emulation runs it instruction by instruction and logs the
address of each; objdump's listing turns addresses into instructions. Every instruction is of one kind:

1. `vector`: an operand is a whole vector (`fmla v0.4s, v1.4s, v2.s[0]`, `ldr q0`).
2. `lane`: it moves one number into or out of a vector register (`mov v0.s[1], w0`, `fmov w0, s0`). One or more per number are a
   conversion number by number.
3. `scalar`: floating-point arithmetic on one number (`fdiv s0, s0, s1`).
4. `other`: addresses, loops, integers, and loads and stores of one number.

Counts say nothing about time: a division counts as much as an addition.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

KINDS: Final = ("vector", "lane", "scalar", "other")
OBJDUMP: Final = "aarch64-linux-gnu-objdump"
QEMU: Final = ("qemu-aarch64", "-cpu", "max")

WHOLE_VECTOR: Final = re.compile(r"\bv\d+\.\d+[bhsdq]|\bq\d+\b")
LANE: Final = re.compile(r"\bv\d+\.[bhsd]\}?\[|^fmov .*\b[wx](\d+|zr)\b")
SCALAR: Final = re.compile(r"(f(?!mov)|[su]cvtf)\w* .*\b[hsd]\d+\b")


class CountError(Exception):
    """Nothing could be counted."""


class Count(NamedTuple):
    """A kernel's call: how often it executed each instruction, by its text."""

    kernel: str
    instruction_set: str
    units: int
    unit: str
    instructions: Counter[str]

    def by_kind(self) -> dict[str, Counter[str]]:
        """Executions by kind and mnemonic."""
        kinds: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        for text, times in self.instructions.items():
            kinds[kind_of(text)][text.split()[0]] += times
        return kinds


def kind_of(instruction: str) -> str:
    """The kind of an instruction as objdump writes it, a space after the mnemonic."""
    if WHOLE_VECTOR.search(instruction):
        return "vector"
    if LANE.search(instruction):
        return "lane"
    return "scalar" if SCALAR.match(instruction) else "other"


def run(*words: str | Path) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CountError(f"{words[0]} is missing: tools/system-packages.sh aarch64") from None
    if done.returncode != 0:
        raise CountError(f"{words[0]} {words[-1]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def listed(listing: str) -> tuple[dict[str, str], dict[str, str]]:
    """From objdump's listing: each address's instruction, and the functions' names by address, as 16 hexadecimal digits."""
    instructions, functions = {}, {}
    for line in listing.splitlines():
        if entry := re.match(r" *([0-9a-f]+):\t([^/<]*)", line):
            instructions[entry[1].zfill(16)] = " ".join(entry[2].split())
        elif function := re.match(r"([0-9a-f]{16}) <(.*)>:", line):
            functions[function[1]] = function[2]
    return instructions, functions


def counted(log: Iterable[bytes], begin: str, end: str) -> list[Counter[str]]:
    """How often each address stands in QEMU's log, after each `begin` up to the next `end`."""
    calls: list[Counter[str]] = []
    call: Counter[bytes] | None = None
    for line in log:
        at = line.find(b"/") + 1  # Trace 0: 0x7fc2b4000100 [81009331/00000000004005c0/00000001/00000201] main
        address = line[at : at + 16]
        if address == begin.encode():
            call = Counter()
        elif address == end.encode() and call is not None:
            calls.append(Counter({key.decode(): times for key, times in call.items()}))
            call = None
        elif call is not None:
            call[address] += 1
    return calls


def measure(driver: Path) -> list[Count]:
    kernels = [line.split("\t") for line in run(*QEMU, driver).splitlines()]
    instructions, functions = listed(run(OBJDUMP, "--disassemble", "--no-show-raw-insn", driver))
    marks = {name: address for address, name in functions.items()}
    words: list[str | Path] = [*QEMU, "-one-insn-per-tb", "-d", "exec,nochain", driver]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        calls = counted(process.stderr, marks["begin_count"], marks["end_count"])
    counts = []
    for (kernel, instruction_set, units, unit), call in zip(kernels, calls, strict=True):
        texts: Counter[str] = Counter()
        for address, times in call.items():
            texts[instructions[address]] += times
        counts.append(Count(kernel, instruction_set, int(units), unit, texts))
    return counts


def table_of(counts: list[Count]) -> Table:
    """Instructions per multiply-add or number, and the most frequent of those for one number."""
    table = Table(box=MARKDOWN)
    for column in ("kernel", "instructions", "per"):
        table.add_column(column)
    for column in ("all", *KINDS, "vector %"):
        table.add_column(column, justify="right")
    table.add_column("most of lane and scalar")
    for count in counts:
        kinds = count.by_kind()
        numbers = [sum(kind.values()) / count.units for kind in kinds.values()]
        frequent = (kinds["lane"] + kinds["scalar"]).most_common(3)
        table.add_row(
            count.kernel,
            count.instruction_set,
            count.unit,
            *(f"{number:.3f}" for number in (sum(numbers), *numbers)),
            f"{100 * numbers[0] / sum(numbers):.0f}",
            ", ".join(f"{mnemonic} {times / count.units:.3f}" for mnemonic, times in frequent if times > count.units / 1000),
        )
    return table


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m budgets.arm_kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("driver", type=Path, help="tests/budgets/arm_kernels, as CMake built it for 64-bit ARM")
    parser.add_argument("--json", action="store_true", help="print the executions of each instruction")
    args = parser.parse_args(words)
    try:
        counts = measure(args.driver)
    except CountError as error:
        print(f"arm_kernels: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([{**count._asdict(), "kinds": count.by_kind()} for count in counts], indent=1))
    else:
        Console(highlight=False, width=130).print(table_of(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
