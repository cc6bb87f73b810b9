"""All damage to a bundle that a runtime meets on the CPU, found when the bundle is opened unless said."""

from __future__ import annotations

import shutil
from pathlib import Path

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import in_lists, make_catalog
from damage import contexts, files, graphs, lists, manifests, objectives, policies, programs, request_texts, tables, vectors
from damage.cases import Case, write_cases

CASES = {"sound": Case(lambda folder: None, "REXIT_OK", "", "running")}
for module in (files, manifests, policies, tables, programs, contexts, request_texts, graphs):
    CASES |= module.CASES
WITH_VECTORS = vectors.CASES
"""Damage to a bundle whose prompts have vectors."""
IN_LISTS = lists.CASES
"""And to one whose users are in lists."""
WITH_OBJECTIVES = objectives.CASES
"""And to one with several objectives."""


def write_bundles(place: Path) -> None:
    """A damaged bundle for each case."""
    plain = write_bundle(place / ".plain")
    write_cases(CASES, plain, place)
    shutil.rmtree(plain)
    for cases, options in (
        (WITH_VECTORS, BundleOptions(make_catalog(vectors=True))),
        (IN_LISTS, BundleOptions(in_lists(make_catalog()))),
        (WITH_OBJECTIVES, BundleOptions(objectives=objectives.OBJECTIVES)),
    ):
        write_cases(cases, write_bundle(plain, options), place)
        shutil.rmtree(plain)
