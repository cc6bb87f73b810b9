"""The library makes of query and documents what the tokenizer makes of them, by tables that the exporter took from it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import drop_catalog, refresh
from builders.bundles.pairs import bert, write_pairs
from rexit import Request, runtime
from rexit.data.texts import TextEncoder
from rexit.errors import BundleError, InputError
from rexit.exporter.prompt.word_pieces import word_pieces
from rexit.format.bundle.manifest import WORD_PIECES, Pair, RerankerPrompt

MOST = 40
SCRIPTS = [
    *[(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x5FF), (0x600, 0x6FF)],
    *[(0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF)],
    *[(0x1200, 0x137F), (0x1780, 0x17FF), (0x1E00, 0x1FFF), (0x2000, 0x214F), (0x3000, 0x30FF), (0x4E00, 0x9FFF)],
    *[(0xAC00, 0xD7A3), (0xE000, 0xE010), (0xF900, 0xFDFF), (0xFE00, 0xFFFF), (0x1D165, 0x1D1FF), (0x1F300, 0x1F6FF)],
    *[(0x20000, 0x2A6DF), (0, 0x1F), (0, 0x10FFFF)],
]


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Odd texts: letters of one to four scripts, spaces, words and special tokens, longer and shorter than a pair."""
    source = random.Random(seed)
    for _ in range(count):
        scripts = source.sample(SCRIPTS, source.randint(1, 4))
        parts = []
        for _ in range(source.choice([0, 3, 20, 80])):
            code = source.randint(*source.choice(scripts))
            letter = chr(code) if not 0xD800 <= code < 0xE000 else ""
            parts.append(source.choice([letter] * 12 + [" ", "\t", "the", "ab", "[SEP]", "[MASK", "é", "x" * 101]))
        yield "".join(parts)


def knowing(texts: Iterable[str], lowercase: bool = True) -> Tokenizer:
    """A tokenizer that knows each letter of texts, so that no unknown token hides a difference."""
    unknowing = bert([], lowercase=lowercase)
    normalized = map(unknowing.normalizer.normalize_str, texts)
    letters = sorted(
        {letter for text in normalized for word, _ in unknowing.pre_tokenizer.pre_tokenize_str(text) for letter in word}
    )
    return bert(
        [*letters, *(f"##{letter}" for letter in letters), "the", "ab", "##ab", "##abc", "th", "##the"], lowercase=lowercase
    )


@pytest.mark.medium
@pytest.mark.parametrize("pair", [Pair(MOST, 70_000), Pair(MOST + 1), Pair(96, truncation="only_second")])
@pytest.mark.parametrize("lowercase", [True, False])
def test_the_same_tokens(lowercase: bool, pair: Pair, tmp_path: Path) -> None:
    tokenizer = knowing(texts(600), lowercase)
    encoder = TextEncoder(tokenizer, RerankerPrompt(pair=pair), 96)
    source = texts(600)
    with runtime.open(write_pairs(tmp_path / "bundle", tokenizer, pair)) as session:
        assert session.info.takes_texts
        for query in source:
            documents = list(itertools.islice(source, 9))
            try:
                _, expected = encoder.prompt(query, documents)
            except InputError:
                with pytest.raises(InputError, match=r"^the query is too long: it has \d+ tokens, a pair at most 96"):
                    session.prompt(Request(query=query, documents=documents))
                continue
            prefix, candidates = session.prompt(Request(query=query, documents=documents))
            assert len(prefix) == 0
            for document, tokens, own in zip(documents, expected, candidates, strict=True):
                assert own.tolist() == tokens, (query, document)


@pytest.mark.medium
def test_scores_are_those_of_the_tokens(tmp_path: Path) -> None:
    request = Request(query="the", documents=["ab", "", "the the"], top_k=2)
    with runtime.open(write_pairs(tmp_path / "bundle", bert(["the", "ab"]), Pair(20))) as session:
        _, candidates = session.prompt(request)
        expected, scores = session.score(Request.tokens([], candidates), top_k=2), session.score(request)
        assert session.score_json(request.to_json()).text.count(b'"item"') == 2
    np.testing.assert_array_equal(scores.log_odds, expected.log_odds)
    np.testing.assert_array_equal(scores.items, expected.items)


REFUSED = {
    '{"query": "a"}': "documents is empty, expected at least one text",
    '{"documents": ["a"]}': "query is missing, expected a string",
    '{"query": "a", "documents": []}': "documents is empty, expected at least one text",
    '{"query": 1, "documents": ["a"]}': "query is 1, expected a string",
    '{"query": "a", "documents": ["a", null]}': r"documents\[1\] is null, expected a string",
    '{"query": "a", "documents": "a"}': "documents is 'a', expected an array of strings",
    '{"query": "a", "documents": ["a"], "candidates": [[5]]}': "candidates is set, but the request is texts: expected query",
    '{"query": "a", "documents": ["a"], "user": 1}': "user is set, but the bundle has no catalog",
}


@pytest.mark.medium
def test_refusals(tmp_path: Path) -> None:
    with runtime.open(write_pairs(tmp_path / "bundle", bert([]), Pair(20))) as session:
        for body, message in REFUSED.items():
            with pytest.raises(InputError, match=f"^{message}"):
                session.score_json(body)
    drop_catalog(tokens := write_bundle(tmp_path / "tokens"))
    message = r"^query is set, but the bundle has no word_pieces.safetensors: it takes token ids"
    with runtime.open(tokens) as session, pytest.raises(InputError, match=message):
        session.score(Request(query="a", documents=["b"]))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pages", lambda table: table.fill(10**6)),
        ("characters", lambda table: table.fill(10**6)),
        ("characters", lambda table: table.fill(-1)),
        ("pieces.ends", lambda table: table.fill(2**31 - 1)),
        ("slots", lambda table: table.fill(10**6)),
        ("numbers", lambda table: table.fill(2**30)),
        ("added.ids", lambda table: table.fill(-1)),
    ],
)
def test_damage(name: str, change: Callable[[np.ndarray], None], tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "bundle", bert([]), Pair(20))
    tables = load_file(folder / WORD_PIECES)
    change(tables[name])
    save_file(tables, folder / WORD_PIECES)
    refresh(folder)
    message = r"word_pieces.safetensors: `[a-z.]+` at \d+ is out of range"
    with pytest.raises(BundleError, match=message), runtime.open(folder) as session:
        session.prompt(Request(query="the", documents=["ab"]))


def changed(tokenizer: Tokenizer, what: str) -> Tokenizer:
    if what == "normalizer":
        tokenizer.normalizer = normalizers.NFKC()
    elif what == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        tokenizer.add_tokens(["added"])  # found in normalized text
    return tokenizer


@pytest.mark.parametrize("what", ["normalizer", "words", "token"])
def test_other_tokenizers_have_no_tables(what: str) -> None:
    assert word_pieces(changed(bert([]), what), Pair(20)) is None
