"""A bundle's folder, opened: its files as typed objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rexit.errors import BundleError, InputError
from rexit.format.bundle.catalog import Catalog
from rexit.format.bundle.files import check_hashes, check_sizes, digest
from rexit.format.bundle.golden import Golden
from rexit.format.bundle.manifest import Manifest
from rexit.format.bundle.policy import FILE as POLICY_FILE
from rexit.format.bundle.policy import Policy
from rexit.format.bundle.variant import Variant
from rexit.format.bundle.vectors import FILE as VECTORS_FILE
from rexit.format.bundle.vectors import Vectors


def check_is_bundle(folder: Path) -> None:
    """Raises BundleError for a folder without a manifest, and for a file."""
    if folder.is_file():
        raise BundleError(f"{folder}: is a file, expected a bundle's folder")
    if not (folder / "manifest.json").is_file():
        if (folder / "catalog.json").is_file():
            raise BundleError(f"{folder}: is a catalog, expected a bundle: `rexit export` makes one of it and a checkpoint")
        raise BundleError(f"{folder}: is not a bundle: it has no manifest.json")


def _default_variant(path: Path, manifest: Manifest) -> str:
    """The first variant with a policy, or else the first: what the runtime opens, too."""
    calibrated = (name for name in manifest.variants if (path / "variants" / name / POLICY_FILE).exists())
    return next(calibrated, manifest.variants[0])


@dataclass(frozen=True)
class Bundle:
    """A bundle folder with one of its variants selected."""

    path: Path
    manifest: Manifest
    variant: Variant

    @classmethod
    def open(cls, path: Path, variant: str | None = None) -> Bundle:
        """Opens a variant. Checks structure and sizes.

        Args:
            path: The bundle's folder.
            variant: Name of the variant; None: the first with a policy, or else the first.

        Raises:
            BundleError: The bundle is missing, damaged, or of another version.
            InputError: There is no such variant.
        """
        path = Path(path)
        if not path.exists():
            raise BundleError(f"{path}: no such bundle folder")
        check_is_bundle(path)
        manifest = Manifest.read(path)
        check_sizes(path, manifest.files)
        if not manifest.variants:
            raise BundleError(f"{path}/manifest.json: lists no variants")
        name = _default_variant(path, manifest) if variant is None else variant
        if name not in manifest.variants:
            raise InputError(f"{path}: no variant {name!r}, there are: {', '.join(manifest.variants)}")
        if f"variants/{name}/variant.json" not in manifest.files:
            raise BundleError(f"{path}/manifest.json: does not list variants/{name}/variant.json")
        folder = path / "variants" / name
        selected = Variant.read(folder)
        check_sizes(folder, selected.files)
        if selected.catalog_sha256 != manifest.exported_sha256:
            if manifest.tokens is not None:
                raise BundleError(f"{folder}: made for a catalog, the bundle has none")
            raise BundleError(f"{folder}: made for another catalog than the bundle's")
        if (manifest.vectors_file in manifest.files) != any("vectors" in segment.inputs for segment in selected.segments):
            raise BundleError(f"{folder}: its first segment and the bundle disagree on whether there is a {VECTORS_FILE}")
        return cls(path, manifest, selected)

    @property
    def folder(self) -> Path:
        """The selected variant's folder."""
        return self.path / "variants" / self.variant.name

    @property
    def exits(self) -> tuple[int, ...]:
        """Depths of the variant's exits in layers, 0 first with exit zero: the manifest's without those that it was exported
        without."""
        return (*((0,) if self.manifest.has_zero else ()), *(segment.layers[1] for segment in self.variant.segments))

    @property
    def variant_sha256(self) -> str:
        """Digest of the selected variant's variant.json."""
        return self.manifest.files[f"variants/{self.variant.name}/variant.json"].sha256

    @property
    def has_catalog(self) -> bool:
        """Whether requests may name users and items; else they are token ids."""
        return self.manifest.tokens is None

    @cached_property
    def catalog(self) -> Catalog:
        """The bundle's own copy of the active catalog, without splits. Raises BundleError; InputError if the bundle has none."""
        if not self.has_catalog:
            raise InputError(f"{self.path}: has no catalog: its requests are token ids, not ids of users and items")
        return Catalog.open(self.path / self.manifest.catalog_folder)

    @property
    def labels(self) -> Mapping[str, int]:
        """Token ids of the answers (`rexit.format.bundle.manifest`); a reranker that answers by one row may lack them.

        Raises BundleError."""
        tokens = self.manifest.tokens
        return self.catalog.labels if tokens is None else tokens.labels

    def vectors(self) -> Vectors | None:
        """Returns the vectors of prompts; None if prompts are text only. Raises BundleError."""
        if not self.has_catalog or (ids := self.catalog.vector_ids) is None:
            return None
        return Vectors.read(self.path / self.manifest.vectors_file, ids, self.manifest.model.hidden_size)

    def policy(self) -> Policy | None:
        """Returns the variant's policy; None before `rexit calibrate`. Raises BundleError, also for another variant's policy."""
        path = self.folder / POLICY_FILE
        if not path.exists():
            return None
        return Policy.read(path, len(self.exits), self.variant_sha256)

    @property
    def policy_sha256(self) -> str | None:
        """Digest of policy.json; None before `rexit calibrate`."""
        path = self.folder / POLICY_FILE
        return digest(path) if path.exists() else None

    def golden(self) -> Golden:
        """Returns the variant's golden samples with the active catalog. Raises BundleError."""
        return Golden.read(self.path / self.manifest.golden_file(self.variant.name), len(self.exits))

    def edited(self) -> list[str]:
        """Returns one line per file with another hash than recorded."""
        return [*check_hashes(self.path, self.manifest.files), *check_hashes(self.folder, self.variant.files)]
