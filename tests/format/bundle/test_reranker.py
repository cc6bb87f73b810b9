"""What a reranker reads around a query and a document."""

from __future__ import annotations

from typing import Any

import pytest

from rexit.errors import BundleError
from rexit.format.bundle import RerankerPrompt
from rexit.format.bundle.files import to_json, typed

BAAI: dict[str, Any] = {
    "prefix": ["<s>", "A: {query}"],
    "document": ["\n", "B: {document}", "\n", "{instruction}"],
    "instruction": "Does B answer A?",
}


def test_written_comes_back() -> None:
    assert to_json(typed(BAAI, RerankerPrompt, "here")) == BAAI


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "A: {query}"}, "here: prefix: is 'A: {query}', expected an array"),
        ({"prefix": ["A:"]}, r"prefix: is \['A:'\], expected {query} once and no {document}"),
        ({"document": ["{document}{document}"]}, r"document: is .*, expected {document} once and no {query}"),
        ({"prefix": ["{query}", "{document}"]}, r"prefix: is .*, expected {query} once and no {document}"),
        ({"instruction": 5}, "instruction: is 5, expected a string or null"),
        ({"instruction": None}, r"has {instruction}, but no `instruction`"),
    ],
)
def test_other_forms_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        typed(BAAI | change, RerankerPrompt, "here")
