"""rexit.h promises what tests hold: tests/cpp/api/promises.toml says which test holds which of its sentences."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "runtime" / "include" / "rexit" / "rexit.h").read_text()
TESTS = ROOT / "tests" / "cpp"
PROMISES: list[dict[str, str]] = tomllib.loads((TESTS / "api" / "promises.toml").read_text())["promises"]


def words(text: str) -> str:
    """In one line, without the asterisks in front of a comment's lines."""
    return " ".join(re.sub(r"^ \* ?|/\*|\*/", " ", text, flags=re.M).split())


def test_the_header_says_so() -> None:
    header = words(HEADER)
    assert [promise["says"] for promise in PROMISES if promise["says"] not in header] == []


def test_the_tests_exist() -> None:
    found = set()
    for path in TESTS.glob("**/*.c*"):
        found |= {f"{a}.{b}" for a, b in re.findall(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)", path.read_text(), re.M)}
    found |= {
        f"abi_test.{name}" for name in re.findall(r"^static void (\w+)\(", (TESTS / "api" / "abi_test.c").read_text(), re.M)
    }
    assert [promise["test"] for promise in PROMISES if promise["test"] not in found] == []


def test_each_function_has_a_promise_that_is_tested() -> None:
    functions = set(re.findall(r"^(?:REXIT_NODISCARD )?REXIT_API .*?\b(rexit_\w+)\(", HEADER, re.M))
    assert functions
    assert functions == {function for promise in PROMISES for function in promise["of"].split()}
