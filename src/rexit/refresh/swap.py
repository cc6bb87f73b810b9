"""Swaps the catalog of a bundle: there is always the old or the new one, never half of either.

1. The new catalog, its vectors and golden samples, and a manifest that names them are written to `.refresh.tmp` in the bundle,
   beside hard links to the variants: a bundle that can be opened and tried.
2. Its catalog folder, `catalog-DIGEST`, moves into the bundle, where nothing names it yet.
3. Its manifest replaces the bundle's, by one rename. That is the moment of the swap.
4. The replaced catalog stays until the next swap, since a process that is opening the bundle may have read the old manifest.
   Older catalogs are removed.

A process killed at any point leaves one of the two bundles, and perhaps a folder that no manifest names, which the next swap
removes. Files are flushed to the disk before 3, so the same is true of a power cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rexit import interrupts
from rexit.bundle.catalog import Catalog
from rexit.bundle.files import FileEntry, flush
from rexit.bundle.golden import Golden
from rexit.bundle.manifest import TOKENIZER, Manifest, RefreshedCatalog
from rexit.bundle.vectors import FILE as VECTORS_FILE
from rexit.bundle.vectors import Vectors
from rexit.bundle.writer import link_or_copy
from rexit.errors import InputError

_STAGE = ".refresh.tmp"  # a name that `sole_writer` cleans up after a killed process
_NAMED = 16  # digits of the digest in the folder's name


class Swap:
    """A staged bundle at `folder`: the bundle with the new catalog. It still needs golden samples."""

    def __init__(self, bundle: Path, manifest: Manifest, catalog: Catalog, vectors: Vectors | None) -> None:
        self._bundle = bundle
        self.folder = bundle / _STAGE
        self._name = f"catalog-{catalog.sha256[:_NAMED]}"
        self._new = self.folder / self._name
        self._new.mkdir(parents=True)
        for name in ("catalog.json", *catalog.files):
            shutil.copyfile(catalog.path / name, self._new / name)
        if vectors is not None:
            vectors.write(self._new / VECTORS_FILE)
        if TOKENIZER in manifest.files:
            link_or_copy(os.fspath(bundle / TOKENIZER), os.fspath(self.folder / TOKENIZER))
        shutil.copytree(bundle / "variants", self.folder / "variants", copy_function=link_or_copy, symlinks=True)
        assert manifest.exported_sha256 is not None  # there is a catalog
        self._active = RefreshedCatalog(self._name, manifest.exported_sha256)
        self.manifest = self._write(manifest)

    def add_golden(self, variant: str, golden: Golden) -> None:
        """Adds a variant's golden samples with the new catalog."""
        path = self.folder / self.manifest.golden_file(variant)
        path.parent.mkdir(exist_ok=True)
        golden.write(path)

    def commit(self) -> None:
        """Swaps. Raises OSError."""
        self._write(self.manifest)
        for path in [*self._new.rglob("*"), self._new, self.folder / "manifest.json"]:
            flush(path)
        place = self._bundle / self._name
        shutil.rmtree(place, ignore_errors=True)  # from a killed swap, or from an older catalog
        interrupts.check()
        before = Manifest.read(self._bundle)
        with interrupts.deferred():
            try:
                os.rename(self._new, place)
                flush(self._bundle)
                os.replace(self.folder / "manifest.json", self._bundle / "manifest.json")
            except OSError:
                shutil.rmtree(place, ignore_errors=True)
                raise
            flush(self._bundle)
            for other in (self._bundle / "catalog", *self._bundle.glob("catalog-*")):
                if other.name not in (self._name, before.catalog_folder):
                    shutil.rmtree(other, ignore_errors=True)
            if before.catalog is not None:
                (self._bundle / VECTORS_FILE).unlink(missing_ok=True)  # of the exported catalog

    def _write(self, before: Manifest) -> Manifest:
        """Writes and returns the manifest with all files that the new catalog's folder holds now."""
        others = {n: entry for n, entry in before.files.items() if n.startswith("variants/") or n == TOKENIZER}
        files = [path for path in self._new.rglob("*") if path.is_file()]
        new = {str(path.relative_to(self.folder)): FileEntry.of(path) for path in files}
        manifest = msgspec.structs.replace(before, files={**others, **new}, catalog=self._active)
        manifest.write(self.folder)
        return manifest


@contextlib.contextmanager
def staged(bundle: Path, manifest: Manifest, catalog: Catalog, vectors: Vectors | None) -> Iterator[Swap]:
    """Yields a swap. Unless it is committed, it vanishes when the block ends. Only for the bundle's `sole_writer`. Raises
    InputError if the bundle cannot be written."""
    try:
        yield Swap(bundle, manifest, catalog, vectors)
    except OSError as exc:
        raise InputError(f"{bundle}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        with interrupts.deferred():
            shutil.rmtree(bundle / _STAGE, ignore_errors=True)
