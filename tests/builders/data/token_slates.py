"""Files of slates for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rexit.data.slates import cut
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS


def write_slates(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes rows as JSON lines and returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def slates_of(catalog: Catalog) -> list[dict[str, Any]]:
    """The catalog's slates as rows of a file, with the token ids of their prompts, in the catalog's splits."""
    builder, rows = PromptBuilder(catalog), []
    for split in SPLITS:
        for slate in cut(catalog, split):
            prompt = builder.prompt(slate.user, slate.items, slate.as_of)
            rows.append(
                {
                    "group": f"{slate.user} in {split}",
                    "split": split,
                    "prefix": prompt.prefix.tolist(),
                    "candidates": [tokens.tolist() for tokens in prompt.candidates],
                    "label": slate.liked.tolist(),
                }
            )
    return rows
