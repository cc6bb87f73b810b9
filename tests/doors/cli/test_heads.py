"""`rexit heads` and `rexit train` from the command line: a table or JSON, and one line for what cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders.data.indexed_catalog import WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_model
from rexit.data.baselines import LIGHTGCN
from running.command import Run, assert_one_line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `catalog`."""
    place = tmp_path_factory.mktemp("heads")
    write_indexed_catalog(place, 60, taste=True)
    tiny_model().save_pretrained(place / "model")
    return place


def test_products_of_a_command_run_in_one_thread() -> None:
    """Else small ones wait for each other's threads wherever the cores have other work."""
    script = """
from rexit.doors.cli import _run
def show():
    import numpy, scipy.linalg
    from threadpoolctl import threadpool_info
    print({pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"})
_run(show)
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "{1}\n", done.stderr


@pytest.mark.slow
def test_heads_writes_a_checkpoint(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("--catalog", data / "catalog", "--out", tmp_path / "out", "--keep-last", "--exits", "1,2,4")
    ended = run("heads", data / "model", *words)
    assert ended.code == 0, ended.err
    assert "own answer" in ended.out and "exits 1,2,4, the last with the own answer of the model" in ended.out
    report = run("heads", data / "model", *words, "--json").json
    assert report["exits"] == [1, 2, 4] and report["own_is_last"] and len(report["layers"]) == 4


@pytest.mark.medium
def test_train_writes_a_checkpoint(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("--catalog", data / "catalog", "--out", tmp_path / "out", "--steps", 2, "--batch-tokens", 400)
    ended = run("train", data / "model", *words, "--exits", "2,4")
    assert ended.code == 0, ended.err
    assert (
        "2 layers" in ended.out
        and "user AUC" in ended.out
        and LIGHTGCN in ended.out
        and (tmp_path / "out" / "exits.json").is_file()
    )


def test_mistakes_are_one_line(run: Run, data: Path, tmp_path: Path) -> None:
    vectors = write_indexed_catalog(tmp_path / "vectors", template=WITH_VECTORS)
    out = ("--out", tmp_path / "out")
    for words, code, line in (
        (("heads", data / "model", "--catalog", vectors, *out), 2, "train it with `rexit train`"),
        (("heads", data / "model", "--catalog", data / "catalog", *out, "--exits", "9"), 2, "beyond the model's 4 layers"),
        (("heads", tmp_path / "none", "--catalog", data / "catalog", *out), 3, "none: no such folder"),
        (("heads", data / "model", "--catalog", tmp_path / "none", *out), 4, "no such catalog folder"),
        (("train", data / "model", "--catalog", data / "catalog", *out, "--exits", "9"), 2, "beyond the model's 4 layers"),
        (("train", data / "model", "--catalog", data / "catalog", *out, "--lora", -1), 2, "--lora -1, expected a rank"),
    ):
        assert_one_line(run(*words), code, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors"]
