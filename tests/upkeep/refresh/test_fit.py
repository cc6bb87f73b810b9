"""Which catalogs may take the place of a bundle's, by their vectors; `tests/upkeep/refresh` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import CatalogContents, make_catalog
from rexit.errors import InputError
from rexit.format.bundle import Catalog, Manifest
from rexit.upkeep.refresh import check_fit

ALL = {"user_vector", "gcn", "title:2"}


def without(ops: list[dict[str, Any]], dropped: set[str]) -> list[dict[str, Any]]:
    """The ops of a program that place none of these vectors; an entry's last op stays one of text."""
    kept = [op for op in ops if not {op["op"], op.get("table")} & dropped]
    text = {"op": "item_field", "field": "title"}
    return [{**op, "entry": without(op["entry"], dropped) or [text]} if "entry" in op else op for op in kept]


def catalog(placed: set[str], seed: int = 1) -> CatalogContents:
    """Its prompts have these vectors."""
    contents = make_catalog(vectors=True, seed=seed)
    prompt, dropped = contents.info["prompt"], ALL - placed
    for part in ("prefix", "candidate"):
        prompt[part] = without(prompt[part], dropped)
    prompt["vectors"] = [table for table in prompt["vectors"] if table["name"] in placed]
    contents.tables["pieces.safetensors"] = make_catalog().tables["pieces.safetensors"]
    return contents


def opened(folder: Path, contents: CatalogContents) -> Catalog:
    return Catalog.open(write_bundle(folder, BundleOptions(contents)) / "catalog")


@pytest.mark.parametrize("placed", [{"user_vector", "title:2"}, {"gcn", "title:2"}, ALL], ids=["of users", "of items", "of both"])
def test_embeddings_of_another_training_are_refused(tmp_path: Path, placed: set[str]) -> None:
    """Projectors that never learned them would be given them, of users or of items."""
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(catalog(placed)))
    other = opened(tmp_path / "other", catalog(placed, seed=2))
    with pytest.raises(InputError, match=r"its embeddings are of another training .* nothing was swapped"):
        check_fit(bundle, Manifest.read(bundle), [], other)
    updated = catalog(placed, seed=2)
    updated.info["embedding"]["space"] = Catalog.open(bundle / "catalog").space
    check_fit(bundle, Manifest.read(bundle), [], opened(tmp_path / "updated", updated))


def test_embeddings_that_no_projector_reads_may_be_of_another_training(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(catalog({"title:2"})))
    check_fit(bundle, Manifest.read(bundle), [], opened(tmp_path / "other", catalog({"title:2"}, seed=2)))
