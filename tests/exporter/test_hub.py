"""A model by its id on the Hugging Face Hub. The Hub is a local cache in its layout, or a double; no network."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from typer.testing import CliRunner

from builders.models.checkpoints import LABELS, tiny_model
from builders.models.gguf_file import write_gguf
from rexit.doors.cli import app
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint

ID, COMMIT = "someone/small-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def download(folder: Path, cache: Path) -> None:
    """Puts a folder into the cache as the Hub's client stores what it has downloaded: links to blobs."""
    place = cache / f"models--{ID.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for part in (snapshot, place / "refs", place / "blobs"):
        part.mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        shutil.copyfile(path, place / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")


def test_folder_gguf_and_id_are_one_model(cache: Path, tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "folder")
    download(tmp_path / "folder", cache)
    places = (tmp_path / "folder", ID, write_gguf(model, tmp_path / "tiny.gguf"))
    folder, hub, gguf = (load_checkpoint(place, [2, 4], "shared", LABELS) for place in places)
    assert folder.sha256() == hub.sha256()
    expected = folder.model.state_dict()
    for other in (hub, gguf):
        weights = other.model.state_dict()
        assert weights.keys() == expected.keys() and all(weights[name].equal(expected[name]) for name in expected)


REFUSALS = [
    (RepositoryNotFoundError("404 Client Error. (Request ID: x)\n\nNot Found", response=MagicMock()), "no model of this id"),
    (GatedRepoError("403 Client Error.\n\nCannot access gated repo", response=MagicMock()), "asks you to accept its conditions"),
    (LocalEntryNotFoundError("An error happened"), "the Hub cannot be reached, and no earlier download"),
    (OSError("no space left\non device"), "the Hub did not provide it: no space left$"),
]


@pytest.mark.parametrize(("raised", "message"), REFUSALS, ids=[type(raised).__name__ for raised, _ in REFUSALS])
def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=f"{ID}: no such folder.* {message}") as caught:
        load_checkpoint(ID, [2, 4], "shared", LABELS)
    assert "\n" not in str(caught.value)


def test_unreachable_hub(cache: Path, catalog_folder: Path, tmp_path: Path) -> None:
    """As the Hub's own client tells it."""
    arguments = ["export", ID, "--catalog", str(catalog_folder), "--out", str(tmp_path / "bundle")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0 and isinstance(done.exception, CheckpointError)
    assert str(done.exception).startswith(f"{ID}: no such folder; the Hub cannot be reached, and no earlier download")
    assert not (tmp_path / "bundle").exists()
