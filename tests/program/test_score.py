"""`rexit-run score` prints what `rexit score` prints, with the same scores to the last bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS, string_id
from running.command import Run
from running.program import assert_one_error, run_program

ALL = ",".join(map(str, ITEM_IDS))


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    assert all(report["stats"][f"{stage}_us"] >= 0 for stage in ("retrieval", "prefix", "slate", "total"))
    return {**report, "stats": {name: value for name, value in report["stats"].items() if not name.endswith("_us")}}


@pytest.mark.parametrize("more", [(), ("--top-k", 3), ("--recent", "18,23:0"), ("--as-of", 20)])
def test_same_as_python(run: Run, bundle: Path, more: tuple[object, ...]) -> None:
    exits = set()
    for user in (*USER_IDS[:3], 5):
        words = ("score", bundle, "--user", user, f"--items={ALL}", *more)
        seen, expected = run_program(*words, "--json"), run(*words, "--json")
        assert (seen.code, expected.code) == (0, 0), seen.err
        assert seen.err.replace("rexit-run:", "rexit:") == expected.err
        report = json.loads(seen.out)
        assert without_times(report) == without_times(expected.json)
        assert list(report) == list(expected.json) and list(report["scores"][0]) == list(expected.json["scores"][0])
        exits |= {row["exit"] for row in report["scores"]}
    if not more:
        assert exits == {0, 1, 2}, "the policy stops some early and some not"


def test_string_ids(run: Run, string_bundle: Path) -> None:
    for user in (string_id("user", 1), "nobody"):
        items = f'{string_id("item", 4)}, "{string_id("item", 2)}" ,"{string_id("item", 3)}"\t'
        words = ("score", string_bundle, "--user", user, "--items", items, "--json")
        seen, expected = run_program(*words), run(*words)
        assert without_times(json.loads(seen.out)) == without_times(expected.json)
        assert seen.err.replace("rexit-run:", "rexit:") == expected.err


def test_table(run: Run, bundle: Path) -> None:
    words = ("score", bundle, "--user", 100, "--items", "3,8,-7")
    seen, expected = run_program(*words), run(*words)
    rows, theirs = (re.findall(r"^ *(-?\d+ +.*)$", text, re.MULTILINE)[:3] for text in (seen.out, expected.out))
    assert [row.split() for row in rows] == [row.split() for row in theirs]
    assert "tokens), slate" in seen.out


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--user", 100, "--items", '3, "4,""5"'), 2, "items[1] is '4,\"5', the catalog's ids are integers"),
        (("--user", 100, "--items", '3,"4'), 2, "'3,\"4': expected ids separated by commas, with a closing quote"),
        (("--user", 100, "--items", '"3"8'), 2, "'\"3\"8': expected a comma behind a closing quote"),
        (("--user", 100, "--items", '"3" "8"'), 2, '\'"3" "8"\': expected a comma behind a closing quote'),
        (("--user", "0100", "--items", "3"), 2, "user is '0100', the catalog's ids are integers"),
        (("--user", 100, "--items", "3", "--input", "device"), 2, "--input is 'device', expected NAME=VALUE"),
        (("--user", 100, "--items", "3", "--input", "=tv"), 2, "--input is '=tv', expected NAME=VALUE"),
        (("--user", 100, "--items", "3", "--input", "a=1", "--input", "a=1"), 2, "--input has 'a' twice"),
        (("--user", 100, "--items", "3", "--force-exit", -1), 2, "--force-exit"),
        (("--user", 100, "--items", "3", "--variant", "gpu"), 2, "gpu"),
        (("--user", 100, "--items", "3", "--deadline-ms", "1e306"), 2, "deadline_ms is 1e+306, expected a number above 0"),
        (("--user", 100, "--items", "3", "--deadline-ms", 0.001), 7, "deadline"),
        (("--user", 100, "--items", "3", "--library", "/none/libonnxruntime.so"), 6, "/none/libonnxruntime.so"),
    ],
)
def test_bad_arguments(bundle: Path, words: tuple[object, ...], code: int, expected: str) -> None:
    """What a request may not say: tests/refusals."""
    assert_one_error(run_program("score", bundle, *words), code, expected)


def test_no_command_and_no_bundle(tmp_path: Path) -> None:
    assert_one_error(run_program(), 2, "subcommand is required")
    assert_one_error(run_program("score", tmp_path / "none", "--user", 1, "--items", 3), 4, "none")


def test_help_and_version() -> None:
    for command in ((), ("verify",), ("score",), ("pipe",)):
        ended = run_program(*command, "--help")
        assert (ended.code, ended.err) == (0, "")
        assert f"rexit-run {''.join(command) or 'COMMAND'}" in ended.out, "an example"
    assert "7 the deadline passed" in run_program("--help").out
    assert re.fullmatch(r"rexit-run \d+\.\d+\.\d+\n", run_program("--version").out)
