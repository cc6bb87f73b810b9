import itertools
from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer

from builders.data import ratings
from rexit.errors import InputError
from rexit.exporter.prompt.pieces import Pieces, fingerprint, load_tokenizer, single_token


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ratings.tokenizer(tmp_path_factory.mktemp("tok"))


@pytest.fixture
def tokenizer(source: Path) -> Tokenizer:
    return load_tokenizer(str(source))


def test_pieces_are_stored_once_and_decode_to_their_texts(tokenizer: Tokenizer) -> None:
    pieces = Pieces()
    rows = [
        pieces.literal(" yes"),
        pieces.literal(""),
        *pieces.column(pl.Series(["Film 1", "é", "Film 1"]), 0),
        pieces.literal(" yes"),
    ]
    assert rows == [0, 1, 2, 3, 2, 0]
    offsets, tokens = pieces.encode(tokenizer)
    assert offsets.dtype == "int64" and tokens.dtype == "int32" and offsets[1] == offsets[2]
    assert [tokenizer.decode(tokens[a:b]) for a, b in itertools.pairwise(offsets)] == [" yes", "", "Film 1", "é"]


def test_texts_are_tokenized_in_batches(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, steps = Pieces(), []
    pieces.literal("<s>")
    pieces.column(pl.Series([f"Film {n} <s>" for n in range(10)]), 0, 5)
    pieces.literal(" yes")
    whole = pieces.encode(tokenizer)
    monkeypatch.setattr("rexit.exporter.prompt.pieces.BATCH", 4)
    parts = pieces.encode(tokenizer, lambda _, done, total: steps.append((done, total)))
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))
    assert steps == [(0, 12), (4, 12), (8, 12), (12, 12)]


def test_only_the_template_may_name_special_tokens(tokenizer: Tokenizer) -> None:
    pieces = Pieces()
    pieces.literal("<s>")
    pieces.column(pl.Series(["<s>"]), 0)
    offsets, tokens = pieces.encode(tokenizer)
    assert offsets[1] == 1 and tokens[0] == tokenizer.token_to_id("<s>")
    assert tokenizer.token_to_id("<s>") not in tokens[1:]


def test_a_column_may_be_cut_what_is_missing_in_it_is_not(tokenizer: Tokenizer) -> None:
    pieces, text = Pieces(), "a long, long title"
    missing = pieces.literal("nobody knows")
    whole, cut = (pieces.column(pl.Series([text, None, "a"]), missing, limit) for limit in (None, 5))
    offsets, tokens = pieces.encode(tokenizer)
    ids = [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert [ids[row] for row in cut] == [tokenizer.encode(text).ids[:5], tokenizer.encode("nobody knows").ids, ids[whole[2]]]
    assert ids[whole[0]] == tokenizer.encode(text).ids and len(ids[whole[0]]) > 5 and len(ids[missing]) > 5


def test_a_file_and_its_folder_are_the_same_tokenizer(source: Path) -> None:
    assert fingerprint(load_tokenizer(str(source))) == fingerprint(load_tokenizer(str(source.parent)))


def test_padding_and_truncation_of_the_file_are_switched_off(source: Path, tmp_path: Path) -> None:
    loaded = Tokenizer.from_file(str(source))
    loaded.enable_padding(length=50)
    loaded.enable_truncation(2)
    loaded.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(str(tmp_path)).encode(" yes no yes no").ids) == 4


def test_a_label_is_one_token(tokenizer: Tokenizer) -> None:
    assert single_token(tokenizer, " yes", "labels.yes") == tokenizer.encode(" yes").ids[0]
    with pytest.raises(InputError, match=r"labels.yes: ' maybe' is \d+ tokens of this tokenizer .*, expected exactly one"):
        single_token(tokenizer, " maybe", "labels.yes")


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(InputError, match=r"neither a tokenizer.json nor a folder with one"):
            load_tokenizer(str(place))
