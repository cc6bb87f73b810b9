"""`rexit tokenizer`: a small byte-level BPE from the users' and items' texts, for a model that is trained from scratch.

A vocabulary as small as the data needs keeps the embedding table from outweighing a model of a few layers. Like rates, counts and
the template's words become whole tokens, as labels must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rexit.errors import InputError
from rexit.exporter.catalog.source_tables import holds_vectors, read_table
from rexit.exporter.options import Columns
from rexit.exporter.prompt.pieces import single_token
from rexit.exporter.prompt.template import read_template

VOCABULARY = 1536
"""Number of tokens: 256 bytes, rates, counts and the words of a template take 512."""
# A word, a number with its sign, or another mark, each with the space before it: " Story", " 35%", " 2^5", ";".
_PIECES = r" ?[\p{L}']+| ?[0-9^%]+| ?[^ ]"
# Rates and the template's words are repeated, so that BPE merges each into one token: 50 times, or once for every 200 of the
# data's texts. BookCrossing's 58,000 texts need between 50 and 100 times. Our choice.
_REPEATS = 50
_TEXTS_PER_REPEAT = 200


def train_tokenizer(tables: Sequence[Path], template: Path, out: Path, columns: Columns | None = None) -> Tokenizer:
    """Trains a tokenizer on every text column of the tables and writes OUT/tokenizer.json.

    Args:
        tables: the items' file, the users' file, or both: CSV, TSV or Parquet.
        template: the prompt template, TOML.
        out: the folder to write. A file there of the same name is replaced.
        columns: names of the id columns, which are left out.

    Returns:
        The tokenizer.

    Raises:
        InputError: a table or template cannot be read, a label is not one token, a table has no
            column of ids, or no table has a column that `columns` names.
    """
    labels = read_template(template).labels
    names, defaults, texts = columns or Columns(), Columns(), []
    missing = {"user": names.user, "item": names.item}
    for path in tables:
        frame = read_table(path)
        if not {names.user, names.item} & set(frame.columns):
            raise InputError(
                f"{path}: no column {names.item!r} (--column item=NAME) or {names.user!r} (--column user=NAME), it has: "
                f"{', '.join(frame.columns)}"
            )
        missing = {role: name for role, name in missing.items() if name not in frame.columns}
        for column in frame.drop(names.user, names.item, strict=False).iter_columns():
            if not holds_vectors(column):
                texts += [f" {text}" for text in column.cast(pl.String).drop_nulls()]
    for role, name in missing.items():
        if name != getattr(defaults, role):
            raise InputError(f"--column {role}={name}: no table has this column")
    tokenizer = train_bpe(texts, template.read_text("utf-8"))
    for name, text in labels.items():
        single_token(tokenizer, text, f"{template}: labels.{name}")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    return tokenizer


def train_bpe(texts: Sequence[str], template: str) -> Tokenizer:
    """Trains a byte-level BPE.

    Args:
        texts: the data's texts, each with a leading space.
        template: the text of the template's file.
    """
    rates = [f" {percent}%" for percent in range(101)] + [f" 2^{power}" for power in range(16)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    repeats = max(_REPEATS, len(texts) // _TEXTS_PER_REPEAT)
    tokenizer.train_from_iterator([*texts, *repeats * [*rates, template]], trainer)
    return tokenizer
