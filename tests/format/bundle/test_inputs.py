"""Inputs: the codes of values, which values are refused, and catalogs that describe no inputs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rexit.errors import BundleError, InputError
from rexit.format.bundle.inputs import Input, Inputs

DEVICE = Input(name="device", values=("tv", "phone", "7"))
HOUR = Input(name="hour", bins=(0, 6, 18.5, 24), optional=True)
QUERY = Input(name="query", max_tokens=6, spaced=True)
NOTE = Input(name="note", max_tokens=3, optional=True)
INPUTS = Inputs((DEVICE, HOUR, QUERY, NOTE), vocabulary=40)


def optional(entry: Input) -> Input:
    return Input(name=entry.name, values=entry.values, bins=entry.bins, max_tokens=entry.max_tokens, optional=True)


@pytest.mark.parametrize(
    ("entry", "value", "code"),
    [
        (DEVICE, "tv", 0),
        (DEVICE, 7, 2),
        (DEVICE, 7.0, 2),
        (DEVICE, np.int64(7), 2),
        (DEVICE, np.float32(7), 2),
        (DEVICE, 7.5, None),
        (DEVICE, "TV", None),
        (DEVICE, "07", None),
        (DEVICE, "", None),
        (Input(name="id", values=(str(2**53), "0")), 2**53, None),
        (Input(name="id", values=(str(2**53), "0")), -0.0, 1),
        (HOUR, 0, 0),
        (HOUR, 5.99, 0),
        (HOUR, 6, 1),
        (HOUR, "18.5", 2),
        (HOUR, "+.1e1", 0),
        (HOUR, 24, None),
        (HOUR, -1, None),
        (HOUR, float("nan"), None),
        (HOUR, float("inf"), None),
        (HOUR, 10**400, None),
        pytest.param(DEVICE, 10**5000, None, id="an integer of more digits than Python prints"),
    ],
)
def test_codes_of_values_and_bins(entry: Input, value: Any, code: int | None) -> None:
    assert optional(entry).encode(value).tolist() == ([] if code is None else [code])


PRICE = Input(name="price", digits=3, optional=True)
SPACED_PRICE = Input(name="price", digits=3, spaced=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.0004, "0"),
        (0.0006, "0.001"),
        (0.9996, "1"),
        ("1.990", "1.99"),
        ("+199e-2", "1.99"),
        (np.float32(2.5), "2.5"),
        (12.25, "12.2"),  # ties to even
        (12.35, "12.3"),  # the nearest double is below
        (99.96, "100"),
        (999.6, "1000"),
        *((value, "") for value in (1000, -1e-9, 10**400, float("nan"), "", None)),
    ],
)
def test_codes_of_digits(value: Any, text: str) -> None:
    codes = ["0123456789.".index(letter) for letter in text]
    assert PRICE.encode(value).tolist() == codes
    if codes:
        assert SPACED_PRICE.encode(value).tolist() == [codes[0] + 11, *codes[1:]]
        assert "".join((SPACED_PRICE.encoder.texts or ())[code] for code in SPACED_PRICE.encode(value)) == f" {text}"
        decoded = PRICE.decode(np.array(codes, np.int32))
        assert PRICE.encode(decoded).tolist() == codes
    assert PRICE.words == () and PRICE.encoder.example == 333 and PRICE.encoder.max_codes == len("0.333")


def test_codes_of_a_text() -> None:
    def tokenize(text: str, spaced: bool) -> list[int]:
        return [int(spaced), *map(ord, text)] if text else []

    assert QUERY.encode("ab", tokenize).tolist() == [1, 97, 98]
    assert NOTE.encode("", tokenize).tolist() == NOTE.encode([]).tolist() == NOTE.encode(None).tolist() == []
    assert NOTE.encode(np.array([4, 5])).tolist() == NOTE.encode([4, 5]).tolist() == [4, 5]
    assert NOTE.encode([]).dtype == np.int32
    with pytest.raises(InputError, match=r"inputs\.query is '\\ud800': UTF-8 cannot hold it"):
        QUERY.encode("\ud800", tokenize)


def lists(codes: Any) -> list[list[int]]:
    return [part.tolist() for part in codes]


def test_a_request() -> None:
    assert lists(INPUTS.encode({"query": [4], "hour": 20, "device": "phone"})) == [[1], [2], [4], []]
    assert lists(INPUTS.encode({"query": [4], "device": "tv", "hour": 99, "note": []})) == [[0], [], [4], []]
    assert lists(Inputs().encode(None)) == [] and Inputs().example() == {}
    assert INPUTS.width == 11 and INPUTS.names == ["device", "hour", "query", "note"]
    assert [entry.kind for entry in INPUTS.entries] == ["values", "bins", "max_tokens", "max_tokens"]


def test_codes_give_values_with_the_same_codes() -> None:
    requests: list[dict[str, Any]] = [
        INPUTS.example(),
        {"device": "7", "query": [5, 0]},
        {"device": "tv", "hour": 7, "query": [1], "note": [2]},
    ]
    for request in requests:
        codes = INPUTS.encode(request)
        assert lists(INPUTS.encode(INPUTS.decode(codes))) == lists(codes)
    assert INPUTS.decode(INPUTS.encode({"device": 7, "query": [1]})).keys() == {"device", "query"}
    assert {name: np.size(value) for name, value in INPUTS.example().items()} == {"device": 1, "hour": 1, "query": 3, "note": 2}


def test_a_text_needs_a_tokenizer() -> None:
    """More of what is refused: tests/refusals/."""
    message = "inputs.query is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --"
    with pytest.raises(InputError, match=re.escape(message)):
        INPUTS.encode({"device": "tv", "query": "red"})


def test_a_prompt_without_inputs_names_none() -> None:
    with pytest.raises(InputError, match=r"inputs\.page: the prompt has no such input, it has none"):
        Inputs().encode({"page": 1})


@pytest.mark.parametrize(
    ("entry", "codes"),
    [
        *((DEVICE, codes) for codes in ([3], [], [0, 1])),
        *((HOUR, codes) for codes in ([3], [-1])),
        *((PRICE, codes) for codes in ([11], [-1], [10], [0, 1], [1, 10], [1, 10, 5, 0], [1, 10, 5, 10], [1, 0, 0, 1])),
        *((SPACED_PRICE, codes) for codes in ([], [1], [12, 12], [21])),
        *((QUERY, codes) for codes in ([0] * 7, [])),
    ],
)
def test_codes_of_no_value(entry: Input, codes: list[int]) -> None:
    with pytest.raises(BundleError, match=rf"inputs\.{entry.name} has the codes \["):
        entry.decode(np.array(codes, np.int32))


def test_another_number_of_inputs() -> None:
    with pytest.raises(BundleError, match="1 inputs, the prompt has 4"):
        INPUTS.decode([np.zeros(1, np.int32)])


OPS: list[dict[str, Any]] = [
    {"op": "input", "name": "device", "pieces": [0, 1, 2]},
    {"op": "input", "name": "hour", "pieces": [3, 4, 5], "missing": 6},
    {"op": "input", "name": "query"},
]
LISTED = [entry.to_json() for entry in (DEVICE, HOUR, QUERY)]


def info(listed: Any, ops: list[dict[str, Any]]) -> dict[str, Any]:
    prompt = {"prefix": [{"op": "piece", "piece": 0}, *ops], "candidate": ops[:1], "inputs": listed}
    return {"prompt": prompt, "tokenizer": {"vocab_size": 40}}


def test_what_is_written_is_read() -> None:
    assert Inputs.of(info(LISTED, OPS), "c") == Inputs((DEVICE, HOUR, QUERY), vocabulary=40)
    assert Inputs.of({"prompt": {"prefix": [], "candidate": []}}, "c") == Inputs()
    assert LISTED[2] == {"name": "query", "max_tokens": 6, "spaced": True}


def changed(at: int, **changes: Any) -> list[dict[str, Any]]:
    entries = [dict(entry) for entry in LISTED]
    entries[at] |= changes
    return entries


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (LISTED[:2], r"prompt inputs: lists \['device', 'hour'\], its ops place \['device', 'hour', 'query'\]"),
        (LISTED[::-1], r"prompt inputs: lists \['query', 'hour', 'device'\], its ops place"),
        ([*LISTED, LISTED[0]], "prompt inputs: lists"),
        (changed(0, optional=True), r"prompt prefix\[1\]: `missing` is None, the input `device` is optional"),
    ],
)
def test_a_catalog_that_is_refused(listed: Any, message: str) -> None:
    """More in tests/damage/catalogs.py."""
    with pytest.raises(BundleError, match=f"c: .*{message}"):
        Inputs.of(info(listed, OPS), "c")


def test_a_text_has_no_pieces() -> None:
    with pytest.raises(BundleError, match=r"prompt prefix\[3\]: pieces: has 1, expected none"):
        Inputs.of(info(LISTED, [*OPS[:2], {**OPS[2], "pieces": [1]}]), "c")
