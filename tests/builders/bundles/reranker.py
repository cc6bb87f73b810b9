"""A bundle of a reranker, without a catalog: a word is a token."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import add_tokenizer, drop_catalog, edit_json
from builders.bundles.zero import add_score_exit
from rexit.format.bundle import RerankerPrompt
from rexit.format.bundle.files import to_json

WORDS = ["<unk>", "A", "B", ":", "wing", "drag", "layer", "heat", "flow", "?", "<s>", "</s>"]
PROMPT = RerankerPrompt(("<s>", "A : {query}"), ("B : {document}", "? </s>"))
LABELS = {"no": 5, "yes": 9}
"""Of `drop_catalog`."""


def words_tokenizer() -> Tokenizer:
    """A token for each of WORDS; unknown words are `<unk>`."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS[:-2])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def ids(text: str) -> list[int]:
    """The tokens of a text."""
    return [WORDS.index(word) for word in text.split()]


def write_reranker(folder: Path, zero: bool = False) -> Path:
    """Writes the bundle and returns its folder. zero: whether it has exit zero, which reads the first stage's scores."""
    drop_catalog(write_bundle(folder))
    add_tokenizer(folder, words_tokenizer().to_str())
    edit_json(folder / "manifest.json", reranker=to_json(PROMPT))
    if zero:
        add_score_exit(folder)
    return folder
