"""Exports of the exporter tests' checkpoint and catalog to `tmp_path/bundle`. tests/exporter/conftest.py imports the fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from running.command import Ended, Run

if TYPE_CHECKING:
    from rexit.exporter.export import ExportReport

Export = Callable[..., "ExportReport"]
"""Exports, given options of `ExportOptions` and, if it is another, the bundle: the fixture `export`."""


@pytest.fixture
def export(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> Export:
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    def call(out: Path = tmp_path / "bundle", **options: Any) -> ExportReport:
        return export_bundle(checkpoint_folder, catalog_folder, out, ExportOptions(**options))

    return call


@pytest.fixture
def run_export(run: Run, checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> Run:
    """The command; its words come last and win."""

    def call(*words: object) -> Ended:
        return run("export", checkpoint_folder, "--catalog", catalog_folder, "--out", tmp_path / "bundle", *words)

    return call
