"""Data in a folder, and the command run on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.data import ratings
from running.command import Ended, Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return ratings.write(tmp_path)


@pytest.fixture
def run(run: Run, data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command on `data`; `extra` options come last and win, `settings` are keys of --retriever-config."""
    config = tmp_path_factory.mktemp("config") / "retriever.json"

    def call(*extra: str, users: bool = True, **settings: object) -> Ended:
        config.write_text(json.dumps({"dim": 8, "epochs": 5, **settings}))
        options = ["--interactions", "ratings.csv", "--items", "items.csv", "--tokenizer", "tok", "--template", "prompt.toml"]
        options += ["--out", "catalog", "--retriever-config", str(config), *(["--users", "users.csv"] if users else []), *extra]
        monkeypatch.chdir(data)
        return run("index", *options)

    return call
