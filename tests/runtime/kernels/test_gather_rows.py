"""The PTX of rexit's one GPU kernel, interpreted thread by thread: it gathers rows as NumPy does, and as its source says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
NVIDIA = ROOT / "runtime" / "src" / "backends" / "nvidia"
PIECE = 16


def ptx() -> str:
    text = (NVIDIA / "gather_rows_ptx.hpp").read_text(encoding="utf-8")
    return text.partition('R"ptx(')[2].partition(')ptx"')[0]


def statements() -> tuple[list[tuple[str, list[str], str]], dict[str, int]]:
    """The kernel's instructions (name, operands, predicate), and where its labels stand."""
    body = ptx().partition("{")[2].partition("}")[0]
    found: list[tuple[str, list[str], str]] = []
    labels: dict[str, int] = {}
    for line in filter(None, map(str.strip, body.splitlines())):
        if line.endswith(":"):
            labels[line[:-1]] = len(found)
        elif not line.startswith("."):
            guard, name, operands = re.fullmatch(r"(?:@(%p\d+) )?([\w.]+)\s*(.*);", line).groups()  # type: ignore[union-attr]
            found.append((name, [operand.strip(" []") for operand in operands.split(",")], guard or ""))
    return found, labels


def run_thread(memory: dict[int, np.ndarray], arguments: list[int], special: dict[str, int]) -> None:
    """memory: arrays of bytes by their address."""
    code, labels = statements()
    values: dict[str, int] = dict(special)
    parameters = {f"rexit_gather_rows_param_{i}": value for i, value in enumerate(arguments)}

    def value(operand: str) -> int:
        return values[operand] if operand.startswith("%") else int(operand)

    def place(operand: str) -> np.ndarray:
        register, _, offset = operand.partition("+")
        address = values[register] + int(offset or 0)
        base = max(start for start in memory if start <= address)
        assert address + 8 <= base + len(memory[base]), "beyond the memory's end"
        return memory[base][address - base : address - base + 8]

    binary: dict[str, Callable[[int, int], int]] = {
        "div.u32": lambda a, b: a // b,
        "mul.wide.u32": lambda a, b: a * b,
        "mul.lo.s64": lambda a, b: a * b,
        "mul.lo.s32": lambda a, b: a * b,
        "sub.s32": lambda a, b: a - b,
        "add.s32": lambda a, b: a + b,
        "add.s64": lambda a, b: a + b,
        "shl.b64": lambda a, b: a << b,
        "setp.ge.u32": lambda a, b: int(a >= b),
        "setp.lt.u32": lambda a, b: int(a < b),
    }
    at = 0
    while True:
        name, operands, guard = code[at]
        at += 1
        if guard and not values[guard]:
            continue
        if name == "ret":
            return
        if name == "bra":
            at = labels[operands[0]]
        elif name.startswith("ld.param"):
            values[operands[0]] = parameters[operands[1]]
        elif name == "ld.global.u64":
            values[operands[0]] = int(place(operands[1]).view(np.uint64)[0])
        elif name == "st.global.u64":
            place(operands[0]).view(np.uint64)[0] = value(operands[1])
        elif name in ("mov.u32", "cvta.to.global.u64", "cvt.u64.u32"):
            values[operands[0]] = value(operands[1])
        elif name == "mad.lo.s32":
            values[operands[0]] = value(operands[1]) * value(operands[2]) + value(operands[3])
        else:
            result = binary[name](value(operands[1]), value(operands[2]))
            values[operands[0]] = result % (1 << (32 if name.endswith("32") and "wide" not in name else 64))


@pytest.mark.parametrize(("blocks", "threads"), [(1, 4), (2, 3), (8, 8)])
def test_the_ptx_gathers_rows(blocks: int, threads: int) -> None:
    random = np.random.default_rng(0)
    pieces, numbers = 3, np.array([1, 2, 5, 9, 10], np.int64)
    source = random.integers(0, 256, 11 * pieces * PIECE, dtype=np.uint8)
    target = np.zeros(len(numbers) * pieces * PIECE, np.uint8)
    memory = {0x10000: target, 0x20000: source, 0x30000: numbers.view(np.uint8)}
    for block in range(blocks):
        for thread in range(threads):
            special = {"%ctaid.x": block, "%ntid.x": threads, "%tid.x": thread, "%nctaid.x": blocks}
            run_thread(memory, [0x10000, 0x20000, 0x30000, pieces, len(numbers) * pieces], special)
    np.testing.assert_array_equal(target.reshape(len(numbers), -1), source.reshape(11, -1)[numbers])


def test_drivers_of_tensorrt_10_take_it() -> None:
    """PTX 6.3 came with CUDA 10.0; compute capability 7.5 is the least of TensorRT 10."""
    assert ptx().split()[:4] == [".version", "6.3", ".target", "sm_75"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++-14") is None, reason="the compiler that wrote it: clang 14")
def test_it_is_of_its_source(tmp_path: Path) -> None:
    shutil.copytree(NVIDIA, tmp_path / "runtime" / "src" / "backends" / "nvidia")
    (tmp_path / "tools").mkdir()
    script = shutil.copy(ROOT / "tools" / "gather-rows-ptx.sh", tmp_path / "tools")
    subprocess.run([script], env={"PATH": "/usr/bin:/bin", "CLANG": "clang++-14"}, check=True)
    header = "runtime/src/backends/nvidia/gather_rows_ptx.hpp"
    assert (tmp_path / header).read_text(encoding="utf-8") == (ROOT / header).read_text(encoding="utf-8")
