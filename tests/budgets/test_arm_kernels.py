"""Instructions are told apart and counted between the marks; `make instructions-aarch64` builds what is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from budgets.arm_kernels import Count, counted, kind_of, listed, main

LISTING = """
0000000000400700 <begin_count>:
  400700:\tret

0000000000400704 <call>:
  400704:\tfmla\tv0.4s, v1.4s, v2.s[0]
  400708:\tb.ne\t400704 <call>  // b.any
"""


@pytest.mark.parametrize(
    ("kind", "instruction"),
    [
        ("vector", "fmla v0.4s, v1.4s, v2.s[0]"),
        ("vector", "bfdot v0.4s, v1.8h, v2.8h"),
        ("vector", "ldp q0, q1, [x0], #32"),
        ("vector", "dup v0.4s, w0"),
        ("vector", "xtn v31.8b, v31.8h"),
        ("lane", "mov v0.s[1], w0"),
        ("lane", "umov w0, v0.h[1]"),
        ("lane", "st1 {v0.b}[0], [x0]"),
        ("lane", "fmov w0, s0"),
        ("lane", "fmov s0, wzr"),
        ("scalar", "fdiv s0, s0, s1"),
        ("scalar", "fcmpe s31, #0.0"),
        ("scalar", "scvtf s0, w0"),
        ("other", "fmov s0, s1"),
        ("other", "str s31, [x2], #4"),
        ("other", "stp d8, d9, [sp, #16]"),
        ("other", "sub x0, x0, #0x1"),
        ("other", "ret"),
    ],
)
def test_kind(kind: str, instruction: str) -> None:
    assert kind_of(instruction) == kind


def test_a_listing_is_read() -> None:
    assert listed(LISTING) == (
        {
            "0000000000400700": "ret",
            "0000000000400704": "fmla v0.4s, v1.4s, v2.s[0]",
            "0000000000400708": "b.ne 400704",
        },
        {"0000000000400700": "begin_count", "0000000000400704": "call"},
    )


def test_only_what_lies_between_the_marks_is_counted() -> None:
    begin, end = "0000000000000001", "0000000000000002"
    log = [f"Trace 0: 0x7f00 [81/000000000000000{digit}/01/02] name".encode() for digit in "31442315234"]
    assert counted(log, begin, end) == [
        Counter({"0000000000000004": 2}),
        Counter({"0000000000000005": 1}),
    ]


def test_executions_by_kind_and_mnemonic() -> None:
    count = Count("kernel", "baseline", 4, "number", Counter({"ldr q0, [x0]": 3, "ldr q1, [x0]": 2, "ldr x0, [x1]": 1}))
    assert count.by_kind() == {"vector": {"ldr": 5}, "lane": {}, "scalar": {}, "other": {"ldr": 1}}


def test_a_driver_that_is_not_there_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "driver")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("arm_kernels: ") and said.err.count("\n") == 1
