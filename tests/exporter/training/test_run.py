"""`rexit train`: a training that was stopped ends as one that was not, and `rexit export` takes what it made."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from builders.data.indexed_catalog import WITH_ENCODED, WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_model
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import HEADS, PROJECTORS
from rexit.exporter.export import export_bundle
from rexit.exporter.model.packed import PADDING, PREFIX
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, TrainOptions
from rexit.exporter.training.fine_tuning import exit_depths, make_model, still_falling, train_model
from rexit.exporter.training.trainer import Collator, Learner, joint_loss
from rexit.format.bundle import Catalog
from rexit.interrupts import interruptible
from running.fast import fast


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_indexed_catalog(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def with_vectors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_indexed_catalog(tmp_path_factory.mktemp("vectors"), template=getattr(request, "param", WITH_VECTORS))


def trained(base: Path, catalog: Path, out: Path, say: Callable[[str], None] = lambda _: None, **changes: Any) -> Path:
    options = TrainOptions(**{"exits": "1,2,4", "batch_tokens": 400, "slate": 5, **changes})
    report = train_model(base, catalog, out, options, say=say)
    assert report and report.exits == (1, 2, 4) and len(report.auc) == len(report.user_auc) == 3
    return out


@pytest.mark.medium
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32"},
        pytest.param({"lora": 2}, marks=pytest.mark.slow),
        pytest.param({"freeze_embeddings": True}, marks=pytest.mark.slow),
    ],
    ids=["full", "lora", "frozen"],
)
def test_stopped_and_continued_is_as_never_stopped(
    base: Path, with_vectors: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 10/"):
            raise KeyboardInterrupt

    steps = {"steps": 14, "rate": 1e-3, "save_every": 3, **options}  # more than one pass over the data
    whole = trained(base, with_vectors, tmp_path / "whole", **steps)
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        trained(base, with_vectors, parts, stop, **steps)
    assert not parts.exists()
    assert {path.name for path in (tmp_path / "parts.training").glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-9"}
    trained(base, with_vectors, parts, **steps)
    name = "model.safetensors"
    assert all(same(parts / name, whole / name) for name in (name, HEADS, PROJECTORS))
    assert not same(base / name, whole / name)


@pytest.mark.medium
def test_a_signal_saves_the_step_that_it_meets(base: Path, catalog: Path, tmp_path: Path) -> None:
    """Without it, what was trained since the last state would be lost: with 200 steps between two, all of a short training."""
    steps, lines = {"steps": 14, "rate": 1e-3, "precision": "float32"}, list[str]()

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("step 10/"):
            os.kill(os.getpid(), signal.SIGTERM)

    whole = trained(base, catalog, tmp_path / "whole", **steps)
    with pytest.raises(SystemExit) as end, interruptible():
        trained(base, catalog, tmp_path / "parts", stop, **steps)
    assert end.value.code == 143 and lines[-1] == "interrupted: saves step 11, from which the same command goes on"
    assert [path.name for path in (tmp_path / "parts.training").glob("checkpoint-*")] == ["checkpoint-11"]
    trained(base, catalog, tmp_path / "parts", **steps)
    assert all(same(tmp_path / "parts" / name, whole / name) for name in ("model.safetensors", HEADS))


def test_slates_that_no_step_reads_are_not_assembled(base: Path, catalog: Path, tmp_path: Path) -> None:
    def sizes(steps: int) -> tuple[int, int]:
        def stop(line: str) -> None:
            raise KeyboardInterrupt(line)

        with pytest.raises(KeyboardInterrupt) as first:
            trained(base, catalog, tmp_path / str(steps), stop, steps=steps)
        rows, batches = re.match(r"(\d+) rows.* in (\d+) batches", str(first.value)).groups()  # type: ignore[union-attr]
        return int(rows), int(batches)

    count = len(packed_rows(Catalog.open(catalog), "train", 5).rows)
    few, most = sizes(2), sizes(50)
    assert 2 <= few[1] <= 4 and few[0] < count / 2 and most[0] == count


@pytest.mark.parametrize(("last", "falls"), [(-0.004, True), (0.0, False), (0.002, False)], ids=["falling", "flat", "rising"])
def test_a_loss_that_falls_at_the_end_is_said(last: float, falls: bool) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 60)
    losses = 0.6 + np.maximum(0, 20 - np.arange(60)) * 0.01 + last * np.maximum(0, np.arange(60) - 40) + noise
    assert (still_falling(losses.tolist()) is not None) == falls
    assert still_falling(losses[-8:].tolist()) is None


@pytest.mark.medium
def test_rate_of_0_leaves_the_base_as_it_is(base: Path, with_vectors: Path, tmp_path: Path) -> None:
    one, more = (trained(base, with_vectors, tmp_path / str(steps), steps=steps, rate=0.0) for steps in (1, 4))
    name = "model.safetensors"
    before, after = load_file(base / name), load_file(more / name)
    assert before.keys() == after.keys() and all(torch.equal(before[key].float(), after[key]) for key in before)
    assert not same(one / HEADS, more / HEADS) and not same(one / PROJECTORS, more / PROJECTORS)


def test_rate_of_0_has_no_gradient_below_the_heads(base: Path, catalog: Path) -> None:
    options, opened = TrainOptions(exits="1,2,4", rate=0.0), Catalog.open(catalog)
    _, model, _ = make_model(str(base), opened, options)
    data = packed_rows(opened, "train", 5)
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"heads"}
    assert not any(states.requires_grad for states in model.hidden_rows(*data.packed([0, 1])))
    batch = Collator(data)([[0, 1]])
    Learner(model, data)(**batch)["loss"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_additions_to_a_base_that_stays_are_refused(base: Path, catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--lora 4 with --rate 0, which trains no additions: leave one of them out$"):
        trained(base, catalog, tmp_path / "out", lora=4, rate=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": -1}, "--lora -1, expected a rank of at least 1, or 0"),
        ({"slate": 0}, "--slate 0, expected at least 1"),
        ({"steps": -1}, "--steps -1, expected at least 0"),
        ({"rate": -1.0}, "--rate -1, expected at least 0"),
        ({"epochs": 0.0}, "--epochs 0, expected more than 0"),
        ({"exits": "1,x"}, "--exits 1,x: expected depths in layers"),
    ],
)
def test_options_that_cannot_be(base: Path, catalog: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        trained(base, catalog, tmp_path / "out", **changes)
    assert message in str(refused.value) and not list(tmp_path.iterdir())


def same(one: Path, other: Path) -> bool:
    there, here = load_file(one), load_file(other)
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)


@pytest.mark.slow
def test_half_written_state_is_passed_over(base: Path, catalog: Path, tmp_path: Path) -> None:
    out = trained(base, catalog, tmp_path / "out", steps=4, save_every=2)
    (tmp_path / "out.training" / "checkpoint-4" / "trainer_state.json").unlink()
    lines: list[str] = []
    trained(base, catalog, out, lines.append, steps=4, save_every=2)
    assert any(line.startswith("goes on from") and line.endswith("checkpoint-2") for line in lines)


def test_other_settings_are_refused(base: Path, catalog: Path, tmp_path: Path) -> None:
    """Those that may change are not kept."""
    trained(base, catalog, tmp_path / "out", steps=1)
    kept = json.loads((tmp_path / "out.training" / "settings.json").read_text())
    assert kept["steps"] == 1 and not {"save_every", "validation_slates"} & kept.keys()
    with pytest.raises(InputError, match=r"begun there with --lora 0, now it is 4: delete the folder"):
        trained(base, catalog, tmp_path / "out", steps=1, lora=4)
    (tmp_path / "out.training" / "settings.json").write_text("[]")
    with pytest.raises(InputError, match=r"settings\.json: holds \[\], expected an object; delete the folder"):
        trained(base, catalog, tmp_path / "out", steps=1)


def test_vocabulary_that_is_not_the_model_s(catalog: Path, tmp_path: Path) -> None:
    tiny_model(vocab_size=90).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"its tokenizer has 95 tokens, .* has embeddings of 90"):
        trained(tmp_path / "small", catalog, tmp_path / "out", steps=1)


@pytest.mark.medium
@pytest.mark.parametrize("with_vectors", fast([WITH_VECTORS, WITH_ENCODED], WITH_VECTORS), ids=["gcn", "encoded"], indirect=True)
def test_what_was_trained_is_exported(base: Path, with_vectors: Path, tmp_path: Path) -> None:
    trained(base, with_vectors, tmp_path / "out", steps=3, lora=2, rate=1e-2)
    report = export_bundle(tmp_path / "out", with_vectors, tmp_path / "bundle", ExportOptions(golden_slates=2))
    assert report.exits == (1, 2, 4)


def test_default_exits_are_every_five_layers_and_the_last(tmp_path: Path) -> None:
    for depth, expected in ((4, [4]), (10, [5, 10]), (12, [5, 10, 12])):
        tiny_model(num_hidden_layers=depth).save_pretrained(tmp_path / str(depth))
        assert exit_depths(str(tmp_path / str(depth)), "") == expected


def test_batch_holds_each_row_s_prefix_candidates_and_labels(catalog: Path) -> None:
    data = packed_rows(Catalog.open(catalog), "train", 5)
    collate = Collator(data)
    made = collate([[0, 3]])
    assert collate.tokens == int((made["groups"] != PADDING).sum()) == data.lengths[[0, 3]].sum()
    ends = made["tokens"].flatten()[made["rows"]]
    at = 0
    for row, (tokens, groups) in zip((0, 3), zip(made["tokens"], made["groups"], strict=True), strict=True):
        prompt, liked = data.rows[row].prompt, data.rows[row].liked
        np.testing.assert_array_equal(tokens[groups == PREFIX], prompt.prefix)
        for n, candidate in enumerate(prompt.candidates):
            np.testing.assert_array_equal(tokens[groups == n], candidate)
            assert ends[at] == candidate[-1] and made["liked"][at] == liked[n]
            at += 1
    assert at == len(made["rows"])


def test_loss_is_the_mean_of_the_exits() -> None:
    logits, liked = torch.randn(3, 7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = np.mean([torch.nn.functional.cross_entropy(one, liked).item() for one in logits])
    assert joint_loss(logits, liked.float()).item() == pytest.approx(expected, abs=1e-6)
