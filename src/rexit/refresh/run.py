"""The steps of a refresh, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rexit.bundle import Bundle, Catalog, Ids, Manifest, Vectors, sole_writer
from rexit.bundle.bundle import check_is_bundle
from rexit.bundle.catalog import ZERO
from rexit.errors import BundleError, InputError, PolicyError
from rexit.progress import Progress, silent
from rexit.refresh.fit import check_fit
from rexit.refresh.swap import staged
from rexit.refresh.variant import RefreshedVariant, RefreshOptions, Trial


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did.

    Attributes:
        bundle: The bundle's folder.
        catalog_sha256: Digest of the active catalog.
        swapped: False if that catalog was active already.
        users: Users in the active catalog, and how many of them the former catalog did not have.
        items: The same for items.
        variants: One entry per variant; none if nothing was swapped.
    """

    bundle: str
    catalog_sha256: str
    swapped: bool
    users: tuple[int, int]
    items: tuple[int, int]
    variants: tuple[RefreshedVariant, ...]


def refresh(bundle: Path, catalog: Path, options: RefreshOptions | None = None, *, progress: Progress = silent) -> RefreshReport:
    """Swaps the catalog of a bundle.

    Args:
        bundle: The bundle's folder. It may be in use.
        catalog: A folder of `rexit index`, with its splits.
        options: What to do beside the swap.
        progress: Reports golden slates, and slates that a policy is tried on.

    Raises:
        InputError: The catalog does not fit, or another process is writing to the bundle.
        PolicyError: A policy loses more with the new catalog than it may, or was fitted to another exit zero.
        BundleError: The bundle or the catalog is damaged, or a variant does not compute here what it computed at export.
        BackendError: A variant cannot run on this machine.
    """
    options = options or RefreshOptions()
    new = Catalog.open(Path(catalog))
    if edited := new.edited():
        raise BundleError(edited[0])
    check_is_bundle(bundle)
    with sole_writer(bundle):
        manifest = Manifest.read(bundle)
        if manifest.tokens is not None:
            raise InputError(f"{bundle}: has no catalog to refresh: its requests are token ids")
        variants = [Bundle.open(bundle, name) for name in manifest.variants]
        if not variants:
            raise BundleError(f"{bundle}/manifest.json: lists no variants")
        old = variants[0].catalog
        users, items = _counts(old.users, new.users), _counts(old.items, new.items)
        if new.sha256 == manifest.catalog_sha256:
            return RefreshReport(str(bundle), new.sha256, False, users, items, ())
        check_fit(bundle, manifest, [opened.variant for opened in variants], new)
        if new.files.get(ZERO) != old.files.get(ZERO) and not options.keep_policy:
            for opened in variants:
                if opened.policy_sha256 is not None:
                    raise PolicyError(
                        f"{new.path}: {ZERO} is another than that of {bundle}, which {opened.variant.name}'s policy was fitted "
                        "to: make the catalog by `rexit index --from`; nothing was swapped, --keep-policy swaps, then run "
                        "`rexit calibrate`"
                    )
        vectors = _vectors(bundle, manifest, new, options.checkpoint)
        refreshed = []
        with staged(bundle, manifest, new, vectors) as swap:
            trial = Trial(old, new, options, progress)
            for opened in variants:
                golden, report = trial.run(opened, swap.folder)
                swap.add_golden(opened.variant.name, golden)
                refreshed.append(report)
            swap.commit()
    return RefreshReport(str(bundle), new.sha256, True, users, items, tuple(refreshed))


def _counts(old: Ids, new: Ids) -> tuple[int, int]:
    """How many ids the new catalog has, and how many of them the old one does not have."""
    return len(new), int((old.find(new.take(np.arange(len(new)))) < 0).sum())


def _vectors(bundle: Path, manifest: Manifest, catalog: Catalog, checkpoint: str | None) -> Vectors | None:
    """Makes the vectors of all items of a catalog, for the model in the bundle. Raises CheckpointError or InputError."""
    if catalog.vector_ids is None:
        return None
    if checkpoint is None:
        raise InputError(
            f"{bundle}: its prompts have vectors, which only the projectors of its checkpoint can make for new items: give "
            "--checkpoint; nothing was swapped"
        )
    from rexit.exporter import preflight
    from rexit.exporter.checkpoints.checkpoint import load_checkpoint
    from rexit.exporter.model import rotation
    from rexit.exporter.model.vectors import Sources

    model = manifest.model
    loaded = load_checkpoint(checkpoint, manifest.depths, model.head, catalog.labels)
    if loaded.sha256() != model.checkpoint_sha256:
        raise InputError(
            f"{checkpoint}: is not the checkpoint that {bundle} was exported from: "
            "its projectors would make other vectors; nothing was swapped"
        )
    preflight.check_vectors(loaded, catalog)
    assert loaded.projectors is not None
    rotation_matrix = None if rotation.obstacle(loaded.decoder) else rotation.orthogonal(loaded.decoder.hidden_size)
    return Sources(catalog).vectors(loaded.projectors, loaded.model.get_input_embeddings(), rotation_matrix)
