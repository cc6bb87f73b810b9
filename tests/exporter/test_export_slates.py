"""A bundle without a catalog: exported from a file of slates, its graphs are those of the catalog's bundle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle_files import contents
from builders.data.token_slates import slates_of, write_slates
from builders.models.checkpoints import VOCAB, tiny_checkpoint
from rexit import Request, runtime
from rexit.data.ranking import auc
from rexit.data.slates_file import SlatesFile
from rexit.errors import CheckpointError, InputError
from rexit.exporter.engine.compile import optimization_profiles
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.exporter.zero import Graph, stage_numbers
from rexit.format.bundle import Bundle, Catalog
from rexit.format.bundle.catalog import ZERO
from rexit.upkeep.checks import check_bundle


@pytest.fixture(scope="module")
def slates(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", slates_of(Catalog.open(catalog_folder)))


@pytest.fixture(scope="module")
def by_tokens(checkpoint_folder: Path, slates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(checkpoint_folder, None, out, ExportOptions(golden_slates=6), slates=slates)
    return out


def test_its_graphs_are_those_of_the_catalogs_bundle(exported: Path, by_tokens: Path) -> None:
    """To the bit, so the same tokens have the same scores: tests/runtime/test_request.py."""
    graphs, expected = (
        {name: data for name, data in contents(folder / "variants/cpu-fp32").items() if name.startswith("segment-")}
        for folder in (by_tokens, exported)
    )
    assert graphs == expected and len(graphs) == 6


def test_what_a_bundle_without_a_catalog_holds(by_tokens: Path, exported: Path) -> None:
    bundle, manifest = Bundle.open(by_tokens), json.loads((by_tokens / "manifest.json").read_text())
    assert not bundle.has_catalog and bundle.variant.catalog_sha256 is None and "tokens" in manifest
    assert not (by_tokens / "catalog").exists()
    tokens = bundle.manifest.tokens
    assert tokens is not None and tokens.labels == Bundle.open(exported).catalog.labels
    assert tokens.max_prefix_tokens >= max(len(slate.prefix) for slate in Bundle.open(exported).golden().slates)
    with runtime.open(by_tokens) as session:
        assert not session.info.has_catalog and session.info.vocabulary == bundle.manifest.model.vocab_size
        assert (session.info.users, session.info.items) == (0, 0)


def test_it_is_verified(by_tokens: Path) -> None:
    checks = check_bundle(by_tokens)
    assert [check.name for check in checks if check.outcome != "ok"] == []
    assert {"log-odds", "exit decisions"} <= {check.name for check in checks}


def test_engines_take_any_prefix_that_the_model_takes(by_tokens: Path) -> None:
    bundle = Bundle.open(by_tokens)
    empty, behind = optimization_profiles(bundle)
    assert empty.prefix == (1, 1, 1) and behind.prefix[2] == bundle.variant.max_positions - 1
    assert empty.tokens[2] == behind.tokens[2] >= bundle.variant.max_positions, "also a candidate without a prefix"


@pytest.mark.parametrize(
    ("prefix", "candidates", "problem"),
    [
        ([1, VOCAB], [[1]], rf"prefix\[1\] is {VOCAB}, expected a token id from 0 to {VOCAB - 1}"),
        ([1] * 200, [[2], [1] * 57], r"candidates\[1\] has 57 tokens behind a prefix of 200, the variant takes at most 256"),
        ([1], [2], r"candidates\[0\] is 2, expected an array of token ids"),
        ("text", [[2]], "prefix is 'text', expected an array of token ids"),
        ([1.5], [[2]], r"prefix\[0\] is 1.5, expected a token id"),
    ],
)
def test_bad_requests(by_tokens: Path, prefix: object, candidates: object, problem: str) -> None:
    with runtime.open(by_tokens) as session:
        before = session.trace(Request.tokens([1, 2], [[3]]))
        for call in (session.score, session.trace):
            with pytest.raises(InputError, match=problem):
                call(Request.tokens(prefix, candidates))  # type: ignore[arg-type, operator]
        np.testing.assert_array_equal(session.trace(Request.tokens([1, 2], [[3]])), before)


def test_a_second_variant_joins_if_nothing_else_differs(
    by_tokens: Path, checkpoint_folder: Path, catalog_folder: Path, slates: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(by_tokens, tmp_path / "bundle")
    options = ExportOptions(precisions=["int8"], golden_slates=4, accept_loss=True)
    report = export_bundle(checkpoint_folder, None, bundle, options, slates=slates)
    assert [variant.name for variant in report.variants] == ["cpu-int8"]
    assert Bundle.open(bundle).manifest.variants == ("cpu-fp32", "cpu-int8")
    with pytest.raises(InputError, match="holds a bundle made from another catalog"):
        export_bundle(checkpoint_folder, catalog_folder, bundle, options)


def test_first_stages_scores_are_fitted_verified_and_served(checkpoint_folder: Path, slates: Path, tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), [json.loads(line) for line in slates.read_text().splitlines()]
    for row in rows:
        signal = 2 * np.array(row["label"]) + random.normal(size=len(row["label"]))
        row |= {"score.bm25": signal.tolist(), "score.age": [None, *random.normal(size=len(signal) - 1).tolist()]}
    scored, out = write_slates(tmp_path / "slates.jsonl", rows), tmp_path / "bundle"
    export_bundle(checkpoint_folder, None, out, ExportOptions(golden_slates=3), slates=scored)
    bundle = Bundle.open(out)
    assert bundle.manifest.tokens is not None and bundle.manifest.tokens.scores == ("age", "bm25")
    assert bundle.exits[0] == 0 and bundle.golden().slates[0].scores.keys() == {"age", "bm25"}
    assert [check.name for check in check_bundle(out) if check.outcome != "ok"] == []
    tests, graph = SlatesFile.read(scored).cut("test"), Graph(out / ZERO, 2)
    with runtime.open(out) as session:
        assert session.info.scores == ["age", "bm25"]
        for slate in tests[:3]:
            expected = graph.log_odds(stage_numbers([slate], session.info.scores))
            np.testing.assert_allclose(session.trace(slate.request)[:, 0], expected, atol=1e-5)
        whole = [session.trace(slate.request)[:, 0] for slate in tests]
    assert auc(np.concatenate(whole), np.concatenate([slate.liked for slate in tests])) > 0.85
    for row in rows:
        row["score.bm25"] = row["score.bm25"][::-1]
    write_slates(scored, rows)
    with pytest.raises(InputError, match="holds a bundle whose exit zero was fitted on other slates"):
        export_bundle(checkpoint_folder, None, out, ExportOptions(golden_slates=3), slates=scored)


@pytest.mark.slow
def test_labels_that_the_checkpoint_does_not_name(slates: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    for name in ("exits.json", "exit_heads.safetensors"):
        (checkpoint / name).unlink()
    options = ExportOptions(exits=[2, 4], head="shared", golden_slates=2)
    with pytest.raises(InputError, match="head 'shared' needs the token ids"):
        export_bundle(checkpoint, None, tmp_path / "out", options, slates=slates)
    with pytest.raises(InputError, match=f"label 'yes' is token {VOCAB}, the model has 0 to {VOCAB - 1}"):
        export_bundle(checkpoint, None, tmp_path / "out", ExportOptions([2, 4], "shared", label_ids=(3, VOCAB)), slates=slates)
    options = ExportOptions([2, 4], "shared", golden_slates=2, label_ids=(3, 4))
    export_bundle(checkpoint, None, tmp_path / "out", options, slates=slates)
    assert Bundle.open(tmp_path / "out").manifest.tokens.labels == {"no": 3, "yes": 4}  # type: ignore[union-attr]


def test_what_does_not_fit(checkpoint_folder: Path, slates: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in slates.read_text().splitlines()]
    rows[3]["candidates"][0] = [VOCAB + 7]
    edited = write_slates(tmp_path / "edited.jsonl", rows)
    with pytest.raises(InputError, match=rf"candidates\[0\]\[0\] is {VOCAB + 7}, expected a token id from 0 to {VOCAB - 1}"):
        export_bundle(checkpoint_folder, None, tmp_path / "out", slates=edited)
    text = write_slates(tmp_path / "text.jsonl", [{**row, "prefix": "words"} for row in rows])
    with pytest.raises(InputError, match=r"tokenizer.json: no such file"):
        export_bundle(checkpoint_folder, None, tmp_path / "out", slates=text)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: cannot be copied into the bundle"):
        export_bundle(
            checkpoint_folder, None, tmp_path / "out", ExportOptions(golden_slates=2, with_tokenizer=True), slates=slates
        )
    for catalog, other, problem in ((None, None, "neither"), (tmp_path, slates, "both")):
        with pytest.raises(InputError, match=f"{problem} a catalog"):
            export_bundle(checkpoint_folder, catalog, tmp_path / "out", slates=other)
    assert not (tmp_path / "out").exists()
