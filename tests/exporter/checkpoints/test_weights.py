"""Decoders from elsewhere: GGUF files and PEFT adapters equal the model they were made from; damage is named in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from builders.bundles.bundle_files import edit_json
from builders.data.indexed_catalog import LABELS as CATALOG_LABELS
from builders.models.checkpoints import LABELS, tiny_heads, tiny_model
from builders.models.gguf_file import write_gguf
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rexit.exporter.checkpoints.weights import ADAPTER
from rexit.exporter.export import export_bundle
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Catalog
from running.missing_packages import run_without

PREFIX, CANDIDATES = np.arange(10, 20), [np.arange(30, 34), np.arange(40, 43)]
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def log_odds(checkpoint: Checkpoint) -> np.ndarray:
    return MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval().reference(PREFIX, CANDIDATES)


def adapted(folder: Path, base: str, catalog: Catalog | None = None) -> np.ndarray:
    """Writes an adapter with heads to `folder`, of random additions to a model like that in `base`; what it answers, unmerged."""
    model = tiny_model(tie_word_embeddings=False)
    decoder = Decoder.of(model)
    heads = tiny_heads(decoder, 3)
    kinds = ["input_layernorm", "post_attention_layernorm"]
    around = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", modules_to_save=kinds, task_type="CAUSAL_LM"))
    for name, parameter in around.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
            assert "lora_" in name or "layernorm" in name
    around.peft_config["default"].base_model_name_or_path = base
    labels, traits = (LABELS, None) if catalog is None else (catalog.labels, catalog.traits)
    save_checkpoint(folder, around, (1, 2, 4), heads, labels, traits)
    return MultiExitModel(decoder, heads, (1, 2, 4)).eval().reference(PREFIX, CANDIDATES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "whole"
    tiny_model(tie_word_embeddings=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_model(tie_word_embeddings=False), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    adapted(tmp_path / "adapter", str(base))
    return tmp_path / "adapter"


def test_gguf_is_the_model_it_was_written_from(base: Path, gguf_file: Path) -> None:
    choices: Any = {"exits": [2, 4], "head": "shared", "labels": LABELS}
    there, here = load_checkpoint(gguf_file, **choices), load_checkpoint(base, **choices)
    np.testing.assert_allclose(log_odds(there), log_odds(here), atol=1e-5)
    assert not hasattr(there.model.config, "quantization_config")


def test_gguf_is_known_by_its_bytes(gguf_file: Path, tmp_path: Path) -> None:
    other = tiny_model(tie_word_embeddings=False)
    other.lm_head.weight.data[0, 0] += 1
    choices: Any = {"exits": [2, 4], "head": "shared", "labels": LABELS}
    changed = load_checkpoint(write_gguf(other, tmp_path / "tiny.gguf"), **choices)
    assert load_checkpoint(gguf_file, **choices).sha256() != changed.sha256()


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_adapter_is_merged_into_its_base(base: Path, gguf_file: Path, tmp_path: Path, kind: str) -> None:
    expected = adapted(tmp_path / "adapter", str({"folder": base, "gguf": gguf_file}[kind]))
    checkpoint = load_checkpoint(tmp_path / "adapter")
    np.testing.assert_allclose(log_odds(checkpoint), expected, atol=1e-4)
    assert not any("lora_" in name for name, _ in checkpoint.model.named_parameters())


def test_identity_is_the_adapter_s_and_its_base_s(base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "whole")
    adapted(tmp_path / "adapter", str(copy))
    digests = [load_checkpoint(tmp_path / "adapter").sha256()]
    for path, name in ((tmp_path / "adapter" / ADAPTER_WEIGHTS, None), (copy / "model.safetensors", "lm_head.weight")):
        tensors = load_file(path)
        tensors[name or next(iter(tensors))] += 1
        save_file(tensors, path, {"format": "pt"})
        digests.append(load_checkpoint(tmp_path / "adapter").sha256())
    assert len(set(digests)) == 3


def _truncated(folder: Path) -> None:
    path = folder / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:500])


def _tensor_missing(folder: Path) -> None:
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"]
    save_file(tensors, folder / ADAPTER_WEIGHTS)


def _based_on(base: str | None) -> Any:
    return lambda folder: edit_json(folder / ADAPTER, base_model_name_or_path=base)


MISSING = "the model that this adapter adds to is missing: /nowhere/model"
DAMAGE: list[tuple[Any, str]] = [
    (_based_on(None), "`base_model_name_or_path` is None, expected a folder, Hub id or GGUF file"),
    (_based_on("/nowhere/model"), f"{MISSING}: no such folder, and not the id of a model"),
    (_based_on("/nowhere/model.gguf"), f"{MISSING}.gguf: no such file"),
    (lambda f: edit_json(f / ADAPTER, base_model_name_or_path=str(f)), "is an adapter itself, expected a whole model"),
    (_truncated, "does not fit .* or is truncated"),
    (lambda f: (f / ADAPTER_WEIGHTS).unlink(), "does not fit .* or is truncated"),
    (_tensor_missing, "missing adapter keys"),
    (lambda f: edit_json(f / ADAPTER, r=5), "does not fit .* or is truncated"),
    (lambda f: (f / ADAPTER).write_text("{"), "not valid JSON"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_to_an_adapter_is_one_line(adapter: Path, damage: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    damage(adapter)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_gguf_is_one_line(gguf_file: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "tiny.gguf").write_bytes(gguf_file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf: ") as caught:
        load_checkpoint(tmp_path / "tiny.gguf", [2, 4], "shared", LABELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["peft", "gguf"])
@pytest.mark.slow
def test_missing_package_is_one_line(package: str, adapter: Path, gguf_file: Path, catalog_folder: Path, tmp_path: Path) -> None:
    choices = {"peft": [adapter], "gguf": [gguf_file, "--exits", "2,4", "--head", "shared"]}[package]
    edit_json(adapter / ADAPTER, r=3)
    edit_json(adapter / "exits.json", labels=CATALOG_LABELS)
    done = run_without([package], "export", *choices, "--catalog", catalog_folder, "--out", tmp_path / "bundle")
    assert done.returncode != 0 and not (tmp_path / "bundle").exists()
    assert f"this needs the Python package `{package}`" in done.stderr and "rexit[train]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.medium
def test_an_adapter_is_exported(base: Path, catalog_folder: Path, tmp_path: Path) -> None:
    adapted(tmp_path / "adapter", str(base), Catalog.open(catalog_folder))
    options = ExportOptions(exits=(1,), golden_slates=2)
    assert export_bundle(tmp_path / "adapter", catalog_folder, tmp_path / "bundle", options).exits == (1,)
