"""Queries and documents as token ids."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from builders.bundles.reranker import PROMPT, ids, words_tokenizer
from rexit.data.texts import TextEncoder, input_tokens
from rexit.errors import DeadlineError
from rexit.format.bundle.manifest import Pair, RerankerPrompt


@pytest.mark.parametrize("text", ["wing </s> drag", "wing \uff1c/s\uff1e drag"])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_text_cannot_spell_a_special_token(text: str, normalized: bool) -> None:
    """Not by letters that the tokenizer's normalizer turns into one either."""
    words = ["<unk>", "A", "B", ":", "?", "wing", "drag", "<s>", "</s>", "<", "/", "s", ">"]
    vocabulary = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=normalized) for token in ("<s>", "</s>")])
    end = vocabulary["</s>"]
    prefix, (candidate,) = TextEncoder(tokenizer, PROMPT, 99).prompt(text, [text])
    assert end not in prefix and candidate.count(end) == 1 and candidate[-1] == end
    assert end not in input_tokens(tokenizer, [text], spaced=False)[0]


class CountingTokenizer:
    """Counts the characters that are tokenized."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: Sequence[str], **options: bool) -> object:
        self.characters += sum(map(len, texts))
        return self._tokenizer.encode_batch(texts, **options)


@pytest.mark.parametrize("word", ["wing", "wing" + " " * 60, "x" * 100])
def test_of_a_long_document_only_the_beginning_is_tokenized(word: str) -> None:
    tokenizer = CountingTokenizer(words_tokenizer())
    encoder = TextEncoder(tokenizer, PROMPT, 40)  # type: ignore[arg-type]
    long, short = f"{word} " * 20_000, f"{word} " * 40
    _, (candidate, expected), cuts = encoder.prompt_with_cuts("drag", [long, short])
    assert candidate == expected and cuts == [True, True] and len(candidate) == 36
    assert tokenizer.characters < 30_000


@pytest.mark.parametrize("document", ["a" * 4999, "b" * 300 + "a" * 4999, "ab" * 80 + "a" * 1501 + "b" * 999])
def test_a_cut_document_begins_as_the_whole_one(document: str) -> None:
    """Unigram's pieces of a run of one character are shortest at its start, by the length of the run."""
    pieces = [("<unk>", 0.0), ("a", -3.0), ("aa", -3.5), ("aaa", -3.9), ("a" * 5, -4.5), ("b", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, False))
    _, (candidate,), (cut,) = TextEncoder(tokenizer, PROMPT, 99).prompt_with_cuts("a", [document])
    whole = tokenizer.encode(PROMPT.document[0].replace("{document}", document)).ids
    assert cut and len(candidate) > 50 and candidate[:40] == whole[:40]


def test_a_limit_of_a_documents_tokens() -> None:
    encoder = TextEncoder(words_tokenizer(), PROMPT, 40)
    texts = ["wing drag heat", "wing drag", "wing " * 99]
    _, candidates, cuts = encoder.prompt_with_cuts("drag", texts, max_document_tokens=2)
    assert candidates == [ids(f"B : {text} ? </s>") for text in ("wing drag", "wing drag", "wing wing")]
    assert cuts == [True, False, True]


def pair_encoder(most: int) -> TextEncoder:
    """Of an encoder, which reads `<s> QUERY </s> DOCUMENT </s>`."""
    tokenizer = words_tokenizer()
    special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", special)
    return TextEncoder(tokenizer, RerankerPrompt(pair=Pair(most)), most)


POST_PROCESSORS = {
    "template": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", [("<s>", 10), ("</s>", 11)]),
    "roberta": processors.RobertaProcessing(("</s>", 11), ("<s>", 10)),
    "bert": processors.BertProcessing(("</s>", 11), ("<s>", 10)),
}


@pytest.mark.parametrize("truncation", ["longest_first", "only_second"])
@pytest.mark.parametrize("processor", POST_PROCESSORS)
def test_a_pair_is_cut_as_by_its_own_tokenizer(processor: str, truncation: str) -> None:
    """Of every two lengths."""
    tokenizer, oracle = words_tokenizer(), words_tokenizer()
    for each in (tokenizer, oracle):
        each.post_processor = POST_PROCESSORS[processor]
    around = oracle.num_special_tokens_to_add(True)
    for most in (9, 10):
        encoder = TextEncoder(tokenizer, RerankerPrompt(pair=Pair(most, 100, truncation)), most)  # type: ignore[arg-type]
        oracle.enable_truncation(most, strategy=truncation)
        for first in range(most - around if truncation == "only_second" else 25):
            seconds = [("drag heat " * 13).split()[:second] for second in range(25)]
            _, candidates, cuts = encoder.prompt_with_cuts("wing " * first, [" ".join(second) for second in seconds])
            whole = [oracle.encode("wing " * first, " ".join(second)) for second in seconds]
            assert candidates == [[t + 100 * n for t, n in zip(w.ids, w.type_ids, strict=True)] for w in whole]
            assert cuts == [first + len(second) + around > most for second in seconds]


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "prompts"])
def test_a_long_query_keeps_its_deadline(pairs: bool) -> None:
    """Its own, and that of others, which wait for the tokenizer meanwhile. A pair takes the time of its tokens: 1,000 with a
    query of 30,000 take less than a second."""
    encoder = pair_encoder(30) if pairs else TextEncoder(words_tokenizer(), PROMPT, 40)
    begin = time.monotonic()
    if pairs:
        assert len(encoder.prompt_with_cuts("wing " * 30_000, ["drag"] * 1000)[1]) == 1000
        assert time.monotonic() - begin < 5
    with pytest.raises(DeadlineError, match="the deadline passed while query and documents were tokenized"):
        encoder.prompt_with_cuts("wing", ["drag"] * 400, deadline=begin)
    with ThreadPoolExecutor(1) as threads, encoder._lock:
        waiting = threads.submit(encoder.prompt_with_cuts, "wing", ["drag"], deadline=time.monotonic() + 0.05)
        assert isinstance(waiting.exception(30), DeadlineError)


@pytest.mark.medium
@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "prompts"])
def test_threads_share_an_encoder(pairs: bool) -> None:
    """Truncation and special tokens are settings of the tokenizer, which a call changes for a while."""
    encoder = pair_encoder(30) if pairs else TextEncoder(words_tokenizer(), PROMPT, 40)
    texts = ["wing drag", "heat </s> flow " * 50, "layer " * 3000]
    expected = encoder.prompt_with_cuts("drag </s>", texts)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: encoder.prompt_with_cuts("drag </s>", texts), range(200)))
    finally:
        sys.setswitchinterval(before)
    assert all(answer == expected for answer in answers) and all(len(tokens) <= 40 for tokens in expected[1])


def test_a_cut_query_is_a_cut() -> None:
    """The longer text of a pair is cut, which may be the query."""
    _, (short, long), cuts = pair_encoder(10).prompt_with_cuts("wing " * 6, ["drag", "drag drag drag"])
    assert (len(short), len(long), cuts) == (10, 10, [False, True])
    _, (tokens,), cuts = pair_encoder(10).prompt_with_cuts("wing " * 20, ["drag"])
    assert len(tokens) == 10 and cuts == [True]
    assert pair_encoder(10).prompt_with_cuts("wing", []) == ([], [], [])
    assert TextEncoder(words_tokenizer(), PROMPT, 40).prompt("wing", [])[1] == []
