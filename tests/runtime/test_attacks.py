"""Damaged bundles are refused, with a status and a message that names the thing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tiny_bundle
from attacks import ATTACKS
from rexit import runtime
from rexit.errors import RexitError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, sound: Path, tmp_path: Path) -> None:
    damage, status, text = ATTACKS[name]
    folder = tmp_path / "bundle"
    shutil.copytree(sound, folder)
    damage(folder)
    with pytest.raises(RexitError) as caught:
        runtime.open(folder)
    assert (caught.value.status, text in str(caught.value)) == (status, True), str(caught.value)
    assert "\n" not in str(caught.value)


def test_sound_bundle_opens(sound: Path) -> None:
    runtime.open(sound).close()
