"""Pairs are tokenized as transformers does for a CrossEncoder, and classifiers that cannot be read are refused in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from builders.models.encoders import write_encoder, write_tokenizer
from rexit.data.texts import TextEncoder
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.checkpoints.rerankers import first_position, pair_tokenizer
from rexit.exporter.prompt.word_pieces import word_pieces
from rexit.format.bundle.manifest import Pair, RerankerPrompt

PAIRS, MOST = 1000, 40
ODD = (
    "| |\n\t|[SEP]|[CLS] [MASK]|<s>|</s></s>|<pad>|[PAD]|<mask>|a|don't|naïve café|\uff21\uff42\uff43|İstanbul|\u017ftra\u00dfe|"
    "ﬁne|e\u0301|\u200b|\ufeff|\x00|\x07bell|日本語のテキスト|한국어|العربية|हिन्दी|👩\u200d🔬|🇩🇪|9.81 N/kg|C++17's|--flag=1|"
    f"http://a.b/c?d=e&f|A\u00a0B|tab\tbed|  two  spaces  |UPPER lower|\uff11\uff12|{'x' * 300}"
).split("|")


def text(source: random.Random) -> str:
    """An odd text: words, letters of anywhere, special tokens, long and short."""
    parts = [
        source.choice(ODD)
        if source.random() < 0.5
        else "".join(
            chr(source.choice([source.randrange(32, 127), source.randrange(0xA0, 0xD7FF)])) for _ in range(source.randrange(6))
        )
        for _ in range(source.choice([0, 1, 2, 5, 30]))
    ]
    return source.choice(["", " "]).join(parts)


def odd_pairs() -> list[tuple[str, str]]:
    source = random.Random(0)
    return [(text(source), text(source)) for _ in range(PAIRS)]


def trained(tokenizer: Tokenizer, trainer: object) -> Tokenizer:
    texts = [part for pair in odd_pairs()[:300] for part in pair]
    tokenizer.train_from_iterator(["".join(c for c in text if ord(c) < 0x250) for text in texts], trainer)
    return tokenizer


def bert(folder: Path) -> None:
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = trained(tokenizer, WordPieceTrainer(vocab_size=600, special_tokens=special)).get_vocab()
    BertTokenizer(vocab=vocabulary, model_max_length=MOST).save_pretrained(folder)


def unigrams(folder: Path) -> None:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained(tokenizer, UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>"))
    tokenizer.post_processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MOST,
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)),
    ).save_pretrained(folder)


def byte_pairs(folder: Path) -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(tokenizer, BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MOST,
        model_input_names=["input_ids", "attention_mask"],
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)),
    ).save_pretrained(folder)


def encoder_of(tokenizer: Tokenizer, pair: Pair, most: int, by_tables: bool) -> TextEncoder:
    tables = word_pieces(tokenizer, pair) if by_tables else None
    assert (tables is not None) == by_tables
    return TextEncoder(tokenizer, RerankerPrompt(pair=pair), most, word_pieces=save(tables) if tables else None)


def check(folder: Path, pair: Pair, by_tables: bool) -> None:
    """Ids and types of all pairs are those that transformers gives a CrossEncoder, also by the tokenizer saved for a bundle."""
    pairs = odd_pairs()
    reference = AutoTokenizer.from_pretrained(folder)
    expected = reference(pairs, truncation=True, max_length=pair.tokens, return_token_type_ids=True)
    saved = Tokenizer.from_str(pair_tokenizer(folder).backend_tokenizer.to_str())
    encoder = encoder_of(saved, pair, 2 * pair.tokens, by_tables)  # a model that takes more than a pair has
    cuts = 0
    for (query, document), ids, types in zip(pairs, expected["input_ids"], expected["token_type_ids"], strict=True):
        prefix, (candidate,), (cut,) = encoder.prompt_with_cuts(query, [document])
        of_type = [pair.vocabulary * number for number in types]
        assert (prefix, list(candidate)) == ([], [token + of for token, of in zip(ids, of_type, strict=True)]), (query, document)
        cuts += cut
    assert PAIRS / 20 < cuts < PAIRS


@pytest.mark.medium
@pytest.mark.parametrize(("write", "by_tables"), [(bert, True), (bert, False), (unigrams, False), (byte_pairs, False)])
@pytest.mark.parametrize("vocabulary", [0, 600])
def test_ids_are_those_of_transformers(write: Callable[[Path], None], by_tables: bool, vocabulary: int, tmp_path: Path) -> None:
    write(tmp_path)
    check(tmp_path, Pair(MOST, vocabulary), by_tables)


@pytest.mark.medium
@pytest.mark.parametrize("by_tables", [True, False])
def test_the_document_alone_is_cut(by_tables: bool, tmp_path: Path) -> None:
    bert(tmp_path)
    tokenizer = pair_tokenizer(tmp_path)
    pair = Pair(12, truncation="only_second")
    encoder = encoder_of(tokenizer.backend_tokenizer, pair, 12, by_tables)
    _, (tokens,), cuts = encoder.prompt_with_cuts("a a a", ["9 " * 20])
    assert cuts == [True]
    assert (
        list(tokens)
        == AutoTokenizer.from_pretrained(tmp_path)([("a a a", "9 " * 20)], truncation="only_second", max_length=12)["input_ids"][
            0
        ]
    )
    with pytest.raises(InputError, match=r"the query is too long: it has 9 tokens, a pair at most 12, of which 3 are special"):
        encoder.prompt("a " * 9, ["9"])


@pytest.mark.medium
@pytest.mark.parametrize("by_tables", [True, False])
def test_a_document_of_so_many_tokens(by_tables: bool, tmp_path: Path) -> None:
    bert(tmp_path)
    encoder = encoder_of(pair_tokenizer(tmp_path).backend_tokenizer, Pair(30), 30, by_tables)
    _, candidates, cuts = encoder.prompt_with_cuts("a", ["9 9 9", "9"], max_document_tokens=2)
    assert list(map(len, candidates)) == [3 + 1 + 2, 3 + 1 + 1] and cuts == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 3}, "has 3 labels, expected one, or two of which one is positive$"),
        ({"labels": 2, "id2label": {0: "cat", 1: "dog"}}, "labels are cat and dog, expected one of label_1, 1"),
        ({"problem_type": "regression"}, "is a regression head, whose outputs are no log-odds"),
    ],
)
def test_a_classifier_of_no_pairs_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_an_encoder_has_no_head_to_share(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    with pytest.raises(
        InputError, match=r"is an encoder, which has no LM head to share: `rexit heads` fits heads, `rexit train` trains them"
    ):
        load_checkpoint(folder, [2], "shared")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    write_tokenizer(folder, template=False)
    with pytest.raises(
        CheckpointError, match=r"its tokenizer has no template for pairs, so query and document could not be told apart$"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize(("family", "tokens"), [("roberta", 30), ("xlm-roberta", 30), ("bert", 32), ("distilbert", 32)])
def test_positions_after_the_paddings(family: str, tokens: int) -> None:
    """RoBERTa's 514 positions take 512 tokens."""
    config = AutoConfig.for_model(family, vocab_size=40, max_position_embeddings=32, pad_token_id=1 if "roberta" in family else 0)
    assert config.max_position_embeddings - first_position(config) == tokens
