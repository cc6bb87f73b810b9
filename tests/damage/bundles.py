"""All damage to a bundle that a runtime meets on the CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import in_lists, make_catalog
from builders.bundles.zero import with_vectors
from damage import catalogs, graphs, manifests, policies, tables, zero
from damage.table import MANIFEST, Cases, Row, table, write_cases

CASES: Cases = table(Row("sound", "OK", "", MANIFEST, {}, "running"))
for module in (manifests, policies, tables, catalogs, graphs):
    CASES |= module.CASES

KINDS: dict[str, tuple[Cases, BundleOptions]] = {
    "plain": (CASES, BundleOptions()),
    "lists": (tables.IN_LISTS, BundleOptions(in_lists(make_catalog()))),
    "zero": (zero.CASES, BundleOptions(with_vectors(make_catalog()))),
}
"""By kind of bundle: the cases, and what it is made with."""


def write_bundles(place: Path) -> None:
    """A damaged bundle for each case."""
    for cases, options in KINDS.values():
        sound = write_bundle(place / ".sound", options)
        write_cases(cases, sound, place)
        shutil.rmtree(sound)
