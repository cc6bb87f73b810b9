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


VECTORS = ("item.look", "user.taste")


@pytest.mark.parametrize(
    ("prompt", "entry", "limits", "message"),
    [
        ("{item.look}", "x", {}, "prompt: unknown placeholder {item.look}, known are: user.age, item.title, "),
        ("{item.gcn}", "x", {}, "prompt: unknown placeholder {item.gcn}, known are: user.age, item.title, "),
        ("{user.gcn}{item.title}", "x", {}, "prompt: unknown placeholder {user.gcn}, known are: user.age, item.title, "),
        ("{item.title}{history.recent:1}", "{item.look}", {}, "entry: unknown placeholder {item.look}, known are: item.title"),
        ("{user.taste}{item.title}", "x", {}, "prompt: unknown placeholder {user.taste}, known are: user.age"),
        ("{item.title}", "x", {"item.look": 3}, "limits.item.look: the template places no such column, it places: item.title"),
    ],
)
def test_a_prompt_is_text(prompt: str, entry: str, limits: dict[str, int], message: str) -> None:
    parsed = replace(template(prompt, entry), limits=limits)
    with pytest.raises(InputError) as caught:
        compile_program(parsed, ["age"], ["title"], Pieces(), VECTORS)
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
