"""Every promise of rexit.h has a test: tests/cpp/promises/promises.toml says which, sentence by sentence.

Each comment of the header belongs to the declaration that it stands in or before, and promises.toml has a table for each of
those. All words of a comment are quoted there: by a test that holds them, by `definitions` or by `untested`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HEADER = (ROOT / "runtime" / "include" / "rexit" / "rexit.h").read_text()
PROMISES = tomllib.loads((ROOT / "tests" / "cpp" / "promises" / "promises.toml").read_text())
DECLARATION = re.compile(
    r"^#(?:ifndef|define) (REXIT_\w+)"
    r"|^typedef (?:struct|enum) (\w+)(?: \{.*?\}| \w+)[^}]*?;"
    r"|^(?:REXIT_NODISCARD )?REXIT_API [^;]*?(\w+)\([^;]*;",
    re.MULTILINE | re.DOTALL,
)
KEYS = {"definitions", "untested"}
"""Keys beside tests. `definitions`: definitions and duties of the caller, which the library cannot break. `untested`: what this
project's machines cannot show, by reason."""


def words(text: str) -> str:
    """In one line, without the asterisks in front of a comment's lines."""
    return " ".join(re.sub(r"^ +\*(?: |$)|/\*|\*/", " ", text, flags=re.MULTILINE).split())


def comments() -> dict[str, list[str]]:
    """What the header says, but for its headings, by the name of the declaration that it is about."""
    texts_by_name: dict[str, list[str]] = {}
    begin = 0
    for match in DECLARATION.finditer(HEADER):
        name = next(group for group in match.groups() if group)
        if texts := [words(text) for text in re.findall(r"/\*(?! ---).*?\*/", HEADER[begin : match.end()], re.DOTALL)]:
            texts_by_name.setdefault(name, []).extend(texts)
        begin = match.end()
    return texts_by_name


def quotes(value: Any) -> list[str]:
    """All quotations in a table or what stands behind one of its keys."""
    if isinstance(value, str):
        return [words(value)]
    return [quote for part in (value.values() if isinstance(value, dict) else value) for quote in quotes(part)]


def existing() -> set[str]:
    """All tests that promises.toml may name."""
    cpp = ROOT / "tests" / "cpp"
    promises = {
        f"{suite}.{name}"
        for path in cpp.glob("**/*.cpp")
        for suite, name in re.findall(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)", path.read_text(), re.MULTILINE)
    }
    c = re.findall(r"^static void (\w+)\(", (cpp / "api" / "abi_test.c").read_text(), re.MULTILINE)
    promises |= {f"abi_test.{name}" for name in c}
    for path in (ROOT / "tests").glob("**/test_*.py"):
        python = re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
        promises |= {f"{path.relative_to(ROOT)}::{name}" for name in python}
    return promises


def unquoted(text: str, quoted: list[str]) -> list[str]:
    """The pieces of a comment that no quotation has."""
    left = [True] * len(text)
    for quote in quoted:
        for match in re.finditer(re.escape(quote), text):
            left[match.start() : match.end()] = [False] * len(quote)
    pieces = re.split("\0+", "".join(letter if free else "\0" for letter, free in zip(text, left, strict=True)))
    return [piece.strip(" -.;:,") for piece in pieces if re.search(r"\w", piece)]


def test_every_sentence_of_the_header_is_tested_or_a_definition() -> None:
    left = [
        f"{name}: {piece}"
        for name, texts in comments().items()
        for text in texts
        for piece in unquoted(text, quotes(PROMISES.get(name, {})))
    ]
    assert not left, (
        "rexit.h says what no test holds. Write one that fails where it is not so, and quote these words in promises.toml behind "
        "its name; or under `definitions`, if the library cannot break them:\n" + "\n".join(left)
    )


def test_the_header_says_so() -> None:
    texts_by_name = comments()
    gone = [
        f"{name}: {quote}"
        for name, table in PROMISES.items()
        for quote in quotes(table)
        if not any(quote in text for text in texts_by_name.get(name, []))
    ]
    assert not gone, "promises.toml quotes what rexit.h does not say (any more):\n" + "\n".join(gone)


def test_the_tests_exist() -> None:
    named = {key for table in PROMISES.values() for key in table} - KEYS
    assert sorted(named - existing()) == []


def test_each_function_that_says_something_has_a_test() -> None:
    assert [
        name
        for name in comments()
        if name.startswith("rexit_") and f"{name}(" in HEADER and PROMISES.get(name, {}).keys() <= KEYS
    ] == []
