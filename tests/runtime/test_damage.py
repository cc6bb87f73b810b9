"""Damaged bundles are refused, with a status and a message that names the thing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from builders.bundles.bundle import write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from damage.bundles import KINDS
from damage.table import LATE, RUNNING_ITEMS, RUNNING_USER
from rexit import runtime
from rexit.errors import RexitError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undamaged bundle of each kind."""
    return {kind: write_bundle(tmp_path_factory.mktemp(kind) / "bundle", options) for kind, (_, options) in KINDS.items()}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (cases, _) in KINDS.items() for name in cases])
def test_damage(kind: str, name: str, sound: dict[str, Path], tmp_path: Path) -> None:
    case, folder = KINDS[kind][0][name], tmp_path / "bundle"
    shutil.copytree(sound[kind], folder)
    case.damage(folder)
    status, message, opened = outcome(folder, LATE if case.found == "searching" else None)
    if case.found == "verifying":
        assert opened
        with pytest.raises(RexitError, match=re.escape(case.names)) as refused:
            runtime.verify(folder)
        assert refused.value.status == f"REXIT_{case.status}" and "\n" not in str(refused.value)
        return
    assert (status, case.names in message) == (f"REXIT_{case.status}", True), message
    assert opened == (case.found in ("running", "searching")) and "\n" not in message


def outcome(folder: Path, as_of: int | None) -> tuple[str, str, bool]:
    """How opening the bundle and running a slate ends: status, message, and whether it opened at all."""
    opened = False
    try:
        with runtime.open(folder) as session:
            opened = True
            session.score(USER_IDS[RUNNING_USER], [ITEM_IDS[row] for row in RUNNING_ITEMS], as_of=as_of)
    except RexitError as error:
        return error.status, str(error), opened
    return "REXIT_OK", "", opened
