"""`rexit embed`: a column of vectors, which a sentence encoder makes of the texts of a table of items.

1. A text is what `--text` makes of a row's cells: `{title} {description}`. Runs of spaces become one. A row whose placed cells
   are all empty has no text, and no vector.
2. Equal texts are encoded once, short ones first, so that little is padded. A text beyond the encoder's longest is cut.
3. Pooling, and what an encoder puts before a text, are as sentence-transformers reads them from the model's folder; a folder
   without them is pooled by the mean.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import write_frame
from rexit.exporter.catalog.source_tables import holds_vectors, read_table
from rexit.exporter.catalog.source_tables import texts_of as cells_of
from rexit.exporter.libraries import first_line, hub_folder, quiet
from rexit.progress import Progress, silent

CHUNK = 64
"""Texts encoded between two reports of progress, in batches of 32."""
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
        progress: Called with "texts", the texts encoded and in all.

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
    vectors = _encode(_load(model), model, distinct, progress)
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


def _load(model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    folder = Path(model)
    if not folder.is_dir():
        name = model if "/" in model else f"sentence-transformers/{model}"
        folder = hub_folder(name, _FILES, InputError, f"--model {model}", "folder")
    try:
        with quiet():
            return SentenceTransformer(str(folder), device="cpu")
    except Exception as exc:  # it raises whatever transformers, torch or JSON raise
        raise InputError(f"--model {model}: not an encoder that sentence-transformers loads: {first_line(exc)}") from exc


def _encode(encoder: Any, model: str, texts: list[str], progress: Progress) -> NDArray[np.float32]:
    chunks = []
    progress("texts", 0, len(texts))
    for begin in range(0, len(texts), CHUNK):
        with quiet():
            vectors = encoder.encode(texts[begin : begin + CHUNK], normalize_embeddings=True, show_progress_bar=False)
        chunks.append(np.asarray(vectors, np.float32))
        if not np.isfinite(chunks[-1]).all():
            row = begin + int((~np.isfinite(chunks[-1]).all(1)).argmax())
            raise InputError(f"--model {model}: its vector of {texts[row][:40]!r} is not finite")
        progress("texts", min(begin + CHUNK, len(texts)), len(texts))
    return np.concatenate(chunks)
