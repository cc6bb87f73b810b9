"""A catalog a day later: that of `write_ranked` with two more items; one of them has interactions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import entry, write_json
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.held_out import AS_OF
from rexit.format.bundle import Catalog, Manifest
from rexit.upkeep.refresh import staged

NEW = (ITEM_IDS[-1] + 5, ITEM_IDS[-1] + 10)
LATEST = AS_OF + 1000

Info = dict[str, Any]
Tables = dict[str, dict[str, Any]]
Edit = Callable[[Info, Tables], None]


def write_grown(old: Path, new: Path, edit: Edit | None = None, seed: int = 3) -> Path:
    """`old`: a catalog folder with splits. edit: changes the new one's catalog.json and tables before they are written."""
    shutil.copytree(old, new)
    info = json.loads((new / "catalog.json").read_text())
    tables = {name: dict(load_file(new / name)) for name in info["files"]}
    _grow(info, tables, np.random.default_rng(seed))
    if edit is not None:
        edit(info, tables)
    path = new / "splits/validation.parquet"
    held_out = pl.read_parquet(path)
    rows = [(user, item, LATEST, n % 2 == 0) for user in USER_IDS for n, item in enumerate([NEW[0], *ITEM_IDS[:3]])]
    held_out = pl.concat([held_out, pl.DataFrame(rows, held_out.schema, orient="row")]).sort("user", "time", maintain_order=True)
    held_out.write_parquet(path)
    info["splits"]["validation"] |= {"rows": len(held_out), **entry(path)}
    for name, table in tables.items():
        save_file({key: np.ascontiguousarray(value) for key, value in table.items()}, new / name)
    write_json(new / "catalog.json", {**info, "files": {name: entry(new / name) for name in tables}})
    return new


def swap_for_grown(bundle: Path, old: Path, new: Path) -> None:
    """Writes the grown catalog `new` and puts it into the bundle, as a refresh ends."""
    with staged(bundle, Manifest.read(bundle), Catalog.open(write_grown(old, new)), None) as swap:
        swap.commit()


def _grow(info: Info, tables: Tables, random: np.random.Generator) -> None:
    items, pieces = tables["items.safetensors"], tables["pieces.safetensors"]
    begin = len(pieces["offsets"]) - 1
    items["ids"] = np.concatenate([items["ids"], np.array(NEW)])
    for name in ("embeddings", "fold_in"):
        more = random.standard_normal((2, items[name].shape[1])).astype(np.float16)
        items[name] = np.concatenate([items[name], more / np.float16(4)])
    items["rating_offsets"] = np.concatenate([items["rating_offsets"], items["rating_offsets"][-1:].repeat(2)])
    items["field.title"] = np.concatenate([items["field.title"], np.array([begin, begin + 1], np.int32)])
    items["field.genre"] = np.concatenate([items["field.genre"], items["field.genre"][:2]])
    pieces["tokens"] = np.concatenate([pieces["tokens"], random.integers(0, 20, 3).astype(np.int32)])
    pieces["offsets"] = np.concatenate([pieces["offsets"], pieces["offsets"][-1] + np.array([1, 3])])
    info["counts"]["items"] += 2
    info["counts"]["pieces"] += 2
    # Another day, other neighbours: prompts of known items change too.
    users = tables["users.safetensors"]
    users["similar"] = np.ascontiguousarray(users["similar"][:, ::-1])
