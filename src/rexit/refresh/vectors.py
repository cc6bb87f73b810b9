"""The vectors of the new catalog's items, which only the checkpoint's projectors can make."""

from __future__ import annotations

from pathlib import Path

from rexit.bundle import Catalog, Manifest, Vectors
from rexit.errors import InputError
from rexit.exporter import preflight
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.model import rotation
from rexit.exporter.model.vectors import Sources


def refreshed_vectors(checkpoint: str | Path, bundle: Path, manifest: Manifest, catalog: Catalog) -> Vectors:
    """Makes the vectors of all items of a catalog, for the model in the bundle.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        InputError: The bundle was not exported from it. Its projectors would make other vectors than the model expects.
    """
    model = manifest.model
    loaded = load_checkpoint(checkpoint, manifest.exits, model.head, catalog.labels)
    if loaded.sha256() != model.checkpoint_sha256:
        raise InputError(
            f"{checkpoint}: is not the checkpoint that {bundle} was exported from: "
            "its projectors would make other vectors; nothing was swapped"
        )
    preflight.check_vectors(loaded, catalog)
    assert loaded.projectors is not None
    rotation_matrix = None if rotation.obstacle(loaded.decoder) else rotation.orthogonal(loaded.decoder.hidden_size)
    return Sources(catalog).vectors(loaded.projectors, loaded.model.get_input_embeddings(), rotation_matrix)
