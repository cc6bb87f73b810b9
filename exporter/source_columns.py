"""Checks that the user's files have every column that is needed, before any work."""

from __future__ import annotations

from pathlib import Path

from rexit.exporter.catalog import source_tables
from rexit.exporter.catalog.interactions import interaction_columns
from rexit.exporter.catalog.source_tables import Needs, column_option
from rexit.exporter.options import IndexOptions
from rexit.exporter.prompt.template import Template


def check_columns(options: IndexOptions, template: Template, interactions: Path, items: Path | None, users: Path | None) -> None:
    """Raises InputError, naming every column that is missing in any file.

    Args:
        options: names of the columns.
        template: prompts may place columns of items, users and interactions.
        interactions: the file of interactions.
        items, users: their files; None: there is none.
    """
    columns = options.columns
    files: dict[Path, Needs] = {interactions: interaction_columns(options, template.inputs, template.reads_scores)}
    if items is not None:
        files[items] = {columns.item: column_option("item")} | template.columns("item")
    if users is not None:
        files[users] = {columns.user: column_option("user")} | template.columns("user")
    source_tables.check_columns(files)
