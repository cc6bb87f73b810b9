"""The settings that must stay the same when a training resumes: `settings.json` beside its states."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rexit.errors import InputError
from rexit.exporter.options import TrainOptions

SETTINGS = "settings.json"
FREE = ("save_every", "validation_slates")
"""Options that may change when a training resumes."""


def fixed_settings(options: TrainOptions) -> dict[str, Any]:
    """Returns all other options, by name."""
    values = dataclasses.asdict(options).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values if name not in FREE}


def check_same(work: Path, settings: Mapping[str, Any]) -> None:
    """Raises InputError if the training in `work` was begun with other settings."""
    path = work / SETTINGS
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as exc:
        raise InputError(f"{path}: not valid JSON: {exc}; delete the folder to begin anew") from exc
    if not isinstance(before, dict):
        raise InputError(f"{path}: holds {json.dumps(before)[:40]}, expected an object; delete the folder to begin anew")
    for name, value in settings.items():
        if before.get(name) != value:
            option = name if name in ("model", "catalog") else "--" + name.replace("_", "-")
            raise InputError(
                f"{work}: a training was begun there with {option} {before.get(name)!r}, now it is {value!r}: "
                "delete the folder to begin anew"
            )
