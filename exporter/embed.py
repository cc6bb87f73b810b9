"""`rexit embed`: a column of vectors, which a sentence encoder makes of the texts of a table of items.

1. A text is what `--text` makes of a row's cells: `{title} {description}`. Runs of spaces become one. A row whose placed cells
   are all empty has no text, and no vector.
2. Equal texts are encoded once, short ones first, so that little is padded. A text beyond the encoder's longest is cut.
3. Pooling, the longest text and what is put before each are those of the model's folder, as sentence-transformers writes it; a
   folder without them is pooled by the mean.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from rexit.errors import CheckpointError, InputError
from rexit.exporter.catalog.catalog_files import write_frame
from rexit.exporter.catalog.source_tables import holds_vectors, read_table
from rexit.exporter.catalog.source_tables import texts_of as cells_of
from rexit.exporter.checkpoints.rerankers import first_position
from rexit.exporter.checkpoints.sentence_modules import longest_text, system_prompt, text_pooling
from rexit.exporter.libraries import first_line, hub_folder, quiet
from rexit.progress import Progress, silent, tracked

BATCH = 16
"""Texts encoded at once."""
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True)
class Embedded:
    """What was written: rows, those that have a vector, and the numbers of a vector."""

    rows: int
    with_vector: int
    width: int


def embed_table(table: Path, model: str, text: str, out: Path, column: str = "text", progress: Progress = silent) -> Embedded:
    """Writes a table with one more column, of vectors.

    Args:
        table: CSV, TSV or Parquet, as `rexit index` reads it.
        model: A folder, or a name on the Hub; without an owner, of sentence-transformers.
        text: Names columns in braces.
        out: The Parquet file.
        column: The new column's name.
        progress: Called with "batches of texts", those encoded and in all.

    Raises:
        InputError: A file, a column, the text or the model. Nothing is written then.
    """
    if out.suffix != ".parquet":
        raise InputError(f"{out}: expected a name that ends in .parquet: vectors are lists of floats")
    frame = read_table(table)
    if column in frame.columns:
        raise InputError(f"--column {column}: {table} has such a column already, expected a new name")
    texts = row_texts(frame, text, table)
    distinct = sorted(texts.drop_nulls().unique().to_list(), key=lambda value: (len(value), value))
    if not distinct:
        raise InputError(f"{table}: no row has a text for {text!r}, nothing to encode")
    vectors = Encoder(model).encode(distinct, progress)
    rows = pl.DataFrame({"text": distinct, "vector": vectors})
    placed = pl.DataFrame({"text": texts}).join(rows, on="text", how="left", maintain_order="left")["vector"]
    write_frame(out, frame.with_columns(placed.alias(column)))
    return Embedded(len(frame), len(frame) - placed.null_count(), vectors.shape[1])


def row_texts(frame: pl.DataFrame, text: str, table: Path) -> pl.Series:
    """Returns the text of each row, null where all placed cells are empty. Raises InputError."""
    try:
        parts = [(literal, name, spec or conversion) for literal, name, spec, conversion in string.Formatter().parse(text)]
    except ValueError as exc:
        raise InputError(f"--text {text!r}: {exc} (write {{{{ and }}}} for braces)") from exc
    names = [name for _, name, _ in parts if name is not None]
    if not names or any(further for *_, further in parts):
        raise InputError(f"--text {text!r}: expected columns in braces, as in '{{title}} {{description}}'")
    for name in names:
        if name not in frame.columns:
            raise InputError(f"--text {text!r}: {table} has no column {name!r}, it has: {', '.join(frame.columns)}")
        if holds_vectors(frame[name]):
            raise InputError(f"--text {text!r}: column {name!r} of {table} holds vectors, expected texts")
    cells = {name: cells_of(frame[name], table) for name in dict.fromkeys(names)}
    pieces = [piece for literal, name, _ in parts for piece in (pl.lit(literal), *([pl.col(name)] if name is not None else []))]
    written = pl.concat_str([piece.fill_null("") for piece in pieces]).str.replace_all(r"\s+", " ").str.strip_chars()
    anything = pl.any_horizontal(pl.col(name).is_not_null() for name in cells)
    return pl.DataFrame(cells).select(pl.when(anything).then(written)).to_series()


class Encoder:
    """A sentence encoder. name: a folder, or a name on the Hub; without an owner, of sentence-transformers. Raises InputError."""

    def __init__(self, name: str) -> None:
        self._where, folder = f"--model {name}", Path(name)
        if not folder.is_dir():
            full = name if "/" in name else f"sentence-transformers/{name}"
            folder = hub_folder(full, _FILES, InputError, self._where, "folder")
        try:
            self._pooling, self._prefix = text_pooling(folder), system_prompt(folder) or ""
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
                self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        except CheckpointError as exc:
            raise InputError(f"{self._where}: {exc}") from exc
        except (OSError, ValueError) as exc:
            raise InputError(f"{self._where}: not an encoder that transformers loads: {first_line(exc)}") from exc
        config = self._model.config
        if config.is_encoder_decoder:
            raise InputError(f"{self._where}: {config.model_type} is an encoder with a decoder, expected one of both")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        positions = getattr(config, "max_position_embeddings", None)
        limits = (longest_text(folder), positions and positions - first_position(config))
        self._max_tokens = min(self._tokenizer.model_max_length, *(limit for limit in limits if limit))

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> NDArray[np.float32]:
        """Returns the texts' vectors of length 1, float32 [n, H]. Raises InputError for one that is not finite."""
        batches = [texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH)]
        vectors = np.concatenate([self._batch(batch) for batch in tracked(batches, "batches of texts", progress)])
        if not (finite := np.isfinite(vectors).all(1)).all():
            raise InputError(f"{self._where}: its vector of {texts[int(finite.argmin())][:40]!r} is not finite")
        return vectors

    @torch.inference_mode()
    def _batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        inputs = self._tokenizer(
            [self._prefix + text for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
        )
        hidden = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][:, :, None]
        rows = hidden[:, 0] if self._pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        return np.asarray(torch.nn.functional.normalize(rows, dim=1).numpy())
