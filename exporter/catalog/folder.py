"""The catalog's folder: where it may be, and its files written in the order in which they name each other."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.numpy import save

from rexit.bundle.catalog import SPLITS, TABLES, Catalog
from rexit.bundle.files import FileEntry, check_writable, write_file, write_json
from rexit.errors import InputError
from rexit.exporter.catalog.tables import Tensors
from rexit.exporter.prompt.lengths import prompt_lengths


def check_place(out: Path) -> None:
    """Fails before the work, not after it. Only a catalog is ever replaced."""
    out = Path(os.path.abspath(out))
    if out.exists() and not (out / "catalog.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is no catalog: choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{out}: cannot be written: {exc.strerror}") from exc
    check_writable(out.parent)


def with_ids(interactions: pl.DataFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """`user` and `item` as ids instead of rows."""
    ids = {"user": users.gather(interactions["user"]), "item": items.gather(interactions["item"])}
    return interactions.with_columns(**ids)


def write(folder: Path, info: dict[str, Any], content: Mapping[str, Tensors], asked: pl.DataFrame) -> None:
    """Tables, splits, and catalog.json, which is `info` with what is measured of them. asked: `user`, `item` (ids), `time`,
    `liked`, `split`, in the order of the splits' files."""
    for name in TABLES:
        write_file(folder / name, save(content[name]))
    info["counts"]["pieces"] = len(content["pieces.safetensors"]["offsets"]) - 1
    info["prompt"]["lengths"] = prompt_lengths(Catalog(folder, info, {}))
    (folder / "splits").mkdir()
    splits = {}
    for split in SPLITS:
        part = asked.filter(pl.col("split") == split).select("user", "item", "time", "liked")
        path, buffer = f"splits/{split}.parquet", io.BytesIO()
        part.write_parquet(buffer)
        write_file(folder / path, buffer.getvalue())
        splits[split] = {"path": path, "rows": len(part), **FileEntry.of(folder / path).to_json()}
    info["splits"] = splits
    info["files"] = {name: FileEntry.of(folder / name).to_json() for name in TABLES}
    write_json(folder / "catalog.json", info)
