"""All damage to a bundle that a runtime meets on the CPU, found when the bundle is opened unless said."""

from __future__ import annotations

import shutil
from pathlib import Path

from builders.bundle import write_bundle
from damage import files, graphs, manifests, policies, programs, tables
from damage.cases import Case, write_cases

CASES = {"sound": Case(lambda folder: None, "REXIT_OK", "", "running")}
for module in (files, manifests, policies, tables, programs, graphs):
    CASES |= module.CASES


def write_bundles(place: Path) -> None:
    """A damaged bundle for each case."""
    write_cases(CASES, write_bundle(place / ".plain"), place)
    shutil.rmtree(place / ".plain")
