"""A catalog is replaced whole or not at all. tests/crash stops `rexit index` at every file operation."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from rexit.exporter import index as index_module
from rexit.exporter import source_data as data_module
from rexit.exporter.catalog import catalog_files as folder_module
from rexit.format.bundle import Catalog, new_folder
from running.command import Run
from running.indexing import assert_nothing_written, edit

MODULES = {"assign": data_module, "similar_users": index_module, "write_json": folder_module}
"""A step of an index, and where it is called: while reading, when training has just ended, with all tables written."""


def test_an_older_catalog_is_replaced_only_by_a_whole_one(run: Run, data: Path) -> None:
    run()
    before = (data / "catalog" / "catalog.json").read_bytes()
    edit(data / "prompt.toml", "{item.year}", "{item.yaer}")
    assert run()[0] == 2
    assert (data / "catalog" / "catalog.json").read_bytes() == before
    edit(data / "prompt.toml", "{item.yaer}", "{item.year}")
    assert run(neighbours=2)[0] == 0
    assert Catalog.open(data / "catalog").user_table["similar"].shape[1] == 2
    assert not list(data.glob(".*"))


@pytest.mark.parametrize("step", MODULES)
def test_a_signal_whose_exception_is_dropped(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Training, after the first of the steps, has progress to tell and ends there. After the others nothing has, and the folder
    does not take its place."""
    dropped, after_training, real = [], [], getattr(MODULES[step], step)
    monkeypatch.setattr(sys, "unraisablehook", lambda event: dropped.append(event))

    class Signals:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def interrupted(*words: Any, **keywords: Any) -> Any:
        Signals()
        return real(*words, **keywords)

    if step == "assign":
        monkeypatch.setattr(index_module, "similar_users", lambda *_: after_training.append(step))
    monkeypatch.setattr(MODULES[step], step, interrupted)
    code, out, err = run()
    assert len(dropped) == 1 and not after_training
    assert (code, out, err) == (143, "", "rexit: interrupted; nothing was left half-written\n")
    assert_nothing_written(data)


def test_two_commands_into_one_folder(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one ends before its work."""
    monkeypatch.setattr(data_module, "assign", lambda *_: pytest.fail("it read the files"))
    with new_folder(data / "catalog"):
        code, out, err = run()
    assert (code, out) == (2, "") and "catalog: another process" in err and err.count("\n") == 1
