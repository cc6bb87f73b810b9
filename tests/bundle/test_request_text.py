"""Request texts by name, which are refused, and catalogs that describe none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rexit.bundle.golden import Golden, GoldenSlate
from rexit.bundle.request_text import RequestText, RequestTexts
from rexit.errors import BundleError, InputError

QUERY = RequestText("query", 6, spaced=True, required=True)
NOTE = RequestText("note", 3, spaced=False, required=False)
BOTH = RequestTexts((QUERY, NOTE))


def lists(texts: list[Any]) -> list[list[int]]:
    return [tokens.tolist() for tokens in texts]


def test_a_request_by_name() -> None:
    assert lists(BOTH.tokens({"note": [7], "query": [4, 5]})) == [[4, 5], [7]]
    assert lists(BOTH.tokens({"query": [4]})) == lists(BOTH.tokens({"query": [4], "note": []})) == [[4], []]
    assert {name: ids.tolist() for name, ids in BOTH.by_name(BOTH.tokens({"query": [4]})).items()} == {"query": [4]}
    assert {name: len(ids) for name, ids in BOTH.example().items()} == {"query": 3, "note": 2}
    assert BOTH.width == 9 and BOTH.named("note") == NOTE
    assert RequestTexts().tokens(None) == [] and RequestTexts().example() == {}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "request text 'query' is missing, expected at most 6 tokens"),
        ({"query": [0] * 7}, "request text 'query' has 7 tokens, expected at most 6"),
        ({"query": [1], "note": [0] * 4}, "request text 'note' has 4 tokens, expected at most 3"),
        ({"query": [1], "page": [1]}, "request text 'page': the prompt places no such text, it has: query, note"),
        ({"query": [1, 40]}, "request text 'query'[1] is 40, expected a token id from 0 to 39"),
        ({"query": [1, 1.9]}, "request text 'query'[1] is 1.9, expected a token id from 0 to 39"),
        ({"query": [1 << 40]}, "request text 'query'[0] is 1099511627776, expected a token id from 0 to 39"),
        ({"query": [1, None]}, "request text 'query'[1] is None, expected a token id from 0 to 39"),
        ({"query": [True]}, "request text 'query'[0] is True, expected a token id from 0 to 39"),
        ({"query": [-1]}, "request text 'query'[0] is -1, expected a token id from 0 to 39"),
    ],
)
def test_a_request_that_is_refused(request_: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        BOTH.tokens(request_, vocabulary=40)
    assert str(raised.value) == message


def test_another_number_of_texts() -> None:
    with pytest.raises(BundleError, match="1 request texts, the prompt places 2"):
        BOTH.by_name([np.zeros(1, np.int32)])


OP = {"op": "request", "name": "query", "limit": 6, "spaced": True}


def info(*ops: Any, requires: tuple[str, ...] = ("request-text",)) -> dict[str, Any]:
    return {"requires": list(requires), "prompt": {"prefix": [{"op": "piece", "piece": 0}, *ops], "candidate": []}}


def test_what_is_written_is_read() -> None:
    note = {"op": "request", "name": "note", "limit": 3, "spaced": False, "missing": 4}
    assert RequestTexts.of(info(OP, note, OP), "c") == BOTH
    assert RequestTexts.of(info(requires=()), "c") == RequestTexts()


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([{**OP, "limit": True}], "limit: is True, expected an integer"),
        ([{**OP, "name": 7}], "name: is 7, expected a string"),
        ([{**OP, "spaced": 1}], "spaced: is 1, expected true or false"),
        ([OP, {**OP, "missing": 3}], "places 'query' by other rules than an op before it"),
    ],
)
def test_a_catalog_that_is_refused(ops: list[Any], message: str) -> None:
    """More in tests/damage/catalogs.py."""
    with pytest.raises(BundleError, match=f"c: .*{message}"):
        RequestTexts.of(info(*ops), "c")


def golden(*requests: list[list[int]]) -> Golden:
    none, one = np.zeros(0, np.int32), np.ones(1, np.int32)
    texts = [[np.array(tokens, np.int32) for tokens in request] for request in requests]
    return Golden([GoldenSlate(0, one, 5, one, [one], np.zeros((1, 2), np.float32), none, request) for request in texts])


def test_golden_samples_keep_texts(tmp_path: Path) -> None:
    golden([[4, 5], []], [[6], [7, 8, 9]]).write(tmp_path / "golden.safetensors")
    slates = Golden.read(tmp_path / "golden.safetensors", 2).slates
    assert [lists(list(slate.request)) for slate in slates] == [[[4, 5], []], [[6], [7, 8, 9]]]
    golden([], []).write(tmp_path / "golden.safetensors")
    assert [slate.request for slate in Golden.read(tmp_path / "golden.safetensors", 2).slates] == [[], []]


def test_golden_samples_with_damaged_texts(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "golden.safetensors"
    golden([[4, 5]], [[6]]).write(path)
    table = load_file(path)
    save_file({**table, "request_offsets": np.array([0, 1, 2], np.int64)}, path)
    with pytest.raises(BundleError, match="request_offsets does not split 3 entries into 2"):
        Golden.read(path, 2)
