from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rexit.errors import InputError
from rexit.exporter.prompt.pieces import Pieces
from rexit.exporter.prompt.program import Program, bounds, compile_program, placeholder
from rexit.exporter.prompt.template import ENTRIES, Template, parse

LABELS = {"yes": " yes", "no": " no"}


def template(prompt: str, entry: str = " {item.title}{verdict};", bos: str | None = None) -> Template:
    path = Path("t.toml")
    entries = {name: parse(path, "entry", entry) for name in ENTRIES}
    return Template(path, prompt, parse(path, "prompt", prompt), entries, LABELS, bos=bos)


def compiled(prompt: str, **options: str) -> tuple[Program, Pieces]:
    pieces = Pieces()
    return compile_program(template(prompt, **options), ["age"], ["title", "year"], pieces), pieces


def test_the_prefix_ends_before_the_first_op_about_the_target() -> None:
    program, _ = compiled("{user.age}{history.recent:2}{similar_liked:3} Is {history.nearest:1}{user.age}?")
    assert [op["op"] for op in program.prefix] == ["user_field", "history", "similar_liked", "piece"]
    assert [op["op"] for op in program.candidate] == ["history", "user_field", "piece"]
    for first in (
        "{item.year}",
        "{item.like_rate}",
        "{item.count}",
        "{similar_verdict:2}",
        "{similar_like_rate:2}",
        "{nearest_like_rate:2}",
    ):
        assert [op["op"] for op in compiled("x" + first)[0].prefix] == ["piece"]


def test_a_column_with_and_without_a_space_is_two_fields() -> None:
    program, _ = compiled("{item.title} {item.title}")
    assert program.item_fields == {"title": ("title", False), " title": ("title", True)}
    assert [op["field"] for op in program.candidate] == ["title", " title"]


def test_vectors_have_tables_in_the_order_they_are_met() -> None:
    prompt = "{user.gcn}{history.recent:2} {item.title:3} {item.year}{item.gcn}{item.title:1}{item.title:3}"
    program, _ = compiled(prompt, entry="{item.gcn}{item.year:2}{verdict}")
    assert program.vectors == ["gcn", "year:2", "title:3", "title:1"]
    assert [op.get("table") for op in program.candidate] == ["title:3", None, "gcn", "title:1", "title:3"]
    assert program.prefix[0] == {"op": "user_vector"} and program.prefix[1]["entry"][0] == {"op": "item_vector", "table": "gcn"}
    assert program.item_fields == {"year": ("year", False), " year": ("year", True), "title": ("title", False)}
    assert [op["op"] for op in compiled("x{item.gcn}")[0].prefix] == ["piece"], "it is about the target"
    ops = [*program.prefix, *program.candidate]
    assert "".join(placeholder(op) or " " for op in ops).replace(" ", "") == prompt.replace(" ", "")


VECTORS = ("item.look", "item.user", "item.user.none", "user.taste")


def with_vectors(prompt: str, entry: str = "{verdict}", limits: dict[str, int] | None = None) -> tuple[Program, list[str]]:
    """And the pieces' texts."""
    pieces, parsed = Pieces(), replace(template(prompt, entry), limits=limits or {})
    return compile_program(parsed, ["age"], ["title"], pieces, VECTORS), [text for text, *_ in pieces._rows]


def test_a_column_of_vectors_is_placed_as_one_vector() -> None:
    """The space before it stays with the text before it, as before any other vector."""
    program, texts = with_vectors(
        "{history.recent:2}It is {item.look} {item.look}{item.title:2}!", entry="a {item.look}{verdict}"
    )
    assert program.vectors == ["look", "title:2"] and program.item_fields == {"title": ("title", False)}
    assert [op["op"] for op in program.candidate] == ["item_vector", "piece", "item_vector", "item_vector", "piece"]
    assert {"It is ", " ", "a ", "!"} <= set(texts) and not {"It is", "a", ""} & set(texts)
    assert [op["op"] for op in program.prefix[0]["entry"]] == ["piece", "item_vector", "verdict"]
    assert bounds(program.candidate, np.ones(len(texts), np.int64), {}) == (6, 6)
    assert placeholder({"op": "item_vector", "table": "look"}) == "{item.look}"


@pytest.mark.parametrize(
    ("prompt", "entry", "limits", "message"),
    [
        ("{item.look:1}", "x", {}, "prompt: {item.look:1}: the column holds a vector of each item, which is placed as one"),
        ("{item.title}{history.recent:1}", "{item.look:2}", {}, "entry: {item.look:2}: the column holds a vector of each item"),
        ("{user.taste}{item.title}", "x", {}, "prompt: {user.taste}: the column holds vectors, which only items can have"),
        ("{item.title}{history.recent:1}", "{user.taste}", {}, "entry: unknown placeholder {user.taste}, known are: item.COLUMN"),
        ("{item.user}", "x", {}, "prompt: {item.user}: that name is of the user's vectors: rename the column"),
        ("{item.look}", "x", {"item.look": 3}, "limits.item.look: the column holds vectors, which have no tokens to cut"),
        ("{item.luck}", "x", {}, "prompt: unknown placeholder {item.luck}, known are: user.age, item.title, item.look, "),
    ],
)
def test_what_a_column_of_vectors_cannot_be(prompt: str, entry: str, limits: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        with_vectors(prompt, entry, limits)
    assert str(caught.value).startswith(f"t.toml: {message}")


def test_bos_comes_first() -> None:
    program, pieces = compiled("{item.title}", bos="<s>")
    assert program.prefix == [{"op": "piece", "piece": pieces.literal("<s>")}]


@pytest.mark.parametrize(
    ("prompt", "entry", "message"),
    [
        ("{item.titel}", " {item.title}", "prompt: unknown placeholder {item.titel}, known are: user.age, item.title, item.year"),
        ("{item.title}{history.recent:1}", "{user.age}", "entry: unknown placeholder {user.age}, known are: item.COLUMN"),
        ("Hello {user.age}", "x", "prompt never names the target item"),
    ],
)
def test_what_cannot_be_compiled_is_named(prompt: str, entry: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(prompt, entry=entry)
    assert message in str(caught.value) and str(caught.value).startswith("t.toml: ")


def test_an_op_knows_its_placeholder() -> None:
    prompt = (
        "{user.age}{user.like_rate}{user.count}{history.recent:2}{similar_liked:3}{item.title}{item.like_rate}{item.count}"
        "{similar_verdict:5}{history.nearest:1}{similar_like_rate:4}{nearest_like_rate:6}"
    )
    program, _ = compiled(prompt + " {item.title}.", entry="{verdict}")
    ops = [*program.prefix, *program.candidate]
    assert "".join(placeholder(op) or "|" for op in ops) == prompt + "{item.title}|"
    assert [placeholder(op) for op in ops[3]["entry"]] == ["{verdict}"]


def test_bounds() -> None:
    program, pieces = compiled("{user.age}:{history.recent:3}{similar_verdict:2}{item.title}", entry="-{item.title}{verdict}")
    fields = {
        f"{table}.{name}": np.array([pieces.literal(text) for text in texts])
        for table, name, texts in (("user", "age", ["1", "22"]), ("item", "title", ["", "abcd"]))
    }
    lengths = np.array([len(text) for text, *_ in pieces._rows])  # one token a letter
    unknown, none, disliked = len("unknown"), len(" none"), len(" disliked")
    assert bounds(program.prefix, lengths, fields) == (1 + 1 + none, unknown + 1 + 3 * (1 + 4 + disliked))
    assert bounds(program.candidate, lengths, fields) == (len(" liked"), 2 * disliked + 4)
