"""What a refreshed bundle needs of the checkpoint: its projectors' vectors of the new catalog's items."""

from __future__ import annotations

from pathlib import Path

from rexit.bundle import Catalog, Manifest, Vectors
from rexit.errors import InputError
from rexit.exporter import preflight
from rexit.exporter.model import rotation
from rexit.exporter.model.checkpoint import load_checkpoint
from rexit.exporter.model.vectors import Sources


def refreshed_vectors(checkpoint: str | Path, bundle: Path, manifest: Manifest, catalog: Catalog) -> Vectors:
    """The vectors of all of the catalog's items, for the model in the bundle. Raises CheckpointError, and InputError for a
    checkpoint that the bundle was not exported from: its projectors' vectors would stand where the model expects others."""
    model = manifest.model
    loaded = load_checkpoint(checkpoint, manifest.exits, model.head, catalog.info["labels"])
    if (seen := loaded.sha256()) != model.checkpoint_sha256:
        raise InputError(
            f"{checkpoint}: is checkpoint {seen[:12]}…, {bundle} was exported from {model.checkpoint_sha256[:12]}…: "
            "its projectors would make other vectors; nothing was swapped"
        )
    preflight.check_vectors(loaded, catalog)
    assert loaded.projectors is not None
    turn = None if rotation.obstacle(loaded.decoder) else rotation.orthogonal(loaded.decoder.hidden_size)
    return Sources(catalog).vectors(loaded.projectors, loaded.model.get_input_embeddings(), turn)
