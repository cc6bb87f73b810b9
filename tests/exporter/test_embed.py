"""`rexit embed` with an encoder of kilobytes: the column that it writes is one that `rexit index` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from rexit.exporter.catalog.source_tables import read_entities, vector_rows
from rexit.exporter.embed import Encoder
from running.command import Run, assert_one_line

POSITIONS = 12
TEXT = "{title} {author}"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token for each letter, 16 numbers."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = Tokenizer(models.WordLevel({"[PAD]": 0, **{chr(n): n - 31 for n in range(32, 127)}}, unk_token=" "))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="[PAD]", model_max_length=512).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=96, max_position_embeddings=POSITIONS, **shape)).save_pretrained(folder)
    return folder


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = "item_id:token\ttitle:token_seq\tauthor:token\n1\tUp\tAnn\n2\t\tBo\n3\t \t\n4\tUp\tAnn\n5\t" + "long " * 9 + "\tAnn\n"
    (tmp_path / "books.item").write_text(text)
    return tmp_path / "books.item"


def test_each_text_has_its_vector(run: Run, encoder: Path, items: Path, tmp_path: Path) -> None:
    ended = run("embed", "books.item", "--model", encoder, "--text", TEXT, "--out", "books.parquet")
    assert ended.code == 0 and "column text, 16 numbers for 4 of 5 items" in ended.out
    assert run("embed", "books.parquet", "--model", encoder, "--text", "{title}", "--out", "b.parquet", "--column", "t").code == 0
    frame = read_entities(tmp_path / "b.parquet", "item_id")
    assert frame.columns == ["id", "title", "author", "text", "t"]
    assert frame["author"].to_list() == ["Ann", "Bo", None, "Ann", "Ann"]
    assert [row is None for row in frame["t"]] == [False, True, True, False, False], "also a text beyond the longest"
    assert frame["t"][0].to_list() == frame["t"][3].to_list() != frame["t"][4].to_list()
    lengths = np.linalg.norm(vector_rows(frame["text"], frame["id"]).astype(float), axis=1)
    assert lengths == pytest.approx([1, 1, 0, 1, 1], abs=1e-3)
    expected = Encoder(str(encoder)).encode(["Up Ann"])[0]
    np.testing.assert_allclose(frame["text"][0].to_numpy(), expected, atol=1e-6)


def test_a_vector_is_pooled_as_the_folder_says_over_the_text_s_own_tokens(encoder: Path, tmp_path: Path) -> None:
    """Whatever it is padded with; and behind the default prompt."""
    both, alone = Encoder(str(encoder)).encode(["Up", "GoldenEye"]), Encoder(str(encoder)).encode(["Up"])
    np.testing.assert_allclose(both[0], alone[0], atol=1e-6)
    assert (both[0] != both[1]).any()
    folder = tmp_path / "cls"
    shutil.copytree(encoder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(kinds, paths, strict=True)]
    (folder / "modules.json").write_text(json.dumps(modules))
    first = Encoder(str(folder)).encode(["Up"])
    assert abs(first - alone).max() > 1e-3
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"doc": "Go"}, "default_prompt_name": "doc"})
    )
    np.testing.assert_allclose(Encoder(str(folder)).encode(["Up"]), _cls(encoder, "GoUp"), atol=1e-6)


def test_positions_behind_the_padding_are_no_text_s(encoder: Path, tmp_path: Path) -> None:
    """RoBERTa's 514 positions take 512 tokens, and nothing else limits this folder's texts."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    RobertaModel(RobertaConfig(vocab_size=96, pad_token_id=0, max_position_embeddings=POSITIONS, **shape)).save_pretrained(
        tmp_path
    )
    long, cut = Encoder(str(tmp_path)).encode(["x" * 40, "x" * (POSITIONS - 1)])
    np.testing.assert_allclose(long, cut, atol=1e-6)


def _cls(encoder: Path, text: str) -> NDArray[np.float32]:
    inputs = AutoTokenizer.from_pretrained(encoder)([text], return_tensors="pt")
    with torch.inference_mode():
        row = AutoModel.from_pretrained(encoder)(**inputs).last_hidden_state[:, 0].numpy()
    return np.asarray(row / np.linalg.norm(row))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", "{name}"), "--text '{name}': books.item has no column 'name', it has: item_id, title, author"),
        (("--text", "title"), "--text 'title': expected columns in braces"),
        (("--text", "{title"), "--text '{title': expected '}'"),
        (("--column", "title"), "--column title: books.item has such a column already"),
        (("--out", "o.csv"), "o.csv: expected a name that ends in .parquet"),
        (("--model", "empty"), "--model empty: not an encoder that transformers loads: "),
        (("--model", "t5"), "--model t5: t5 is an encoder with a decoder, expected one of both"),
        (("--model", "dense"), "dense/modules.json: has the modules Transformer, Dense, expected Transformer, Pooling"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(
    run: Run, encoder: Path, items: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dense").mkdir()
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "t5")
    T5Model(T5Config(vocab_size=96, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path / "t5")
    modules = [{"type": "Transformer", "path": ""}, {"type": "Dense", "path": "2_Dense"}]
    (tmp_path / "dense" / "modules.json").write_text(json.dumps(modules))
    given = {"--model": encoder, "--text": TEXT, "--out": "o.parquet", **dict(zip(words[::2], words[1::2], strict=True))}
    ended = run("embed", "books.item", *(word for pair in given.items() for word in pair))
    assert_one_line(ended, 2, said)
    assert not (tmp_path / "o.parquet").exists()
