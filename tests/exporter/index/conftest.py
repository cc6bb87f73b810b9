"""Data in a folder, and the command run on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from builders.data import ratings
from rexit.cli import main
from running.indexing import Outcome, Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return ratings.write(tmp_path)


@pytest.fixture
def run(
    data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command on `data`; `extra` options come last and win, `settings` are keys of --retriever-config. Gives exit code,
    stdout and stderr."""
    config = tmp_path_factory.mktemp("config") / "retriever.json"

    def call(*extra: str, users: bool = True, **settings: object) -> Outcome:
        config.write_text(json.dumps({"dim": 8, "epochs": 5, **settings}))
        options = ["--interactions", "ratings.csv", "--items", "items.csv", "--tokenizer", "tok", "--template", "prompt.toml"]
        options += ["--out", "catalog", "--retriever-config", str(config), *(["--users", "users.csv"] if users else []), *extra]
        monkeypatch.chdir(data)
        monkeypatch.setattr(sys, "argv", ["rexit", "index", *options])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call
