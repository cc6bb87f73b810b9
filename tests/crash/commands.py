"""The commands that write, each on a few kilobytes that it can read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import rexit.exporter.engine.compile
import rexit.exporter.export
import rexit.exporter.index
import rexit.runtime
import rexit.upkeep.refresh
from builders.bundles.grown_catalog import write_grown
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT
from builders.data.indexed_catalog import write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from crash.points import Command
from rexit.doors.cli import main
from rexit.format.bundle import Bundle, Catalog, Manifest
from rexit.format.bundle.variant import Engine, engine_folders


def check_catalog(place: Path) -> None:
    assert Catalog.open(place / "catalog").edited() == []


def check_bundle(place: Path) -> None:
    for name in Manifest.read(place / "bundle").variants:
        opened = Bundle.open(place / "bundle", name)
        assert opened.edited() == []
        for folder in engine_folders(opened.folder):
            engine = Engine.read(folder)
            assert engine.edited(folder) == [] and engine.stale(opened.variant) is None
    rexit.runtime.verify(place / "bundle")


def _make_catalog(place: Path) -> None:
    write_indexed_catalog(place)
    # Another catalog than the one that is there.
    (place / "retriever.json").write_text('{"neighbours": 3, "dim": 8, "epochs": 1}')


def _index(place: Path) -> list[object]:
    files = (
        "--interactions",
        place / "interactions.csv",
        "--items",
        place / "items.csv",
        "--tokenizer",
        place / "tokenizer.json",
    )
    other = ("--template", place / "prompt.toml", "--retriever-config", place / "retriever.json")
    return ["index", *files, *other, "--out", place / "catalog"]


def _make_checkpoint(place: Path) -> None:
    tiny_checkpoint(place / "checkpoint", catalog=Catalog.open(write_indexed_catalog(place)))
    _whole(_export(place, golden=1))


def _export(place: Path, golden: int = 2) -> list[object]:
    where = (place / "checkpoint", "--catalog", place / "catalog", "--out", place / "bundle")
    return ["export", *where, "--precision", "fp32,int8", "--golden", golden, "--accept-loss"]


def _whole(words: list[object]) -> NoReturn:
    """Runs a command and ends the process with its code."""
    sys.argv = ["rexit", *(str(word) for word in words)]
    main()


def _make_tensorrt(place: Path) -> None:
    write_ranked(place, variants=(TENSORRT,))


def _compile(place: Path) -> list[object]:
    return ["compile", place / "bundle", "--compute-capability", "8.6"]


def _make_calibrated(place: Path) -> None:
    write_ranked(place)
    _whole(_calibrate(place, max_drop=0.4))


def _calibrate(place: Path, max_drop: float = 0.45) -> list[object]:
    few = ("--max-drop", max_drop, "--confidence", 0.6, "--metric", "ndcg@5", "--slate", 10)
    return ["calibrate", place / "bundle", "--catalog", place / "catalog", *few]


def _make_newer(place: Path) -> None:
    write_ranked(place)
    write_grown(place / "catalog", place / "newer")


def _refresh(place: Path) -> list[object]:
    return ["refresh", place / "bundle", "--catalog", place / "newer"]


COMMANDS = (
    Command("index", _make_catalog, _index, "catalog", (), check_catalog),
    Command("export", _make_checkpoint, _export, "bundle", (), check_bundle),
    Command("compile", _make_tensorrt, _compile, "bundle", (), check_bundle),
    Command("calibrate", _make_calibrated, _calibrate, "bundle", ("traces.safetensors",), check_bundle),
    Command("refresh", _make_newer, _refresh, "bundle", (), check_bundle),
)
