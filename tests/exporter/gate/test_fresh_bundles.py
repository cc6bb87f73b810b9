"""What an export promises of its own bundle: `rexit verify` passes where it was made, in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.data.token_slates import write_slates
from builders.models.checkpoints import VOCAB, tiny_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Bundle
from rexit.upkeep.checks import check_bundle

LAYERS, CANDIDATES, SLATES = 8, 30, 60


@pytest.mark.medium
def test_a_deep_model_in_low_precision_is_verified(tmp_path: Path) -> None:
    """Golden log-odds are of the functions that define the kernels. In eight layers of int8 the kernels are farther from them
    than four times what the ways of running the functions differ by."""
    rng = np.random.default_rng(0)
    slates = write_slates(
        tmp_path / "slates.jsonl",
        (
            {
                "group": f"query {n}",
                "split": ("train", "validation", "test")[n % 3],
                "prefix": rng.integers(10, VOCAB, rng.integers(20, 90)).tolist(),
                "candidates": [rng.integers(10, VOCAB, rng.integers(3, 20)).tolist() for _ in range(CANDIDATES)],
                "label": (rng.random(CANDIDATES) < 0.3).tolist(),
            }
            for n in range(SLATES)
        ),
    )
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", (1, 4, LAYERS), num_hidden_layers=LAYERS, **shape)
    options = ExportOptions(precisions=["fp32", "int8", "bf16"], golden_slates=8, accept_loss=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", options, slates=slates)
    failures = [line for check in check_bundle(tmp_path / "bundle") for line in check.failures]
    assert failures == []
    tolerances = {name: Bundle.open(tmp_path / "bundle", name).variant.parity["tolerance"] for name in ("cpu-fp32", "cpu-int8")}
    assert tolerances["cpu-fp32"] <= 4e-4 and tolerances["cpu-int8"] <= 1
