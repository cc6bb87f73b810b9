"""Adds a sentence encoder's vectors of the texts in an items file, as columns that `{item.NAME}` places in prompts.

    python examples/encode.py items.tsv items.parquet --encoder FOLDER_OR_HUB_ID --vector title_vector=title \
        --vector about=title,author

A vector is the mean of the encoder's last hidden states over a text's tokens, as in all-MiniLM-L6-v2; an encoder with other
pooling needs another script. Texts of several columns are joined with ", ". An item without a text has no vector. Other encoders'
vectors, of images for instance, can be added in the same way: `rexit index` only reads the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from transformers import AutoModel, AutoTokenizer

from rexit.errors import InputError, script
from rexit.exporter.catalog.catalog_files import write_frame
from rexit.exporter.catalog.source_tables import read_table
from rexit.exporter.libraries import first_line, quiet

BATCH = 8


class MeanOfLastHidden:
    """Encodes texts, none of them empty, as float32 [n, H]. A text longer than the encoder's positions is cut.

    Args:
        encoder: a Hugging Face folder or Hub id.

    Raises:
        InputError: It cannot be loaded.
    """

    def __init__(self, encoder: str | Path) -> None:
        try:
            with quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(encoder, padding_side="right")
                self._model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
        except (OSError, ValueError) as exc:
            raise InputError(f"{encoder}: not an encoder that transformers loads: {first_line(exc)}") from exc
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        positions = getattr(self._model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._max_tokens = min(positions, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], progress: bool = False) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        vectors = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        for begin in track(range(0, len(order), BATCH), "texts", disable=not progress):
            rows = order[begin : begin + BATCH]
            inputs = self._tokenizer(
                [texts[n] for n in rows], return_tensors="pt", padding=True, truncation=True, max_length=self._max_tokens
            )
            hidden = self._model(**inputs, use_cache=False).last_hidden_state
            mask = inputs["attention_mask"][:, :, None]
            vectors[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return vectors


def texts_of(frame: pl.DataFrame, columns: Sequence[str], path: Path) -> pl.Series:
    """Returns the columns' cells joined with ", "; null if all of them are empty. Raises InputError."""
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"{path}: no column {name!r}, the file has: {', '.join(frame.columns)}")
        if frame.schema[name].is_nested():
            raise InputError(f"{path}: column {name!r} holds {frame.schema[name]}, expected texts")
    cells = [pl.col(name).cast(pl.String).str.strip_chars() for name in columns]
    joined = pl.concat_str([pl.when(cell != "").then(cell) for cell in cells], separator=", ", ignore_nulls=True)
    return frame.select(pl.when(joined != "").then(joined)).to_series()


def vectors_of(texts: pl.Series, embed: MeanOfLastHidden, progress: bool = False) -> pl.Series:
    """Returns a vector for each text, null for null. Equal texts are encoded once."""
    known = texts.drop_nulls().unique(maintain_order=True)
    table = embed(known.to_list(), progress)
    rows = pl.DataFrame({"text": known, "vector": table})
    return pl.DataFrame({"text": texts}).join(rows, on="text", how="left", maintain_order="left")["vector"]


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", type=Path, help="CSV, TSV or Parquet, as `rexit index` reads it")
    parser.add_argument("out", type=Path, help="Parquet: the same columns and the new ones")
    parser.add_argument("--encoder", required=True, help="a folder, or an id on the Hugging Face Hub")
    parser.add_argument("--vector", action="append", required=True, metavar="NAME=COLUMN[,COLUMN…]", help="once for each column")
    args = parser.parse_args()
    run(args)


def run(args: argparse.Namespace) -> None:
    if args.out.suffix != ".parquet":
        raise InputError(f"{args.out}: expected a name that ends in .parquet")
    frame = read_table(args.items)
    texts_by_name: dict[str, pl.Series] = {}
    for option in args.vector:
        name, _, columns = option.partition("=")
        if not name or not columns or name in (*texts_by_name, *frame.columns):
            raise InputError(f"--vector {option}: expected NAME=COLUMN[,COLUMN…] with a name that no column has yet")
        texts_by_name[name] = texts_of(frame, columns.split(","), args.items)
    embed = MeanOfLastHidden(args.encoder)
    for name, texts in texts_by_name.items():
        vectors = vectors_of(texts, embed, sys.stderr.isatty())
        assert isinstance(vectors.dtype, pl.Array)
        frame = frame.with_columns(vectors.alias(name))
        print(f"{name}: {vectors.dtype.shape[0]} numbers for {len(vectors) - vectors.null_count()} of {len(vectors)} items")
    write_frame(args.out, frame)


if __name__ == "__main__":
    main()
