"""Several objectives from one pass: from a column each to graphs with a pair of answers each."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from builders.data.indexed_catalog import OBJECTIVES, WITH_OBJECTIVES, write_indexed_catalog
from builders.data.token_slates import slates_of, write_slates
from builders.models.checkpoints import tiny_checkpoint, tiny_model
from builders.models.rerankers import write_logit_score
from rexit.bundle import Bundle, Catalog
from rexit.bundle.labels import UNKNOWN
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.gate import quality
from rexit.exporter.gate.quality import Prompts
from rexit.exporter.graph.chain import Chain
from rexit.exporter.heads.forward import Slates
from rexit.exporter.heads.layers import LayerHead, Layers
from rexit.exporter.heads.objectives import fit_objectives, mean_losses
from rexit.exporter.heads.run import fit_heads
from rexit.exporter.labelled import labelled_pairs
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, HeadsOptions, TrainOptions
from rexit.exporter.preflight import check_pairs_differ
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.training.run import train_model, validation_figures, validation_log_odds
from rexit.exporter.update import update_catalog
from rexit.ranking import auc
from rexit.slates import cut
from running.session import built_once

ANSWERS = {"click.no": "s", "click.yes": "c", "like.no": "d", "like.yes": "l"}
LABELS = {name: ord(letter) - 32 for name, letter in ANSWERS.items()}
ALIKE = {"a.no": 1, "a.yes": 2, "b.no": 1, "b.yes": 2}
EXITS = (1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "objectives", lambda place: write_indexed_catalog(place, 24, template=WITH_OBJECTIVES))


@pytest.fixture(scope="module")
def catalog(data: Path) -> Catalog:
    return Catalog.open(data / "catalog")


@pytest.fixture(scope="module")
def checkpoint(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint") / "own"
    return tiny_checkpoint(place, EXITS, catalog=catalog, num_hidden_layers=EXITS[-1])


@pytest.fixture(scope="module")
def exported(checkpoint: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export_bundle(checkpoint, catalog.path, out, ExportOptions(golden_slates=4))
    return out


def test_splits_hold_each_objective_s_column(data: Path, catalog: Catalog) -> None:
    assert catalog.objectives == OBJECTIVES and catalog.labels == LABELS
    rated = pl.read_csv(data / "interactions.csv")
    by_pair = {(row["user_id"], row["item_id"]): row for row in rated.iter_rows(named=True)}
    unknown = 0
    for name in ("train", "validation", "test"):
        for slate in cut(catalog, name):
            assert slate.objectives is not None and slate.objectives.shape == (len(slate.items), 2)
            for item, (click, like) in zip(slate.items, slate.objectives.tolist(), strict=True):
                row = by_pair[slate.user, item]
                assert click == (UNKNOWN if row["click"] is None else row["click"]) and like == (row["rating"] >= 5)
                unknown += click == UNKNOWN
    assert unknown == rated["click"].null_count() > 50


def test_what_the_files_say(catalog: Catalog, checkpoint: Path, exported: Path) -> None:
    info, exits = (json.loads(path.read_text()) for path in (catalog.path / "catalog.json", checkpoint / "exits.json"))
    variant = json.loads((exported / "variants/cpu-fp32/variant.json").read_text())
    for value in (info, exits, variant):
        assert value["objectives"] == ["click", "like"]
    pairs = [{"no": LABELS[f"{name}.no"], "yes": LABELS[f"{name}.yes"]} for name in OBJECTIVES]
    assert info["labels"] == exits["labels"] == pairs
    assert info["label"]["objectives"] == {"click": {"column": "click"}, "like": {"column": "rating", "at_least": 5.0}}


def test_graphs_answer_each_objective_as_the_model_does(exported: Path, checkpoint: Path, catalog: Catalog) -> None:
    bundle = Bundle.open(exported, "cpu-fp32")
    assert load_file(checkpoint / "exit_heads.safetensors")["exit.0.weight"].shape == (4, 64)
    slates = bundle.golden().slates
    assert all(slate.log_odds.shape == (len(slate.items), 2, 2) for slate in slates)
    loaded = load_checkpoint(checkpoint, labels=catalog.labels)
    for k in range(2):  # each objective's rows alone, as a model of one objective has them
        heads = ExitHeads.like(loaded.decoder, len(EXITS))
        heads.fill({name: _rows_of(tensor, name, k) for name, tensor in loaded.heads.tensors().items()}, "heads")
        alone = MultiExitModel(loaded.decoder, heads, EXITS).eval()
        for slate in slates:
            expected = alone.reference(slate.prefix, slate.candidates)
            np.testing.assert_allclose(slate.log_odds[..., k], expected, atol=1e-5)
    chain = Chain(bundle.folder, bundle.variant.segments, 16)
    for slate in slates:
        np.testing.assert_allclose(chain.slate(slate.prefix, slate.candidates), slate.log_odds, atol=1e-4)
    assert max(np.abs(slate.log_odds[..., 0] - slate.log_odds[..., 1]).max() for slate in slates) > 0.1


def test_the_gate_reads_each_objective_s_known_labels(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the training split, since validation has no unknown ones here."""
    monkeypatch.setattr(quality, "cut", lambda source, _: cut(source, "train"))
    labels = np.concatenate([slate.objectives for slate in cut(catalog, "train") if slate.objectives is not None])
    assert (labels[:, 0] == UNKNOWN).any()
    for k, part in enumerate(Prompts.draw(catalog, 0).parts):
        assert part.name == OBJECTIVES[k]
        assert part.liked.tolist() == (labels[labels[:, k] != UNKNOWN, k] == 1).tolist() and {
            len(scores) for scores in part.baselines.values()
        } == {len(part.users)}


def _rows_of(tensor: Tensor, name: str, objective: int) -> Tensor:
    return tensor if ".norm." in name else tensor[2 * objective : 2 * objective + 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_model(num_hidden_layers=EXITS[-1]).save_pretrained(folder)
    return folder


def test_training_writes_heads_of_all_objectives(base: Path, catalog: Catalog, tmp_path: Path) -> None:
    lines: list[str] = []
    options = TrainOptions(exits="1,2", batch_tokens=400, rate=1e-3, warmup=0.0)
    report = train_model(base, catalog.path, tmp_path / "out", options, say=lines.append)
    assert report is not None and list(report.objectives) == list(OBJECTIVES)
    assert report.auc == pytest.approx(np.mean([part["auc"] for part in report.objectives.values()], 0))
    known = int((catalog.split("train").objectives != UNKNOWN).sum())
    assert f"{known} labels" in lines[0] and known < 2 * len(catalog.split("train"))
    loaded, before = (
        load_checkpoint(tmp_path / "out", labels=catalog.labels),
        load_checkpoint(base, [1, 2], "shared", catalog.labels),
    )
    assert loaded.objectives == OBJECTIVES
    for projection, start in zip(loaded.heads.projections, before.heads.projections, strict=True):
        assert ((projection.weight - start.weight).abs().amax(1) > 1e-5).all(), "each row of each objective learned"  # type: ignore[operator]


def test_validation_figures_are_of_known_labels(base: Path, catalog: Catalog) -> None:
    loaded = load_checkpoint(base, [1, 2], "shared", catalog.labels)
    model, rows = MultiExitModel(loaded.decoder, loaded.heads, EXITS).eval(), packed_rows(catalog, "validation", 20)
    actual = validation_log_odds(model, rows, torch.device("cpu"), 400, half=False)
    figures = validation_figures(actual, labelled_pairs(catalog, cut(catalog, "validation")))
    log_odds = np.concatenate([model.reference(row.prompt.prefix, row.prompt.candidates) for row in rows.rows])
    labels = catalog.split("validation").objectives
    for k in range(2):
        known = labels[:, k] != UNKNOWN
        expected = [auc(log_odds[known, e, k], labels[known, k] == 1) for e in range(2)]
        np.testing.assert_allclose(figures[k, :, 0], expected, atol=1e-6)


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Users who like what titles show, and click on the rest."""
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("tastes"), 60, taste=True, template=WITH_OBJECTIVES))


def log_odds_of_validation(checkpoint: Path, catalog: Catalog) -> np.ndarray:
    """[candidates, exits, objectives]."""
    loaded, builder = load_checkpoint(checkpoint), PromptBuilder.of(catalog, "validation")
    model = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
    prompts = [builder.prompt(slate.user, slate.items, slate.as_of) for slate in cut(catalog, "validation")]
    return np.concatenate([model.reference(prompt.prefix, prompt.candidates) for prompt in prompts])


@pytest.mark.slow
def test_heads_of_each_objective(base: Path, tastes: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[Any] = []

    def spied(file: Any, train: Any, validation: Any, *more: Any) -> Any:
        fits.extend([file, validation, fit_objectives(file, train, validation, *more)])
        return fits[-1]

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("rexit.exporter.heads.run.fit_objectives", spied)
        report = fit_heads(base, tastes.path, out, HeadsOptions(exits="1,2", keep_last=False, precision="float32"))
    file, validation, by_name = fits
    log_odds = log_odds_of_validation(out, tastes)
    for k, name in enumerate(OBJECTIVES):
        assert max(row["user_auc"][0] for row in report.objectives[name]["layers"]) > 0.9
        for exit in range(2):
            expected = by_name[name].at(exit + 1).head.log_odds(file.hidden[exit, validation.rows])
            np.testing.assert_allclose(log_odds[:, exit, k], expected, atol=2e-2)
    assert np.corrcoef(log_odds[:, 1, 0], log_odds[:, 1, 1])[0, 1] < 0, "they click on what they do not like"
    table = json.loads((out / "heads.json").read_text())
    assert table["objectives"] == report.objectives and [row["layers"] for row in table["layers"]] == [1, 2]
    # The same rows, and the model's own last answer, which stays at the last exit for each objective.
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "out.rows", tmp_path / "kept.rows")
    assert fit_heads(base, tastes.path, kept, HeadsOptions(exits="1,2", keep_last=True, precision="float32")).kept
    loaded = load_checkpoint(kept)
    own, hidden = ExitHeads.shared(loaded.decoder, 1, tastes.labels), torch.randn(5, 64)
    torch.testing.assert_close(loaded.heads(hidden, 1), own(hidden, 0), rtol=1e-4, atol=1e-4)


def test_exits_are_chosen_by_each_user_s_mean_over_what_is_known() -> None:
    def fit(users: list[int], losses: list[list[float]], prior: list[float]) -> Layers:
        heads = [
            LayerHead(1 + k, None, None, None, np.array(values), {}, np.zeros(0, np.float32)) for k, values in enumerate(losses)
        ]
        return Layers(heads, None, False, np.array(prior), np.array(users))

    fits = {"click": fit([0, 2], [[1.0, 2.0], [3.0, 4.0]], [8.0, 8.0]), "like": fit([2, 5], [[6.0, 0.5], [0.0, 1.5]], [4.0, 4.0])}
    losses, prior = mean_losses(fits)
    np.testing.assert_allclose(losses, [[1.0, 4.0, 0.5], [3.0, 2.0, 1.5]])
    assert prior == pytest.approx((8 + 6 + 4) / 3)


def test_unknown_labels_fit_no_head(tastes: Catalog) -> None:
    slates = Slates.of(tastes, "train", 0, 7, lambda *_: None)
    labels = tastes.split("train").objectives
    click, like = slates.of_objective(0), slates.of_objective(1)
    known = np.flatnonzero(labels[:, 0] != UNKNOWN)
    assert isinstance(click.rows, np.ndarray) and click.rows.tolist() == (7 + known).tolist()
    assert click.liked.tolist() == (labels[known, 0] == 1).tolist() and click.users.tolist() == slates.users[known].tolist()
    assert len(like.liked) == len(labels) > len(click.liked)


def test_update_keeps_labels_and_adds_new_ones(data: Path, catalog: Catalog, tmp_path: Path) -> None:
    rated = pl.read_csv(data / "interactions.csv")
    fresh = rated.filter(pl.col("timestamp") == 0).with_columns(
        timestamp=pl.lit(9999), rating=pl.lit(5), click=pl.when(pl.col("user_id") % 2 == 0).then(0)
    )
    fresh.write_csv(tmp_path / "new.csv")
    source = (tmp_path / "new.csv", str(data / "tokenizer.json"), data / "prompt.toml", tmp_path / "new")
    update_catalog(catalog.path, *source)
    updated = Catalog.open(tmp_path / "new")
    assert updated.labels == catalog.labels and updated.info["label"] == catalog.info["label"]
    for name in ("train", "validation", "test"):
        old, new = catalog.split(name), updated.split(name)
        earlier = new.times < 9999
        np.testing.assert_array_equal(new.objectives[earlier], old.objectives)
        for user, labels in zip(updated.users.take(new.users[~earlier]), new.objectives[~earlier].tolist(), strict=True):
            assert labels == [UNKNOWN if int(user) % 2 else 0, 1]
    other = tmp_path / "other.toml"
    other.write_text(WITH_OBJECTIVES.replace('yes = "l"', 'yes = "L"'))
    with pytest.raises(InputError, match=r"other.toml: is another template than that of .*: its labels are "):
        update_catalog(catalog.path, *source[:2], other, tmp_path / "again")


def test_what_has_one_answer_is_refused(exported: Path, checkpoint: Path, catalog: Catalog, tmp_path: Path) -> None:
    slates = write_slates(tmp_path / "slates.jsonl", slates_of(catalog))
    with pytest.raises(InputError, match=r"objectives 'a' and 'b' have the same label tokens, so with head 'shared' the"):
        check_pairs_differ(replace(load_checkpoint(checkpoint), head="shared", labels=ALIKE))
    with pytest.raises(InputError, match=r"answers the objectives click, like, a file of slates has one label: use --catalog$"):
        export_bundle(checkpoint, None, tmp_path / "bundle", slates=slates)
    reranker = write_logit_score(tmp_path / "reranker")
    with pytest.raises(InputError, match=r"is a reranker, which has one answer; the catalog has the objectives click, like$"):
        export_bundle(reranker, catalog.path, tmp_path / "bundle", ExportOptions(exits=[2, 4]))
