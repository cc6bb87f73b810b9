"""What a reranker reads around a query and a document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation, Sequence, Whitespace

from builders.bundles.held_out import write_ranked
from rexit.bundle import Bundle, Manifest, RerankerPrompt
from rexit.bundle.reranker import encoder
from rexit.errors import BundleError

BAAI: dict[str, Any] = {
    "prefix": ["<s>", "A: {query}"],
    "document": ["\n", "B: {document}", "\n", "{instruction}"],
    "instruction": "Does B answer A?",
}


def test_written_comes_back() -> None:
    assert RerankerPrompt.parse(BAAI, "reranker").to_json() == BAAI


def _spelled(text: str, reads_special: bool) -> list[int]:
    """`<s>` is a special token, 0; every other character is its code."""
    parts = text.split("<s>") if reads_special else [text]
    return [code for n, part in enumerate(parts) for code in ([0] if n else []) + [ord(character) for character in part]]


def test_texts_are_filled_once() -> None:
    """A query or document that spells out a placeholder or a special token stays as it is."""
    prompt = RerankerPrompt.parse(BAAI, "reranker")
    assert prompt.prefix_tokens(_spelled, "<s>{document}") == [0, *map(ord, "A: <s>{document}")]
    assert prompt.document_tokens(_spelled, "{instruction}") == [*map(ord, "\nB: {instruction}\nDoes B answer A?")]
    assert prompt.document_tokens(_spelled, "d", "So?") == [*map(ord, "\nB: d\nSo?")]


def test_a_tokenizer_reads_special_tokens_in_the_prompt_alone() -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "<s>": 1, "<": 2, "s": 3, ">": 4, "q": 5}, "[UNK]"))
    tokenizer.pre_tokenizer = Sequence([Whitespace(), Punctuation()])
    tokenizer.add_special_tokens(["<s>"])
    encode = encoder(tokenizer.to_str())
    assert RerankerPrompt(("<s>", "{query}"), ("{document}",)).prefix_tokens(encode, "q<s>") == [1, 5, 2, 3, 4]


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
