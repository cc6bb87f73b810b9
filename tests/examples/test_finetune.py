"""examples/finetune: a training that was stopped ends as one that was not, and `rexit export` takes what it made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from builders.data.indexed_catalog import WITH_ENCODED, WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_model
from rexit.bundle import Catalog
from rexit.exporter.export import export_bundle
from rexit.exporter.model.checkpoint import HEADS, PROJECTORS
from rexit.exporter.model.packed import PADDING, PREFIX
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions
from running.fast import fast
from running.scripts import scripts_of

scripts = scripts_of("examples/finetune")


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


def trained(monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, out: Path, *more: object) -> Path:
    import train

    words = ["--catalog", catalog, "--init", base, "--out", out, "--exits", "1,2,4", "--batch-tokens", 400, "--slate", 5, *more]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    train.main()
    return out


@pytest.mark.parametrize(
    "options",
    [
        ("--accumulate", 2, "--precision", "float32"),
        ("--lora", 2),
        ("--freeze-embeddings", "--distill", 0.5, "--schedule", "linear"),
    ],
    ids=["full", "lora", "frozen"],
)
def test_stopped_and_continued_is_as_never_stopped(
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    with_vectors: Path,
    tmp_path: Path,
    options: tuple[object, ...],
) -> None:
    # More than one pass over the data; without a warm-up, so that the one step before the stop changes the weights.
    steps = ("--steps", 14, "--rate", 1e-3, "--warmup", 0, *options)
    whole = trained(monkeypatch, base, with_vectors, tmp_path / "whole", *steps)
    parts = trained(monkeypatch, base, with_vectors, tmp_path / "parts", *steps, "--max-minutes", 1e-9)
    name = "model.safetensors"
    assert not same(parts / name, whole / name)
    assert [path.name for path in (tmp_path / "parts.training").glob("checkpoint-*")] == ["checkpoint-1"]
    trained(monkeypatch, base, with_vectors, tmp_path / "parts", *steps, "--save-every", 3)
    assert all(same(parts / name, whole / name) for name in (name, HEADS, PROJECTORS))
    assert not same(base / name, whole / name)


def test_rate_of_0_leaves_the_base_as_it_is(
    monkeypatch: pytest.MonkeyPatch, base: Path, with_vectors: Path, tmp_path: Path
) -> None:
    one, more = (
        trained(monkeypatch, base, with_vectors, tmp_path / str(steps), "--steps", steps, "--rate", 0) for steps in (1, 4)
    )
    name = "model.safetensors"
    before, after = load_file(base / name), load_file(more / name)
    assert before.keys() == after.keys() and all(torch.equal(before[key].float(), after[key]) for key in before)
    assert not same(one / HEADS, more / HEADS) and not same(one / PROJECTORS, more / PROJECTORS)


def test_additions_to_a_base_that_stays_are_refused(
    monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^train: --lora 4 with --rate 0, which trains no additions: leave one of them out$"):
        trained(monkeypatch, base, catalog, tmp_path / "out", "--lora", 4, "--rate", 0)


def same(one: Path, other: Path) -> bool:
    there, here = load_file(one), load_file(other)
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)


def test_half_written_state_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    catalog: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = trained(monkeypatch, base, catalog, tmp_path / "out", "--steps", 4, "--save-every", 2)
    (tmp_path / "out.training" / "checkpoint-4" / "trainer_state.json").unlink()
    capsys.readouterr()
    trained(monkeypatch, base, catalog, out, "--steps", 4, "--save-every", 2)
    assert "goes on from" in (said := capsys.readouterr().out) and "checkpoint-2\n" in said


def test_other_settings_are_refused(monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, tmp_path: Path) -> None:
    trained(monkeypatch, base, catalog, tmp_path / "out", "--steps", 1)
    with pytest.raises(SystemExit, match=r"begun there with --lora 0, now it is 4: delete the folder") as caught:
        trained(monkeypatch, base, catalog, tmp_path / "out", "--steps", 1, "--lora", 4)
    assert "\n" not in str(caught.value)


def test_vocabulary_that_is_not_the_model_s(monkeypatch: pytest.MonkeyPatch, catalog: Path, tmp_path: Path) -> None:
    tiny_model(vocab_size=90).save_pretrained(tmp_path / "small")
    with pytest.raises(SystemExit, match=r"its tokenizer has 95 tokens, .* has embeddings of 90"):
        trained(monkeypatch, tmp_path / "small", catalog, tmp_path / "out", "--steps", 1)


@pytest.mark.parametrize("with_vectors", fast([WITH_VECTORS, WITH_ENCODED], WITH_VECTORS), ids=["gcn", "encoded"], indirect=True)
@pytest.mark.parametrize("kind", fast(["merged", "adapter"], "adapter"))
def test_what_was_trained_is_exported(
    monkeypatch: pytest.MonkeyPatch, base: Path, with_vectors: Path, tmp_path: Path, kind: str
) -> None:
    more = ("--save-adapter",) if kind == "adapter" else ()
    trained(monkeypatch, base, with_vectors, tmp_path / "out", "--steps", 3, "--lora", 2, "--rate", 1e-2, *more)
    assert (tmp_path / "out" / "adapter_config.json").exists() == (kind == "adapter")
    report = export_bundle(tmp_path / "out", with_vectors, tmp_path / "bundle", ExportOptions(golden_slates=2))
    assert report.exits == (1, 2, 4)


def test_default_exits_are_every_five_layers_and_the_last(tmp_path: Path) -> None:
    from settings import Settings
    from starting_model import chosen_exits

    for depth, expected in ((4, [4]), (10, [5, 10]), (12, [5, 10, 12])):
        tiny_model(num_hidden_layers=depth).save_pretrained(tmp_path / str(depth))
        assert chosen_exits(Settings(init=str(tmp_path / str(depth)))) == expected


def test_batch_holds_each_row_s_prefix_candidates_and_labels(catalog: Path) -> None:
    from learner import Collator

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
    from learner import joint_loss

    logits, liked = torch.randn(3, 7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = np.mean([torch.nn.functional.cross_entropy(one, liked).item() for one in logits])
    assert joint_loss(logits, liked.float()).item() == pytest.approx(expected, abs=1e-6)


def test_loss_of_a_soft_label_is_that_of_both_labels_by_their_shares() -> None:
    from learner import joint_loss

    logits = torch.randn(2, 1, 2)
    no, yes = (joint_loss(logits, torch.tensor([label])).item() for label in (0.0, 1.0))
    assert joint_loss(logits, torch.tensor([0.8])).item() == pytest.approx(0.2 * no + 0.8 * yes, abs=1e-6)


def scored_pairs(catalog: Catalog) -> pl.DataFrame:
    """A teacher's file: a probability of each training pair, all of them different."""
    rows = catalog.split("train")
    probability = np.linspace(0.1, 0.9, len(rows))
    return pl.DataFrame(
        {"user_id": catalog.users.take(rows.users), "item_id": catalog.items.take(rows.items), "probability": probability}
    )


def test_labels_move_to_what_the_teacher_says_whatever_the_order_of_its_file(catalog: Path, tmp_path: Path) -> None:
    from labels import softened

    opened = Catalog.open(catalog)
    scored = scored_pairs(opened)
    scored.sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "teacher.parquet")
    labels = softened(opened, tmp_path / "teacher.parquet", 0.25)
    expected = 0.75 * opened.split("train").liked + 0.25 * scored["probability"].to_numpy()
    np.testing.assert_allclose(labels, expected, atol=1e-6)


def test_teacher_changes_what_is_learned(monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, tmp_path: Path) -> None:
    scored_pairs(Catalog.open(catalog)).write_parquet(tmp_path / "teacher.parquet")
    alone = trained(monkeypatch, base, catalog, tmp_path / "alone", "--steps", 2)
    taught = trained(monkeypatch, base, catalog, tmp_path / "taught", "--steps", 2, "--teacher", tmp_path / "teacher.parquet")
    a, b = (load_file(folder / HEADS) for folder in (alone, taught))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_wrong_teacher_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, tmp_path: Path) -> None:
    scored = scored_pairs(Catalog.open(catalog))
    (tmp_path / "text.parquet").write_text("no")
    scored.drop("item").write_parquet(tmp_path / "columns.parquet")
    scored[1:].write_parquet(tmp_path / "rows.parquet")
    scored.with_columns(probability=pl.lit(1.5)).write_parquet(tmp_path / "odd.parquet")
    first = f"user {scored['user'][0]!r}, item {scored['item'][0]!r} has no probability from 0 to 1"
    for name, said in (
        ("none.parquet", "none.parquet: "),
        ("text.parquet", "expected a .parquet with user_id, item_id, probability"),
        ("columns.parquet", "expected a .parquet with user_id, item_id, probability"),
        ("rows.parquet", first),
        ("odd.parquet", first),
    ):
        with pytest.raises(SystemExit) as refused:
            trained(monkeypatch, base, catalog, tmp_path / "out", "--steps", 1, "--teacher", tmp_path / name)
        assert said in str(refused.value) and "\n" not in str(refused.value)
    scored.write_parquet(tmp_path / "good.parquet")
    for weight in (0, 1.5):
        with pytest.raises(SystemExit, match="expected more than 0 and at most 1"):
            trained(
                monkeypatch,
                base,
                catalog,
                tmp_path / "out",
                *("--steps", 1, "--teacher", tmp_path / "good.parquet", "--teacher-weight", weight),
            )


def test_training_does_not_go_on_with_another_teacher(
    monkeypatch: pytest.MonkeyPatch, base: Path, catalog: Path, tmp_path: Path
) -> None:
    path = tmp_path / "teacher.parquet"
    scored = scored_pairs(Catalog.open(catalog))
    scored.write_parquet(path)
    options = "--steps", 2, "--save-every", 1, "--teacher", path
    trained(monkeypatch, base, catalog, tmp_path / "out", *options)
    scored.with_columns(probability=1 - scored["probability"]).write_parquet(path)
    with pytest.raises(SystemExit, match="a training was begun there with --teacher"):
        trained(monkeypatch, base, catalog, tmp_path / "out", *options)


def test_distillation_pulls_earlier_exits_to_the_last_alone() -> None:
    from learner import joint_loss

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


def test_settings_that_may_change_are_not_kept(monkeypatch, base: Path, catalog: Path, tmp_path: Path) -> None:
    trained(monkeypatch, base, catalog, tmp_path / "out", "--steps", 1)
    kept = json.loads((tmp_path / "out.training" / "settings.json").read_text())
    assert kept["steps"] == 1 and not {"max_minutes", "save_every", "validate_slates"} & kept.keys()
