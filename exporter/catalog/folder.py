"""The catalog's folder: where it may be, and how its files are written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from rexit.bundle.catalog import SPLITS, TABLES, ZERO, Catalog
from rexit.bundle.files import FileEntry, check_writable, write_json
from rexit.bundle.inputs import COLUMN as INPUT
from rexit.errors import InputError
from rexit.exporter.catalog.tables import Tensors, write_frame, write_tensors
from rexit.progress import Progress, silent, tracked


def check_place(out: Path) -> None:
    """Raises InputError if a catalog cannot be written to `out`. Only a catalog or an empty folder is replaced."""
    out = Path(os.path.abspath(out))
    if out.exists() and not (out / "catalog.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is no catalog: choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{out}: cannot be written: {exc.strerror}") from exc
    check_writable(out.parent)


def write_catalog(
    folder: Path,
    info: dict[str, Any],
    content: Iterable[tuple[str, Tensors]],
    samples: pl.DataFrame,
    users: pl.Series,
    items: pl.Series,
    progress: Progress = silent,
) -> Catalog:
    """Writes tables and splits, and adds their sizes to `info`.

    Args:
        folder: an empty folder.
        info: the contents of catalog.json, changed in place.
        content: each file of TABLES with its tensors, consumed one by one.
        samples: `user`, `item` (rows), `time`, `liked`, `split`, inputs and scores, in the splits' order.
        users, items: ids by row.
        progress: called with "splits", the splits written and their number.

    Returns:
        The catalog as it is before `seal`.
    """
    for name, tensors in content:
        write_tensors(folder / name, tensors)
    (folder / "splits").mkdir()
    splits = {}
    for split in tracked(SPLITS, "splits", progress):
        part = samples.filter(pl.col("split") == split).select("user", "item", "time", "liked", pl.col(f"^(score$|{INPUT}).*$"))
        part = part.with_columns(user=users.gather(part["user"]), item=items.gather(part["item"]))
        path = f"splits/{split}.parquet"
        write_frame(folder / path, part)
        splits[split] = {"path": path, "rows": len(part), **FileEntry.of(folder / path).to_json()}
    info["splits"] = splits
    catalog = Catalog(folder, info, {})
    info["counts"]["pieces"] = len(catalog.piece_table["offsets"]) - 1
    return catalog


def seal(folder: Path, info: dict[str, Any]) -> None:
    """Writes catalog.json, the last file: `info` with the digests of tables and exit zero's graph."""
    names = (*TABLES, *([ZERO] if info["prompt"].get("numbers") else []))
    info["files"] = {name: FileEntry.of(folder / name).to_json() for name in names}
    write_json(folder / "catalog.json", info)
