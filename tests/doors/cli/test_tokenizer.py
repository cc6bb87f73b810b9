"""`rexit tokenizer`: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner, Result

from builders.data import ratings
from rexit.doors.cli import app
from rexit.errors import InputError
from rexit.exporter.prompt import pieces


def train(data: Path, *options: str, tables: tuple[str, ...] = ("items.csv", "users.csv")) -> Result:
    files = [str(data / name) for name in tables]
    return CliRunner().invoke(app, ["tokenizer", *files, "--template", str(data / "prompt.toml"), *options])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return ratings.write(tmp_path)


def test_texts_rates_and_labels_are_few_tokens_and_an_index_takes_it(data: Path) -> None:
    done = train(data, "--out", str(data / "own"))
    assert done.exit_code == 0, done.output
    tokenizer = Tokenizer.from_file(str(data / "own" / "tokenizer.json"))
    assert f"own: {tokenizer.get_vocab_size()} tokens" in done.stdout
    assert tokenizer.get_vocab_size() <= 1536
    for text in (" yes", " no", " 35%", " 2^5", " Film", " nurse"):
        assert len(tokenizer.encode(text).ids) == 1, text
    assert tokenizer.decode(tokenizer.encode(" é, 〜").ids) == " é, 〜"
    index = [
        "index",
        "--interactions",
        "ratings.csv",
        "--items",
        "items.csv",
        "--users",
        "users.csv",
        "--template",
        "prompt.toml",
    ]
    paths = [str(data / word) if word.endswith((".csv", ".toml")) else word for word in index]
    done = CliRunner().invoke(app, [*paths, "--tokenizer", str(data / "own"), "--out", str(data / "catalog")])
    assert done.exit_code == 0, done.output


def test_a_rare_label_is_one_token_beside_many_texts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "VOCABULARY", 800)
    (data / "prompt.toml").write_text(ratings.TEMPLATE.replace('yes = " yes"', 'yes = " adored"'))
    titles = [f"{first}{middle}{last}" for first in "bcdfghjklm" for middle in "aeiou" for last in "npqrstvwxz"]
    frame = pl.DataFrame({"item_id": range(20_000), "title": [f"{titles[i % 500]} {titles[i // 40]}" for i in range(20_000)]})
    frame.write_csv(data / "items.csv")
    done = train(data, "--out", str(data / "own"))
    assert done.exit_code == 0, done.output
    assert len(Tokenizer.from_file(str(data / "own" / "tokenizer.json")).encode(" adored").ids) == 1


def test_ids_and_vectors_are_no_texts(data: Path) -> None:
    train(data, "--out", str(data / "own"))
    frame = pl.read_csv(data / "items.csv").with_columns(pl.Series("look:float_seq", ["0.5 0.25"] * ratings.ITEMS))
    frame.rename({"item_id": "film"}).write_csv(data / "items.csv")
    assert train(data, "--column", "item=film", "--out", str(data / "again")).exit_code == 0
    first, again = ((data / name / "tokenizer.json").read_bytes() for name in ("own", "again"))
    assert first == again


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        (("none.csv",), (), "none.csv: cannot be read: No such file"),
        (
            ("films.csv", "users.csv"),
            (),
            "films.csv: no column 'item_id' (--column item=NAME) or 'user_id' (--column user=NAME), it",
        ),
        (("items.csv",), ("--column", "item=nope"), "items.csv: no column 'nope' (--column item=NAME) or 'user_id'"),
        (("users.csv",), ("--column", "item=nope"), "--column item=nope: no table has this column"),
    ],
)
def test_bad_input_is_one_line(data: Path, tables: tuple[str, ...], options: tuple[str, ...], message: str) -> None:
    pl.read_csv(data / "items.csv").rename({"item_id": "film"}).write_csv(data / "films.csv")
    done = train(data, "--out", str(data / "own"), *options, tables=tables)
    assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert not (data / "own").exists()


def test_a_label_that_is_no_token_is_refused(data: Path) -> None:
    (data / "prompt.toml").write_text(ratings.TEMPLATE.replace('yes = " yes"', 'yes = " yes, indeed"'))
    done = train(data, "--out", str(data / "own"))
    assert isinstance(done.exception, InputError) and "labels.yes: ' yes, indeed' is " in str(done.exception)
