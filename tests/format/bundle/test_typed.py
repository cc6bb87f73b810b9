"""Messages about JSON values that are not of their type: the field, what was seen, what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from rexit.errors import BundleError, InputError
from rexit.format.bundle.files import Positive, read_typed, to_json, typed, write_typed


class Part(msgspec.Struct, frozen=True):
    size: Positive
    layers: tuple[int, int]

    def __post_init__(self) -> None:
        if self.layers[0] > self.layers[1]:
            raise ValueError(f"layers: descend, {self.layers}")


class Whole(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    parts: tuple[Part, ...] = ()
    named: Mapping[str, Part] = msgspec.field(default_factory=dict)
    share: float | None = None
    kind: Annotated[str, msgspec.Meta(pattern="^(a|b)$")] = "a"
    word: Annotated[str, msgspec.Meta(max_length=3)] = ""
    rest: Any = None
    cut: Literal["first", "last"] = "first"


SOUND = {"size": 1, "layers": [0, 2]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "is 7, expected an object"),
        ({}, "`name` is missing"),
        ({"name": None}, "name: is None, expected a string"),
        ({"name": "x", "share": "0.5"}, "share: is '0.5', expected a number or null"),
        ({"name": "x", "share": True}, "share: is true, expected a number or null"),
        ({"name": "x", "kind": "c"}, "kind: is 'c', expected a or b"),
        ({"name": "x", "rest": {"a": 1}, "cut": "all"}, "cut: is 'all', expected first or last"),
        ({"name": "x", "word": "long"}, "word: is 'long', expected a string of length <= 3"),
        ({"name": "x", "parts": {"a": 1}}, "parts: is {'a': 1}, expected an array"),
        ({"name": "x", "parts": [SOUND, {"size": 1}]}, "parts[1]: `layers` is missing"),
        ({"name": "x", "parts": [SOUND, SOUND | {"size": 0}]}, "parts[1] size: is 0, expected an integer >= 1"),
        ({"name": "x", "parts": [SOUND | {"layers": [0, 1, 2]}]}, "parts[0] layers: is [0, 1, 2], expected an array of length 2"),
        ({"name": "x", "parts": [SOUND | {"layers": [0, 1.5]}]}, "parts[0] layers[1]: is 1.5, expected an integer"),
        ({"name": "x", "parts": [SOUND | {"layers": [2, 0]}]}, "parts[0]: layers: descend, (2, 0)"),
        ({"name": "x", "named": {"a": SOUND, "b c.d": {}}}, "named b c.d: `size` is missing"),
        ({"name": "x", "named": {"a": SOUND, "b": SOUND | {"size": "1" * 99}}}, f"named b size: is '{'1' * 58}…, expected an"),
    ],
)
def test_messages(value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        typed(value, Whole, "file.json")
    assert str(caught.value).startswith(f"file.json: {message}") and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"file\.json: outer"):
        typed(value, Whole, "file.json", at="outer", error=InputError)


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    whole = Whole("x", (Part(1, (0, 2)),), share=0.5)
    assert to_json(whole) == {"name": "x", "parts": [SOUND], "share": 0.5}, "plain values, without defaults"
    write_typed(tmp_path / "file.json", whole)
    assert read_typed(tmp_path / "file.json", Whole) == whole
