"""A model whose prompts have vectors, from checkpoint to scores: every target, the runtime, and what does not fit.

Of the user, and of items: LightGCN's, those of their titles, and a column that was made outside.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import rexit
from builders.bundles.bundle_files import names
from builders.data.indexed_catalog import ITEMS, LOOK, WITH_VECTORS, look, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit.doors.cli import app
from rexit.errors import BundleError, InputError
from rexit.exporter.catalog.source_tables import ENCODED
from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rexit.exporter.engine.compile import compile_engines
from rexit.exporter.export import export_bundle
from rexit.exporter.graph.chain import Chain
from rexit.exporter.model.prompt_vectors import Projectors, Sources
from rexit.exporter.model.rotation import orthogonal
from rexit.exporter.options import ExportOptions
from rexit.exporter.preflight import check_fit
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Bundle, Catalog, FileEntry, write_json
from rexit.format.bundle.vectors import FILE

CPU = ("cpu-fp32", "cpu-int8", "cpu-int4")
TENSORRT = tuple(f"tensorrt-{p}" for p in ("fp16", "int8", "int4"))
EXITS = (1, 2)
TEMPLATE = WITH_VECTORS.replace("{item.gcn} ", "{item.gcn}{item.look} ")
VECTORS = {"gcn", "look", "title:2"}
"""Tables of items' vectors."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("data"), template=TEMPLATE))


@pytest.fixture(scope="module")
def checkpoint(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "vectors"
    return tiny_checkpoint(folder, EXITS, catalog=catalog, intermediate_size=128, num_hidden_layers=EXITS[-1])


@pytest.fixture(scope="module")
def exported_bundle(checkpoint: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with every variant for the CPU. Copy it before changing it."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    _export(CPU, checkpoint, catalog, out)
    return out


def _export(variants: tuple[str, ...], checkpoint: Path, catalog: Catalog, out: Path) -> None:
    target = variants[0].partition("-")[0]
    precisions = [name.partition("-")[2] for name in variants]
    options = ExportOptions(target=target, precisions=precisions, golden_slates=4, accept_loss=True)
    export_bundle(checkpoint, catalog.path, out, options)


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle, tmp_path / "bundle"))


def test_the_catalog_holds_a_column_of_vectors_made_outside(catalog: Catalog) -> None:
    """Scaled to unit length; zeros for an item without a vector."""
    assert {"name": "look", "count": 1, "dim": LOOK} in catalog.info["prompt"]["vectors"]
    assert catalog.vector_ids is not None and catalog.vector_ids.dims["look"] == LOOK
    table = catalog.encoded["look"]
    assert table.dtype == np.float16 and table.shape == (ITEMS, LOOK)
    for row, item in enumerate(catalog.items.take(np.arange(ITEMS))):
        numbers = np.array([float(number) for number in look(int(item)).split()] or [0.0] * LOOK)
        np.testing.assert_allclose(table[row], numbers / max(np.linalg.norm(numbers), 1e-9), atol=1e-3)
    assert not any(name.endswith("look") for name in catalog.item_table)


@pytest.mark.medium
def test_the_bundle_says_that_there_are_vectors(exported_bundle: Path, catalog: Catalog, checkpoint: Path) -> None:
    bundle = Bundle.open(exported_bundle)
    assert names(exported_bundle) == ["catalog", "manifest.json", "variants", FILE] and FILE in bundle.manifest.files
    assert bundle.edited() == [] and bundle.manifest.variants == CPU
    reloaded = load_checkpoint(checkpoint)
    assert reloaded.projectors is not None
    expected = Sources(catalog).vectors(reloaded.projectors, reloaded.model.get_input_embeddings(), orthogonal(64))
    stored = bundle.vectors()
    assert stored is not None and stored.user is not None and stored.nobody is not None
    assert stored.tables.keys() == VECTORS
    for name in VECTORS:
        np.testing.assert_array_equal(stored.tables[name], expected.tables[name])
    np.testing.assert_array_equal(stored.user, expected.user)
    assert names(exported_bundle / "catalog") == ["catalog.json", "items.safetensors", "pieces.safetensors", "users.safetensors"]
    with pytest.raises(BundleError, match=r"encoded.safetensors: missing; a bundle's catalog does not hold it"):
        assert bundle.catalog.encoded


@pytest.mark.medium
@pytest.mark.parametrize("name", CPU)
def test_the_first_segment_takes_them(exported_bundle: Path, name: str) -> None:
    """In float32 for every variant: as many as there are in a pass."""
    bundle = Bundle.open(exported_bundle, name)
    first, *others = bundle.variant.segments
    assert list(first.inputs)[:5] == ["tokens", "positions", "groups", "rows", "vectors"]
    assert all("vectors" not in segment.inputs for segment in others)
    inputs = onnx.load(bundle.folder / first.graph, load_external_data=False).graph.input
    (vectors,) = (value.type.tensor_type for value in inputs if value.name == first.inputs["vectors"])
    assert vectors.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in vectors.shape.dim] == ["R", 64]


@pytest.mark.medium
@pytest.mark.parametrize("name", CPU)
def test_the_runtime_computes_what_python_computes(exported_bundle: Path, name: str) -> None:
    bundle = Bundle.open(exported_bundle, name)
    chain = Chain(bundle.folder, bundle.variant.segments, bundle.variant.max_tokens, bundle.vectors())
    builder = PromptBuilder(bundle.catalog)
    with rexit.open(exported_bundle, name) as session:
        for slate in bundle.golden().slates:
            user, items = bundle.catalog.users.id(slate.user), [bundle.catalog.items.id(int(row)) for row in slate.items]
            for fresh in ((), ((items[0], True), (items[-1], False))):
                prompt = builder.prompt(user, items, slate.as_of, fresh)
                expected = chain.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
                session.clear_cache()
                stored = session.trace(user, items, as_of=slate.as_of, recent=fresh)
                np.testing.assert_allclose(stored, expected, atol=bundle.variant.parity["tolerance"])


@pytest.mark.medium
def test_another_column_is_another_score(catalog: Catalog, checkpoint: Path, exported_bundle: Path, tmp_path: Path) -> None:
    """The same export of a catalog whose vectors are turned round."""
    other = Path(shutil.copytree(catalog.path, tmp_path / "catalog"))
    save_file({"look": -catalog.encoded["look"]}, other / ENCODED)
    write_json(other / "catalog.json", catalog.info | {"encoded": {"path": ENCODED, **FileEntry.of(other / ENCODED).to_json()}})
    export_bundle(checkpoint, other, tmp_path / "bundle", ExportOptions(golden_slates=1, accept_catalog=True))
    before, after = (load_file(place / FILE) for place in (exported_bundle, tmp_path / "bundle"))
    assert all((before[name] == after[name]).all() for name in before if name != "look")
    without = ~catalog.encoded["look"].any(1)
    assert without.sum() == 3 and ((before["look"] == after["look"]).all((1, 2)) == without).all()


def test_a_file_that_is_not_the_catalogs(catalog: Catalog, tmp_path: Path) -> None:
    other = Path(shutil.copytree(catalog.path, tmp_path / "catalog"))
    save_file({"look": np.zeros((ITEMS, LOOK), np.float16)}, other / ENCODED)
    with pytest.raises(BundleError, match=r"encoded.safetensors: not the file catalog.json describes"):
        assert Catalog.open(other).encoded
    save_file({"look": np.zeros((ITEMS, 3), np.float16)}, other / ENCODED)
    write_json(other / "catalog.json", catalog.info | {"encoded": {"path": ENCODED, **FileEntry.of(other / ENCODED).to_json()}})
    with pytest.raises(BundleError, match=r"encoded.safetensors: holds float16 .*\(30, 3\)}, expected .*\(30, 5\)}"):
        assert Catalog.open(other).encoded


@pytest.mark.medium
def test_a_prompt_is_shown_with_placeholders(exported_bundle: Path, catalog: Catalog) -> None:
    words = ["--user", "100", "--items", "1003", "--tokenizer", str(catalog.path.parent), "--json"]
    shown = json.loads(CliRunner().invoke(app, ["inspect", str(exported_bundle), *words]).stdout)
    assert shown["prefix"]["text"].startswith("{user.gcn}") and shown["prefix"]["text"].count("{item.gcn}") == 3
    assert shown["candidates"][0]["text"].startswith("{item.title:2}{item.gcn}{item.look} ")


@pytest.mark.medium
def test_a_bundle_keeps_its_vectors(bundle: Path, checkpoint: Path, catalog: Catalog) -> None:
    before = (bundle / FILE).read_bytes()
    export_bundle(checkpoint, catalog.path, bundle, ExportOptions(precisions=["int4"], golden_slates=1, accept_loss=True))
    assert (bundle / FILE).read_bytes() == before and Bundle.open(bundle, "cpu-int8").edited() == []


@pytest.mark.slow
def test_tensorrt_compiles_them(checkpoint: Path, catalog: Catalog, tmp_path: Path) -> None:
    """By TensorRT-RTX, every precision. Compiled, not run: there is no GPU."""
    _export(TENSORRT, checkpoint, catalog, tmp_path / "bundle")
    report = compile_engines(tmp_path / "bundle", TENSORRT, compute_capability="8.9")
    assert [built.variant for built in report.variants] == list(TENSORRT)
    assert all(len(built.segments) == len(EXITS) and built.bytes > 0 for built in report.variants)


def with_projectors(checkpoint: Path, kinds: dict[str, dict[str, int]] | None, place: Path) -> Checkpoint:
    """The checkpoint with projectors of other kinds."""
    reloaded = load_checkpoint(checkpoint)
    projectors = None if kinds is None else Projectors(kinds, 64)
    save_checkpoint(
        place / "checkpoint",
        reloaded.model,
        reloaded.exits,
        reloaded.heads,
        reloaded.labels,
        reloaded.catalog,
        projectors=projectors,
    )
    return load_checkpoint(place / "checkpoint")


KINDS = {"gcn": {"dim": 8}, "look": {"dim": LOOK}, "title:2": {"count": 2}, "user": {"dim": 8}}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (None, "has no projector for 'gcn', but the catalog's prompts have such vectors; it has: none"),
        ({name: KINDS[name] for name in ("gcn", "look", "user")}, "has no projector for 'title:2', but"),
        ({**KINDS, "plot:4": {"count": 4}}, "has a projector for 'plot:4', but the catalog's prompts have no such"),
        ({**KINDS, "look": {"dim": 384}}, f"the projector for 'look' takes 384 numbers, the column's vectors have {LOOK}"),
        ({**KINDS, "gcn": {"dim": 16}}, "the projector for 'gcn' takes 16 numbers, embeddings have 8"),
        ({**KINDS, "title:2": {"count": 3}}, "the projector for 'title:2' gives 3 vectors, prompts have 2"),
    ],
)
def test_projectors_that_do_not_fit_the_catalog(
    checkpoint: Path, catalog: Catalog, tmp_path: Path, kinds: dict[str, dict[str, int]] | None, message: str
) -> None:
    loaded = with_projectors(checkpoint, kinds, tmp_path)
    with pytest.raises(InputError) as caught:
        check_fit(loaded, catalog, 512)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_projectors_for_prompts_of_text(checkpoint: Path, catalog_folder: Path) -> None:
    with pytest.raises(InputError, match=r"has a projector for 'gcn', but .* no such vectors; they have: none"):
        check_fit(load_checkpoint(checkpoint), Catalog.open(catalog_folder), 512)


def test_vectors_beyond_float16_are_refused(checkpoint: Path, catalog: Catalog) -> None:
    reloaded = load_checkpoint(checkpoint)
    assert reloaded.projectors is not None
    torch.nn.init.constant_(reloaded.projectors["user"].outer.bias, 1e6)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"projector 'user': gives 1e\+06, float16 ends at 65504"):
        Sources(catalog).vectors(replace(reloaded).projectors, reloaded.model.get_input_embeddings())  # type: ignore[arg-type]
