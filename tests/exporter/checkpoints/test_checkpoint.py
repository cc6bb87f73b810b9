"""Loading checkpoints: what is saved comes back, and each kind of damage gets its one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from builders.bundles.bundle_files import edit_json
from builders.models.checkpoints import LABELS, tiny_checkpoint
from rexit.errors import CheckpointError, InputError, RexitError
from rexit.exporter.checkpoints.checkpoint import EXITS, HEADS, load_checkpoint, save_checkpoint
from rexit.exporter.heads.frozen_heads import load_base
from rexit.exporter.model.multi_exit import MultiExitModel


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "own")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_saved_comes_back(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.exits == (1, 2, 4) and checkpoint.labels == LABELS
    assert not checkpoint.model.training
    expected = load_file(saved / HEADS)
    assert {name: t.tolist() for name, t in checkpoint.heads.tensors().items()} == {n: t.tolist() for n, t in expected.items()}
    assert checkpoint.sha256() == load_checkpoint(saved, labels=LABELS).sha256()


def test_what_it_was_trained_on_comes_back(saved: Path, folder: Path) -> None:
    traits = {name: name[0] * 64 for name in ("tokenizer", "prompt", "space")}
    loaded = load_checkpoint(saved)
    assert loaded.catalog is None
    save_checkpoint(folder, loaded.model, loaded.exits, loaded.heads, loaded.labels, traits)
    assert load_checkpoint(folder).catalog == traits
    edit_json(folder / EXITS, catalog={"space": "0" * 64})
    with pytest.raises(CheckpointError, match=r"exits.json: catalog: `tokenizer` is missing"):
        load_checkpoint(folder)


def test_bias_is_optional(folder: Path) -> None:
    tensors = {name: t for name, t in load_file(folder / HEADS).items() if not name.endswith("bias")}
    save_file(tensors, folder / HEADS)
    assert load_checkpoint(folder).heads.projections[0].bias.abs().max() == 0


def test_shared_head_of_any_decoder(folder: Path) -> None:
    (folder / EXITS).unlink()
    (folder / HEADS).unlink()
    checkpoint = load_checkpoint(folder, exits=[2, 4], head="shared", labels=LABELS)
    row = checkpoint.model.lm_head.weight[LABELS["yes"]]
    assert all(torch.equal(p.weight[1], row) for p in checkpoint.heads.projections)


def test_digest_follows_the_weights(folder: Path) -> None:
    before = load_checkpoint(folder).sha256()
    edit_json(folder / EXITS, note="edited")
    assert load_checkpoint(folder).sha256() != before


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ([2, 1, 4], "must ascend"),
        ([2, 2, 4], "must ascend"),
        ([0, 4], "must ascend"),
        ([2, 4, 9], "exit 9 is beyond the model's 4 layers"),
    ],
)
def test_exits_that_do_not_fit(saved: Path, exits: list[int], message: str) -> None:
    for head in ("own", "shared"):
        with pytest.raises(InputError, match=message):
            load_checkpoint(saved, exits=exits, head=head)


def test_exits_without_their_heads(saved: Path) -> None:
    with pytest.raises(InputError, match=r"exit 3: .* has no head for it, only for 1, 2, 4"):
        load_checkpoint(saved, exits=[1, 3])


def test_its_own_exits_may_end_before_the_last_layer(folder: Path) -> None:
    whole = load_checkpoint(folder)
    edit_json(folder / EXITS, exits=[1, 2])
    with pytest.raises(CheckpointError, match=r"tensor 'exit\.2\..*' does not belong to any head"):
        load_checkpoint(folder)
    save_file(whole.heads.pick([0, 1]).tensors(), folder / HEADS)
    cut = load_checkpoint(folder)
    assert cut.exits == (1, 2) and len(cut.decoder.layers) == 2
    hidden = torch.randn(3, cut.decoder.hidden_size)
    assert torch.equal(cut.heads(hidden, 1), whole.heads(hidden, 1))


@pytest.mark.medium
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("exits", [[1, 2], [2], [1, 4]])
def test_some_of_the_exits(tmp_path: Path, family: str, exits: list[int]) -> None:
    """The model is cut at the last, and the exits that stay answer as before."""
    folder = tiny_checkpoint(tmp_path / "whole", family=family)
    whole, some = load_checkpoint(folder), load_checkpoint(folder, exits=exits)
    assert some.exits == tuple(exits) and len(some.decoder.layers) == exits[-1] == some.model.config.num_hidden_layers
    actual, expected = (
        MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits)
        .eval()
        .reference(range(3, 11), [range(11, 15), range(20, 22)])
        for checkpoint in (some, whole)
    )
    np.testing.assert_allclose(actual, expected[:, [whole.exits.index(depth) for depth in exits]], atol=1e-6)


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _change(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Adds or replaces a tensor of a file; None: removes it."""
    tensors = {**load_file(path), name: tensor}
    save_file({name: value for name, value in tensors.items() if value is not None}, path, {"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGE: list[tuple[Any, str]] = [
    (lambda f: (f / HEADS).unlink(), "no exit heads"),
    (lambda f: _truncate(f / "model.safetensors", 5000), "cannot be loaded"),
    (lambda f: _truncate(f / HEADS, 100), "truncated"),
    (lambda f: _change(f / "model.safetensors", UP, None), f"weights are missing, e.g. {UP}"),
    (
        lambda f: _change(f / HEADS, "exit.1.weight", torch.zeros(2, 32)),
        r"'exit.1.weight' has shape \[2, 32\], the model needs \[2, 64\]",
    ),
    (lambda f: _change(f / HEADS, "exit.1.weight", None), "'exit.1.weight' is missing"),
    (lambda f: _change(f / HEADS, "exit.3.weight", torch.zeros(2, 64)), "'exit.3.weight' does not belong to any head"),
    (lambda f: edit_json(f / EXITS, exits="2,4"), "exits: is '2,4', expected an array"),
    (lambda f: edit_json(f / EXITS, labels={"no": 1}), "`labels` is"),
    (lambda f: edit_json(f / EXITS, schema=7), "schema 7"),
    (lambda f: (f / EXITS).write_text("{"), "not valid JSON"),
    (lambda f: (f / "config.json").write_text("{}"), "config.json"),
    (shutil.rmtree, "no such folder, and not the id of a model on the Hub"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_damage_is_one_line(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "advice"),
    [
        ("deberta-v2", "deberta-v2 has attention by relative positions, which is not supported$"),
        ("t5", "t5 is an encoder with a decoder, expected one of both$"),
    ],
)
def test_other_attention_is_refused_by_name(tmp_path: Path, family: str, advice: str) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=advice):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=advice):
        load_base(tmp_path, LABELS)


def test_labels_of_another_catalog(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="trained on another"):
        load_checkpoint(saved, labels={"no": 1, "yes": 2})


def test_unknown_head(saved: Path) -> None:
    with pytest.raises(RexitError, match="expected one of: own, shared"):
        load_checkpoint(saved, head="mine")
