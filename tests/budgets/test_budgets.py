"""The gate can fail, and counts are the same each time; `make budgets` builds what is counted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from budgets.__main__ import FILE, Budgets, Counts, judge, main, measure, updated, write

BUILD = Path(os.environ.get("REXIT_TEST_BUILD", Path(__file__).parents[2] / "build"))
DRIVER, BUNDLES = BUILD / "cpp" / "tests" / "budgets" / "parts", BUILD / "budgets"
A_FEW = 20

BUDGETS: Budgets = {"GNU 12": {"look": {"measured": 100, "allowed": 110}, "pack": {"measured": 1000, "allowed": 1100}}}

counted = pytest.mark.skipif(
    not (shutil.which("valgrind") and DRIVER.exists() and (BUNDLES / ".written").exists()),
    reason="needs valgrind, and the driver with its bundles: `make budgets`",
)


@pytest.mark.parametrize(
    ("parts", "within", "lines"),
    [
        (
            {"look": 110, "pack": 900},
            True,
            [
                "look: took 110 instructions, allowed are 110 (ratio 1.00)",
                "pack: took 900 instructions, allowed are 1100 (ratio 0.82)",
            ],
        ),
        (
            {"look": 111, "pack": 799},
            False,
            [
                "FAILED look: took 111 instructions, allowed are 110 (ratio 1.01)",
                "pack: took 799 instructions, allowed are 1100 (ratio 0.73); it was 1000: lower the budget",
            ],
        ),
        (
            {"look": 100, "new": 1},
            False,
            [
                "look: took 100 instructions, allowed are 110 (ratio 0.91)",
                "FAILED new: took 1 instructions, and has no budget",
                "FAILED pack: has a budget, and was not counted",
            ],
        ),
    ],
)
def test_parts_are_held_against_their_budgets(parts: dict[str, int], within: bool, lines: list[str]) -> None:
    assert judge(Counts("GNU 12", parts), BUDGETS) == (lines, within)


def test_another_compiler_is_not_judged() -> None:
    lines, within = judge(Counts("Clang 19", {"look": 10**6}), BUDGETS)
    assert within and lines == ["look: 1000000 instructions", "not judged: the budgets are for GNU 12; this is Clang 19"]


def test_an_update_keeps_other_compilers(tmp_path: Path) -> None:
    new = updated(Counts("GNU 14", {"look": 101}), BUDGETS)
    assert new == {**BUDGETS, "GNU 14": {"look": {"measured": 101, "allowed": 112}}}
    write(new, tmp_path / "budgets.json")
    assert json.loads((tmp_path / "budgets.json").read_text()) == new


def test_the_file_is_as_update_writes_it(tmp_path: Path) -> None:
    write(json.loads(FILE.read_text()), tmp_path / "budgets.json")
    assert (tmp_path / "budgets.json").read_text() == FILE.read_text()


def test_a_driver_that_fails_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/bin/false", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("budgets: ") and said.err.count("\n") == 1


@counted
@pytest.mark.slow
def test_counts_are_the_same_each_time_and_a_lower_budget_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = measure(DRIVER, BUNDLES)
    budgets = updated(counts, {})
    budgets[counts.compiler]["assemble_prefix"]["allowed"] = counts.parts["assemble_prefix"] - A_FEW - 1
    file = tmp_path / "budgets.json"
    write(budgets, file)
    assert main([str(DRIVER), str(BUNDLES)], file) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1 and failed[0].startswith("FAILED assemble_prefix: took ")
    again = measure(DRIVER, BUNDLES)
    assert again.parts == pytest.approx(counts.parts, rel=0, abs=A_FEW)
