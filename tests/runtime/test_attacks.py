"""Damaged bundles are refused, with a status and a message that names the thing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tiny_bundle
from attacks import ATTACKS, RUNNING_ITEMS, RUNNING_USER
from rexit import runtime
from rexit.errors import RexitError
from tiny_bundle import ITEM_IDS, USER_IDS


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, sound: Path, tmp_path: Path) -> None:
    damage, status, text, found = ATTACKS[name]
    folder = tmp_path / "bundle"
    shutil.copytree(sound, folder)
    damage(folder)
    seen, message, opened = outcome(folder)
    assert (seen, text in message) == (status, True), message
    assert opened == (found == "running") and "\n" not in message


def outcome(folder: Path) -> tuple[str, str, bool]:
    """How opening the bundle and running a slate ends: status, message, and whether it opened at all."""
    opened = False
    try:
        with runtime.open(folder) as session:
            opened = True
            session.score(USER_IDS[RUNNING_USER], [ITEM_IDS[row] for row in RUNNING_ITEMS])
    except RexitError as error:
        return error.status, str(error), opened
    return "REXIT_OK", "", opened


def test_sound_bundle_runs(sound: Path) -> None:
    assert outcome(sound) == ("REXIT_OK", "", True)
