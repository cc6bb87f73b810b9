"""`rexit train`: a training that was stopped ends as one that was not, and `rexit export` takes what it made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from builders.data.indexed_catalog import WITH_ENCODED, WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_model
from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.export import export_bundle
from rexit.exporter.model.checkpoint import HEADS, PROJECTORS
from rexit.exporter.model.packed import PADDING, PREFIX
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, TrainOptions
from rexit.exporter.training.labels import softened_labels
from rexit.exporter.training.learner import Collator, Learner, joint_loss
from rexit.exporter.training.run import train_model
from rexit.exporter.training.starting_model import exit_depths, make_model
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


def trained(base: Path, catalog: Path, out: Path, lines: list[str] | None = None, **changes: Any) -> Path:
    options = TrainOptions(**{"exits": "1,2,4", "batch_tokens": 400, "slate": 5, **changes})
    report = train_model(base, catalog, out, options, say=[].append if lines is None else lines.append)
    assert report and report.exits == (1, 2, 4) and len(report.auc) == len(report.user_auc) == 3
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2, "precision": "float32"},
        pytest.param({"lora": 2}, marks=pytest.mark.slow),
        pytest.param({"freeze_embeddings": True, "distill": 0.5, "schedule": "linear"}, marks=pytest.mark.slow),
    ],
    ids=["full", "lora", "frozen"],
)
def test_stopped_and_continued_is_as_never_stopped(
    base: Path, with_vectors: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    # More than one pass over the data; without a warm-up, so that the one step before the stop changes the weights.
    steps = {"steps": 14, "rate": 1e-3, "warmup": 0.0, **options}
    whole = trained(base, with_vectors, tmp_path / "whole", **steps)
    parts = trained(base, with_vectors, tmp_path / "parts", **steps, max_minutes=1e-9)
    name = "model.safetensors"
    assert not same(parts / name, whole / name)
    assert [path.name for path in (tmp_path / "parts.training").glob("checkpoint-*")] == ["checkpoint-1"]
    trained(base, with_vectors, tmp_path / "parts", **steps, save_every=3)
    assert all(same(parts / name, whole / name) for name in (name, HEADS, PROJECTORS))
    assert not same(base / name, whole / name)


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
    batch = Collator(data, np.concatenate([row.liked for row in data.rows]).astype(np.float32))([[0, 1]])
    Learner(model, data, 0.0)(**batch)["loss"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_additions_to_a_base_that_stays_are_refused(base: Path, catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--lora 4 with --rate 0, which trains no additions: leave one of them out$"):
        trained(base, catalog, tmp_path / "out", lora=4, rate=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": -1}, "--lora -1, expected a rank of at least 1, or 0"),
        ({"save_adapter": True}, "--save-adapter without --lora"),
        ({"slate": 0}, "--slate 0, expected at least 1"),
        ({"steps": -1}, "--steps -1, expected at least 0"),
        ({"rate": -1.0}, "--rate -1, expected at least 0"),
        ({"epochs": 0.0}, "--epochs 0, expected more than 0"),
        ({"warmup": 2.0}, "--warmup 2, expected a share from 0 to 1"),
        ({"teacher_weight": 0.0}, "--teacher-weight 0, expected more than 0 and at most 1"),
        ({"teacher_weight": 1.5}, "--teacher-weight 1.5, expected more than 0 and at most 1"),
        ({"schedule": "step"}, "--schedule step, expected one of cosine, linear"),
        ({"precision": "int8"}, "--precision int8, expected one of auto, bfloat16, float32"),
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
    trained(base, catalog, out, lines, steps=4, save_every=2)
    assert any(line.startswith("goes on from") and line.endswith("checkpoint-2") for line in lines)


def test_other_settings_are_refused(base: Path, catalog: Path, tmp_path: Path) -> None:
    trained(base, catalog, tmp_path / "out", steps=1)
    with pytest.raises(InputError, match=r"begun there with --lora 0, now it is 4: delete the folder"):
        trained(base, catalog, tmp_path / "out", steps=1, lora=4)


def test_vocabulary_that_is_not_the_model_s(catalog: Path, tmp_path: Path) -> None:
    tiny_model(vocab_size=90).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"its tokenizer has 95 tokens, .* has embeddings of 90"):
        trained(tmp_path / "small", catalog, tmp_path / "out", steps=1)


@pytest.mark.parametrize("with_vectors", fast([WITH_VECTORS, WITH_ENCODED], WITH_VECTORS), ids=["gcn", "encoded"], indirect=True)
@pytest.mark.parametrize("kind", fast(["merged", "adapter"], "adapter"))
def test_what_was_trained_is_exported(base: Path, with_vectors: Path, tmp_path: Path, kind: str) -> None:
    trained(base, with_vectors, tmp_path / "out", steps=3, lora=2, rate=1e-2, save_adapter=kind == "adapter")
    assert (tmp_path / "out" / "adapter_config.json").exists() == (kind == "adapter")
    report = export_bundle(tmp_path / "out", with_vectors, tmp_path / "bundle", ExportOptions(golden_slates=2))
    assert report.exits == (1, 2, 4)


def test_default_exits_are_every_five_layers_and_the_last(tmp_path: Path) -> None:
    for depth, expected in ((4, [4]), (10, [5, 10]), (12, [5, 10, 12])):
        tiny_model(num_hidden_layers=depth).save_pretrained(tmp_path / str(depth))
        assert exit_depths(str(tmp_path / str(depth)), "") == expected


def test_batch_holds_each_row_s_prefix_candidates_and_labels(catalog: Path) -> None:
    data = packed_rows(Catalog.open(catalog), "train", 5)
    collate = Collator(data, np.concatenate([row.liked for row in data.rows]).astype(np.float32))
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
    assert at == len(made["rows"]) == collate.labels


def test_loss_is_the_mean_of_the_exits() -> None:
    logits, liked = torch.randn(3, 7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = np.mean([torch.nn.functional.cross_entropy(one, liked).item() for one in logits])
    assert joint_loss(logits, liked.float()).item() == pytest.approx(expected, abs=1e-6)


def test_loss_of_a_soft_label_is_that_of_both_labels_by_their_shares() -> None:
    logits = torch.randn(2, 1, 2)
    no, yes = (joint_loss(logits, torch.tensor([label])).item() for label in (0.0, 1.0))
    assert joint_loss(logits, torch.tensor([0.8])).item() == pytest.approx(0.2 * no + 0.8 * yes, abs=1e-6)


def test_loss_of_objectives_is_the_mean_over_known_labels() -> None:
    logits, unknown = torch.randn(3, 4, 4, requires_grad=True), float("nan")
    liked = torch.tensor([[1.0, 0.0], [unknown, 1.0], [0.0, unknown], [unknown, 1.0]])
    expected = np.mean(
        [
            -logits[e, m, 2 * k : 2 * k + 2].log_softmax(-1)[int(liked[m, k])].item()
            for e in range(3)
            for m in range(4)
            for k in range(2)
            if not liked[m, k].isnan()
        ]
    )
    loss = joint_loss(logits, liked)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    untaught = liked.isnan().repeat_interleave(2, 1)
    assert (gradient[:, untaught] == 0).all() and (gradient[:, ~untaught] != 0).all()
    nothing = joint_loss(logits, torch.full((4, 2), unknown))
    assert nothing.item() == 0 and (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_distillation_of_objectives_is_each_one_s_mean() -> None:
    logits, liked = torch.randn(3, 5, 4), torch.randint(0, 2, (5, 2)).float()
    added = joint_loss(logits, liked, 2.0) - joint_loss(logits, liked)
    parts = [logits[..., :2], logits[..., 2:]]
    alone = [joint_loss(part, liked[:, k], 2.0) - joint_loss(part, liked[:, k]) for k, part in enumerate(parts)]
    assert added.item() == pytest.approx(np.mean([value.item() for value in alone]), abs=1e-5)


def scored_pairs(catalog: Catalog) -> pl.DataFrame:
    """A teacher's file: a probability of each training pair, all of them different."""
    rows = catalog.split("train")
    probability = np.linspace(0.1, 0.9, len(rows))
    return pl.DataFrame(
        {"user_id": catalog.users.take(rows.users), "item_id": catalog.items.take(rows.items), "probability": probability}
    )


def test_labels_move_to_what_the_teacher_says_whatever_the_order_of_its_file(catalog: Path, tmp_path: Path) -> None:
    opened = Catalog.open(catalog)
    scored = scored_pairs(opened)
    scored.sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "teacher.parquet")
    labels = softened_labels(opened, tmp_path / "teacher.parquet", 0.25)
    expected = 0.75 * opened.split("train").liked + 0.25 * scored["probability"].to_numpy()
    np.testing.assert_allclose(labels, expected, atol=1e-6)


@pytest.mark.slow
def test_teacher_changes_what_is_learned(base: Path, catalog: Path, tmp_path: Path) -> None:
    scored_pairs(Catalog.open(catalog)).write_parquet(tmp_path / "teacher.parquet")
    alone = trained(base, catalog, tmp_path / "alone", steps=2)
    taught = trained(base, catalog, tmp_path / "taught", steps=2, teacher=str(tmp_path / "teacher.parquet"))
    a, b = (load_file(folder / HEADS) for folder in (alone, taught))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_wrong_teacher_is_refused_by_name(base: Path, catalog: Path, tmp_path: Path) -> None:
    scored = scored_pairs(Catalog.open(catalog))
    (tmp_path / "text.parquet").write_text("no")
    scored.drop("item_id").write_parquet(tmp_path / "columns.parquet")
    scored[1:].write_parquet(tmp_path / "rows.parquet")
    scored.with_columns(probability=pl.lit(1.5)).write_parquet(tmp_path / "odd.parquet")
    first = f"user {scored['user_id'][0]!r}, item {scored['item_id'][0]!r} has no probability from 0 to 1"
    for name, said in (
        ("none.parquet", "none.parquet: "),
        ("text.parquet", "expected a .parquet with user_id, item_id, probability"),
        ("columns.parquet", "expected a .parquet with user_id, item_id, probability"),
        ("rows.parquet", first),
        ("odd.parquet", first),
    ):
        with pytest.raises(InputError) as refused:
            trained(base, catalog, tmp_path / "out", steps=1, teacher=str(tmp_path / name))
        assert said in str(refused.value) and "\n" not in str(refused.value)


def test_training_does_not_go_on_with_another_teacher(base: Path, catalog: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.parquet"
    scored = scored_pairs(Catalog.open(catalog))
    scored.write_parquet(path)
    options = {"steps": 2, "save_every": 1, "teacher": str(path)}
    trained(base, catalog, tmp_path / "out", **options)
    scored.with_columns(probability=1 - scored["probability"]).write_parquet(path)
    with pytest.raises(InputError, match="a training was begun there with --teacher"):
        trained(base, catalog, tmp_path / "out", **options)


def test_distillation_pulls_earlier_exits_to_the_last_alone() -> None:
    liked = torch.tensor([0.0, 1.0, 1.0])
    alike = torch.randn(1, 3, 2).repeat(3, 1, 1)
    assert joint_loss(alike, liked, 5.0).item() == pytest.approx(joint_loss(alike, liked).item(), abs=1e-6)

    logits = torch.randn(3, 3, 2, requires_grad=True)
    added = joint_loss(logits, liked, 2.0) - joint_loss(logits, liked)
    p, q = (part.softmax(-1).log() for part in (logits[-1], logits[:-1]))
    expected = 2.0 * (p.exp() * (p - q)).sum(-1).mean()
    assert added.item() == pytest.approx(expected.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(added, logits)
    assert gradient[-1].abs().max() < 1e-6 < gradient[:-1].abs().max()


def test_settings_that_may_change_are_not_kept(base: Path, catalog: Path, tmp_path: Path) -> None:
    trained(base, catalog, tmp_path / "out", steps=1)
    kept = json.loads((tmp_path / "out.training" / "settings.json").read_text())
    assert kept["steps"] == 1 and not {"max_minutes", "save_every", "validation_slates"} & kept.keys()
