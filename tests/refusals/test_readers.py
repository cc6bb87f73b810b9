"""The library's JSON reader against Python's: of a request that is mutated at random, both give the same scores or both refuse.

Python's side is `json` and the fields of `Session.score`, which the library never sees as JSON; texts are read by a third reader,
msgspec's, before `Session.score_json` hands the body over.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from refusals.table import GOOD, write_bundle_with_inputs
from rexit import Request, TokenRequest, runtime
from rexit.errors import InputError
from rexit.request import FIELDS

Answer = list[dict[str, Any]] | None

WHOLE: list[dict[str, Any]] = [
    {**GOOD, "recent": [3, [8, False]], "as_of": 50, "top_k": 1, "force_exit": 1, "id": "a"},
    {**GOOD, "inputs": {**GOOD["inputs"], "query": "wing flow", "note": [4, 5]}},
    {"prefix": [3, 4], "candidates": [[5], [6, 7]], "top_k": 2},
]
NAMES = [part.name for part in FIELDS if part.name != "deadline_ms"]  # when it has passed differs from call to call
VALUES = [
    *(0, 1, -1, 3, 8, 100, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70, 0.5, 21.0, -0.0, 1e-320, 1e308, 1e999),
    *("", "tv", "100", "wing", "ü\0", "\ud800"),
    *(True, False, None),
    *([], {}, [3], [[3]], [3, True], [[3, True]], [[3, 1]], {"a": 1}),
]
BYTES = [b"", b" ", b",", b"]", b"}", b'"', b"\\", b"\\u00e9", b"\\ud800", b"\xff", b"\xc3\xa9", b"\x00", b"\xef\xbb\xbf"]
BYTES += [b"-", b"+", b"0", b"01", b".5", b"5.", b"1e2", b"e", b"NaN", b"Infinity", b"nul", b"/**/", b"'", b"\x7f", b"\x85"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Session]:
    with runtime.open(write_bundle_with_inputs(tmp_path_factory.mktemp("readers") / "bundle")) as session:
        yield session


def mutated(draw: random.Random) -> bytes:
    """A request with another value, key or nesting somewhere, then perhaps with other bytes."""
    request = copy.deepcopy(draw.choice(WHOLE))
    for _ in range(draw.choice((0, 1, 1, 2))):
        place: Any = request
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.choice([*keys, draw.choice(NAMES)] if place is request else keys) if keys else None
            if key is None:
                break
            inner = place.get(key) if isinstance(place, dict) else place[key]
            if not isinstance(inner, dict | list) or not inner or draw.random() < 0.3:
                place[key] = copy.deepcopy(draw.choice(VALUES))
                break
            place = inner
    text = json.dumps(request, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        at, length = draw.randrange(len(text)), draw.choice((0, 0, 1, 2))
        piece = draw.choice([*BYTES, text[at : at + draw.randrange(40)]])
        text = text[:at] + piece + text[at + length :]
    return text


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def by_fields(session: runtime.Session, body: bytes) -> Answer:
    """The scores as Python reads the request; None: refused."""
    try:
        request = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(request, ensure_ascii=False).encode("utf-8")  # a surrogate alone is no text
        if not isinstance(request, dict) or not request.keys() <= set(NAMES):
            return None
        request = {key: value for key, value in request.items() if value is not None}
        name = request.pop("id", 0)
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            return None
        options = {"top_k": request.pop("top_k", 0), "force_exit": request.pop("force_exit", None)}
        if "recent" in request:
            request["recent"] = [pair(entry) for entry in listed(request["recent"])]
        for key in ("items", "prefix", "candidates"):
            if key in request:
                listed(request[key])
        tokens = "candidates" in request
        if tokens:  # the library takes what is empty as absent
            empty: dict[str, Any] = {"inputs": {}, "recent": [], "items": []}
            request = {key: value for key, value in request.items() if key not in empty or value != empty[key]}
        words = {"prefix": [], **request} if tokens else request
        return session.score((TokenRequest if tokens else Request)(**words), **options).to_dict()["scores"]
    except (ValueError, TypeError, RecursionError):
        return None


def listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no array")
    return value


def pair(entry: Any) -> Any:
    if not isinstance(entry, list):
        return entry
    if len(entry) != 2 or not isinstance(entry[1], bool):
        raise TypeError("no pair")
    return tuple(entry)


def by_json(session: runtime.Session, body: bytes) -> Answer:
    try:
        return json.loads(session.score_json(body).text)["scores"]
    except InputError:
        return None


@pytest.mark.parametrize("count", [600, pytest.param(50_000, marks=pytest.mark.slow)])
def test_readers_agree(session: runtime.Session, count: int) -> None:
    answered = 0
    for seed in range(count):
        body = mutated(random.Random(seed))
        expected, answer = by_fields(session, body), by_json(session, body)
        assert answer == expected, (seed, body)
        answered += expected is not None
    assert 0.1 < answered / count < 0.9
