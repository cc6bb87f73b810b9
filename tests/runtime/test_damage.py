"""Damaged bundles are refused, with a status and a message that names the thing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, in_lists, make_catalog
from damage.bundles import CASES, IN_LISTS, WITH_OBJECTIVES, WITH_VECTORS
from damage.cases import LATE, RUNNING_ITEMS, RUNNING_USER, Case
from damage.objectives import OBJECTIVES
from rexit import runtime
from rexit.errors import RexitError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.fixture(scope="module")
def with_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("vectors") / "bundle", BundleOptions(make_catalog(vectors=True)))


@pytest.fixture(scope="module")
def with_lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("lists") / "bundle", BundleOptions(in_lists(make_catalog())))


@pytest.fixture(scope="module")
def with_objectives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("objectives") / "bundle", BundleOptions(objectives=OBJECTIVES))


@pytest.mark.parametrize("name", CASES)
def test_damage(name: str, sound: Path, tmp_path: Path) -> None:
    assert_ends_as_expected(CASES[name], sound, tmp_path)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_damage_with_vectors(name: str, with_vectors: Path, tmp_path: Path) -> None:
    assert_ends_as_expected(WITH_VECTORS[name], with_vectors, tmp_path)


@pytest.mark.parametrize("name", IN_LISTS)
def test_damage_to_lists(name: str, with_lists: Path, tmp_path: Path) -> None:
    assert_ends_as_expected(IN_LISTS[name], with_lists, tmp_path)


@pytest.mark.parametrize("name", WITH_OBJECTIVES)
def test_damage_to_objectives(name: str, with_objectives: Path, tmp_path: Path) -> None:
    assert_ends_as_expected(WITH_OBJECTIVES[name], with_objectives, tmp_path)


def assert_ends_as_expected(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(sound, folder)
    case.damage(folder)
    status, message, opened = outcome(folder, LATE if case.found == "searching" else None)
    if case.found == "verifying":
        assert opened
        with pytest.raises(RexitError, match=re.escape(case.names)) as refused:
            runtime.verify(folder)
        assert refused.value.status == case.status and "\n" not in str(refused.value)
        return
    assert (status, case.names in message) == (case.status, True), message
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
