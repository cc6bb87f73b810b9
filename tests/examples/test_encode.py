"""examples/encode.py with an encoder of kilobytes: the column it adds is one that `rexit index` reads."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rexit.exporter.catalog.source_tables import read_entities, vector_rows
from running.scripts import scripts_of

scripts = scripts_of("examples")
Run = Callable[..., str]
POSITIONS = 12


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
def items(tmp_path: Path) -> Path:
    text = "item_id:token\ttitle:token_seq\tauthor:token\n1\tUp\tAnn\n2\t\tBo\n3\t \t\n4\tUp\tAnn\n5\t" + "long " * 9 + "\tAnn\n"
    (tmp_path / "books.item").write_text(text)
    return tmp_path / "books.item"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the script; what it printed. Raises SystemExit with its one line."""
    import encode

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["encode.py", *map(str, words)])
        encode.main()
        return capsys.readouterr().out

    return run


def test_each_text_has_its_vector(run: Run, encoder: Path, items: Path, tmp_path: Path) -> None:
    out = tmp_path / "books.parquet"
    printed = run(items, out, "--encoder", encoder, "--vector", "t=title", "--vector", "both=title,author")
    assert printed == "t: 16 numbers for 3 of 5 items\nboth: 16 numbers for 4 of 5 items\n"
    frame = read_entities(out, "item_id")
    assert frame.columns == ["id", "title", "author", "t", "both"] and frame["author"].to_list() == [
        "Ann",
        "Bo",
        None,
        "Ann",
        "Ann",
    ]
    assert [one is None for one in frame["t"]] == [False, True, True, False, False], "also a text beyond the encoder's positions"
    assert frame["t"][0].to_list() == frame["t"][3].to_list() != frame["t"][4].to_list()
    assert frame["both"][1] is not None and frame["both"][2] is None
    table = vector_rows(frame["both"], frame["id"])
    assert table.shape == (5, 16) and np.linalg.norm(table.astype(float), axis=1) == pytest.approx([1, 1, 0, 1, 1], abs=1e-3)


def test_a_vector_is_the_mean_over_the_texts_own_tokens(encoder: Path) -> None:
    """Whatever it is padded with."""
    import encode

    embed = encode.MeanOfLastHidden(encoder)
    both, alone = embed(["Up", "GoldenEye"]), embed(["Up"])
    np.testing.assert_allclose(both[0], alone[0], atol=1e-6)
    assert (both[0] != both[1]).any()
    assert encode.vectors_of(pl.Series(["Up", None]), embed).to_list()[1] is None


@pytest.mark.parametrize(
    ("vector", "out", "said"),
    [
        ("t=name", "o.parquet", "books.item: no column 'name', the file has: item_id, title, author"),
        ("title=title", "o.parquet", "--vector title=title: expected NAME=COLUMN[,COLUMN…] with a name that no column has yet"),
        ("t", "o.parquet", "--vector t: expected NAME=COLUMN[,COLUMN…]"),
        ("t=title", "o.tsv", "o.tsv: expected a name that ends in .parquet"),
    ],
)
def test_what_cannot_be_encoded_is_one_line(
    run: Run, encoder: Path, items: Path, tmp_path: Path, vector: str, out: str, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run(items, tmp_path / out, "--encoder", encoder, "--vector", vector)
    line = str(end.value)
    assert line.startswith("encode: ") and said in line and "\n" not in line and not (tmp_path / out).exists()


def test_no_encoder_is_one_line(run: Run, items: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"^encode: .*empty: not an encoder that transformers loads: .*$"):
        run(items, tmp_path / "o.parquet", "--encoder", tmp_path / "empty", "--vector", "t=title")
