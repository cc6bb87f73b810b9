"""What a reranker reads around a query and a document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.held_out import write_ranked
from rexit.bundle import Bundle, Manifest, RerankerPrompt
from rexit.bundle.typed import to_json, typed
from rexit.errors import BundleError

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


def test_a_manifest_carries_it(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(write_ranked(tmp_path).bundle, tmp_path / "reranker"))
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"reranker": BAAI}))
    manifest = Bundle.open(bundle).manifest
    assert manifest.reranker == typed(BAAI, RerankerPrompt, "here")
    manifest.write(bundle)
    assert Manifest.read(bundle) == manifest

    path.write_text(json.dumps(value | {"reranker": BAAI | {"prefix": []}}))
    with pytest.raises(BundleError, match=r"manifest\.json: reranker prefix: is \[\], expected an array of length >= 1"):
        Bundle.open(bundle)
