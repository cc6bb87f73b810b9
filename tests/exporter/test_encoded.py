"""A column of vectors made outside, from the items' file to scores: the catalog, the projector, the bundle and the runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import rexit
from builders.bundles.bundle_files import names
from builders.data.indexed_catalog import ITEMS, LOOK, WITH_ENCODED, look, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Bundle, Catalog, FileEntry, write_json
from rexit.bundle.vectors import FILE
from rexit.cli import app
from rexit.errors import BundleError, InputError
from rexit.exporter.catalog.encoded import FILE as ENCODED
from rexit.exporter.export import export_bundle
from rexit.exporter.graph.chain import Chain
from rexit.exporter.model.checkpoint import load_checkpoint, save_checkpoint
from rexit.exporter.model.projectors import Projectors
from rexit.exporter.model.rotation import orthogonal
from rexit.exporter.model.vectors import Sources
from rexit.exporter.options import ExportOptions
from rexit.exporter.preflight import check_fit
from rexit.exporter.prompt.builder import PromptBuilder

KINDS = {"look": {"dim": LOOK}, "title:2": {"count": 2}, "user": {"dim": 8}}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("data"), template=WITH_ENCODED))


@pytest.fixture(scope="module")
def checkpoint(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "encoded", catalog=catalog)


@pytest.fixture(scope="module")
def exported_bundle(checkpoint: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(checkpoint, catalog.path, out, ExportOptions(precisions=["fp32", "int8"], golden_slates=4, accept_loss=True))
    return out


def test_the_catalog_holds_the_column(catalog: Catalog) -> None:
    """Scaled to unit length; zeros for an item without a vector."""
    assert catalog.info["prompt"]["vectors"] == [
        {"name": "look", "count": 1, "dim": LOOK},
        {"name": "title:2", "count": 2},
    ]
    assert catalog.vector_ids is not None and catalog.vector_ids.dims == {"look": LOOK}
    table = catalog.encoded["look"]
    assert table.dtype == np.float16 and table.shape == (ITEMS, LOOK)
    for row, item in enumerate(catalog.items.take(np.arange(ITEMS))):
        numbers = np.array([float(number) for number in look(int(item)).split()] or [0.0] * LOOK)
        np.testing.assert_allclose(table[row], numbers / max(np.linalg.norm(numbers), 1e-9), atol=1e-3)
    assert not any(name.endswith("look") for name in catalog.item_table)


def test_the_checkpoint_has_a_projector_for_it(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert loaded.projectors is not None and loaded.projectors.kinds == KINDS
    assert loaded.projectors["look"](torch.zeros(1, LOOK)).detach().abs().max() > 0, "a zero row gives the last bias"


def test_a_bundle_has_its_vectors_and_not_the_column(exported_bundle: Path, catalog: Catalog, checkpoint: Path) -> None:
    loaded, bundle = load_checkpoint(checkpoint), Bundle.open(exported_bundle)
    assert loaded.projectors is not None
    expected = Sources(catalog).vectors(loaded.projectors, loaded.model.get_input_embeddings(), orthogonal(64))
    actual = bundle.vectors()
    assert actual is not None and actual.tables.keys() == {"look", "title:2"}
    np.testing.assert_array_equal(actual.tables["look"], expected.tables["look"])
    assert names(exported_bundle / "catalog") == ["catalog.json", "items.safetensors", "pieces.safetensors", "users.safetensors"]
    with pytest.raises(BundleError, match=r"encoded.safetensors: missing; a bundle's catalog does not hold it"):
        assert bundle.catalog.encoded


@pytest.mark.parametrize("name", ["cpu-fp32", "cpu-int8"])
def test_the_runtime_computes_what_python_computes(exported_bundle: Path, name: str) -> None:
    bundle = Bundle.open(exported_bundle, name)
    chain = Chain(bundle.folder, bundle.variant.segments, bundle.variant.max_tokens, bundle.vectors())
    builder = PromptBuilder(bundle.catalog)
    with rexit.open(exported_bundle, name) as session:
        for slate in bundle.golden().slates:
            user, items = bundle.catalog.users.id(slate.user), bundle.catalog.items.take(slate.items.astype(np.int64))
            for fresh in ((), ((items[0], True), (items[-1], False))):
                prompt = builder.prompt(user, items, slate.as_of, fresh)
                expected = chain.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
                session.clear_cache()
                actual = session.trace(user, items, as_of=slate.as_of, recent=fresh)
                np.testing.assert_allclose(actual, expected, atol=bundle.variant.parity["tolerance"])
    assert all(
        row[mode] < 1e-4 for row in Bundle.open(exported_bundle).variant.parity["exits"] for mode in ("single", "cached", "slate")
    )


def test_verify_and_inspect_know_it(exported_bundle: Path, catalog: Catalog) -> None:
    result = CliRunner().invoke(app, ["verify", str(exported_bundle), "--json"])
    assert result.exit_code == 0, result.stdout
    arguments = [
        "inspect",
        str(exported_bundle),
        "--user",
        "100",
        "--items",
        "1003",
        "--tokenizer",
        str(catalog.path.parent),
        "--json",
    ]
    shown = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert shown["prefix"]["text"].count("{item.look}") == 3
    assert shown["candidates"][0]["text"].startswith("{item.title:2} {item.look}")


def test_another_column_is_another_score(catalog: Catalog, checkpoint: Path, exported_bundle: Path, tmp_path: Path) -> None:
    """The same export of a catalog whose vectors are turned round."""
    other = Path(shutil.copytree(catalog.path, tmp_path / "catalog"))
    save_file({"look": -catalog.encoded["look"]}, other / ENCODED)
    write_json(other / "catalog.json", catalog.info | {"encoded": {"path": ENCODED, **FileEntry.of(other / ENCODED).to_json()}})
    export_bundle(checkpoint, other, tmp_path / "bundle", ExportOptions(golden_slates=1, accept_catalog=True))
    before, after = (load_file(place / FILE) for place in (exported_bundle, tmp_path / "bundle"))
    assert (before["title:2"] == after["title:2"]).all()
    without = ~catalog.encoded["look"].any(1)
    assert without.sum() == 3 and ((before["look"] == after["look"]).all((1, 2)) == without).all()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            {name: KINDS[name] for name in ("title:2", "user")},
            "has no projector for 'look', but the catalog's prompts have such vectors; it has: title:2, user",
        ),
        ({**KINDS, "look": {"dim": 384}}, f"the projector for 'look' takes 384 numbers, the column's vectors have {LOOK}"),
        ({**KINDS, "sound": {"dim": 3}}, "has a projector for 'sound', but the catalog's prompts have no such vectors"),
    ],
)
def test_projectors_that_do_not_fit(
    checkpoint: Path, catalog: Catalog, tmp_path: Path, kinds: dict[str, dict[str, int]], message: str
) -> None:
    loaded = load_checkpoint(checkpoint)
    words = (loaded.labels, loaded.catalog)
    save_checkpoint(tmp_path / "c", loaded.model, loaded.exits, loaded.heads, *words, projectors=Projectors(kinds, 64))
    with pytest.raises(InputError) as caught:
        check_fit(load_checkpoint(tmp_path / "c"), catalog, 512)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_the_catalogs(catalog: Catalog, tmp_path: Path) -> None:
    other = Path(shutil.copytree(catalog.path, tmp_path / "catalog"))
    save_file({"look": np.zeros((ITEMS, LOOK), np.float16)}, other / ENCODED)
    with pytest.raises(BundleError, match=r"encoded.safetensors: not the file catalog.json describes"):
        assert Catalog.open(other).encoded
    save_file({"look": np.zeros((ITEMS, 3), np.float16)}, other / ENCODED)
    write_json(other / "catalog.json", catalog.info | {"encoded": {"path": ENCODED, **FileEntry.of(other / ENCODED).to_json()}})
    with pytest.raises(BundleError, match=r"encoded.safetensors: holds float16 .*\(30, 3\)}, expected .*\(30, 5\)}"):
        assert Catalog.open(other).encoded
