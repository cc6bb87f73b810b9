"""Reads JSON files that other projects wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rexit.errors import CheckpointError
from rexit.exporter.libraries import first_line


def read_config(path: Path) -> Any:
    """The value of a JSON file. Raises CheckpointError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path}: not valid JSON: {first_line(exc)}") from exc


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty if there is no file, or it holds something else. Raises CheckpointError."""
    value = read_config(path) if path.is_file() else None
    return value if isinstance(value, dict) else {}
