"""examples/movielens/train.py: a small model is trained, with one thread."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from running.scripts import scripts_of

scripts = scripts_of("examples/movielens")


def test_a_small_model_is_trained_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On busy cores two threads that wait for each other are ten times as slow."""
    import train

    threads, forward = set(), train.forward

    def counted(*args: Any) -> Any:
        threads.add(torch.get_num_threads())
        return forward(*args)

    monkeypatch.setattr(train, "forward", counted)
    words = ["--catalog", write_indexed_catalog(tmp_path / "data"), "--out", tmp_path / "model", "--epochs", 0.1]
    words += ["--layers", 2, "--hidden", 64, "--exits", "1,2", "--validation-slates", 8]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train.main()
        assert threads == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert load_checkpoint(tmp_path / "model").exits == (1, 2)
