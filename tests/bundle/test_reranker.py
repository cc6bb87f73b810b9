"""What a reranker reads around a query and a document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.held_out import write_ranked
from rexit.bundle import Bundle, Manifest, RerankerPrompt
from rexit.errors import BundleError

BAAI: dict[str, Any] = {
    "prefix": ["<s>", "A: {query}"],
    "document": ["\n", "B: {document}", "\n", "{instruction}"],
    "instruction": "Does B answer A?",
}


def test_written_comes_back() -> None:
    assert RerankerPrompt.parse(BAAI, "reranker").to_json() == BAAI


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "A: {query}"}, r"reranker\.prefix is 'A: {query}', expected a list of texts"),
        ({"prefix": ["A:"]}, r"reranker\.prefix is \['A:'\], expected {query} once and no {document}"),
        ({"document": ["{document}{document}"]}, r"reranker\.document is .*, expected {document} once and no {query}"),
        ({"prefix": ["{query}", "{document}"]}, r"reranker\.prefix is .*, expected {query} once and no {document}"),
        ({"instruction": 5}, r"reranker\.instruction is 5, expected a text"),
        ({"instruction": None}, r"reranker: has {instruction}, but no `instruction`"),
    ],
)
def test_other_forms_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RerankerPrompt.parse(BAAI | change, "reranker")


def test_a_manifest_carries_it(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(write_ranked(tmp_path).bundle, tmp_path / "reranker"))
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"reranker": BAAI}))
    manifest = Bundle.open(bundle).manifest
    assert manifest.reranker == RerankerPrompt.parse(BAAI, "reranker")
    manifest.write(bundle)
    assert Manifest.read(bundle) == manifest

    path.write_text(json.dumps(value | {"reranker": BAAI | {"prefix": []}}))
    with pytest.raises(BundleError, match=r"manifest\.json: not a bundle's manifest: reranker\.prefix is \[\]"):
        Bundle.open(bundle)
