"""tools/mutants.py plants what its patches say and leaves the file as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rexit.errors import InputError
from running.scripts import scripts_of

ROOT = Path(__file__).parents[2]
scripts = scripts_of("tools")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one file and a patch of it."""
    (tmp_path / "code.py").write_text("limit = 3\nleast = 3\n")
    hunk = "@@ -1,2 +1,2 @@\n-limit = 3\n+limit = 4\n least = 3\n"
    (tmp_path / "limit.patch").write_text(f"Too many.\nTests: tests/test_slates.py\n--- a/code.py\n+++ b/code.py\n{hunk}")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def defect_of(tree: Path) -> Any:
    from mutants import read_defects

    (defect,) = read_defects(tree)
    return defect


def test_every_patch_fits_the_code_and_names_its_tests() -> None:
    from mutants import apply, read_defects

    cpp_tests = {path.stem for path in (ROOT / "tests" / "cpp").rglob("*.c*")}
    for defect in read_defects():
        apply(defect, ROOT, "--check")
        assert defect.tests and all((ROOT / test).exists() for test in defect.python_tests), defect.name
        assert set(defect.cpp_tests) <= cpp_tests, defect.name


def test_a_file_is_restored_when_its_tests_fail(tree: Path) -> None:
    from mutants import planted

    path = tree / "code.py"
    before = path.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt), planted(defect_of(tree), tree):
        assert path.read_text() == "limit = 4\nleast = 3\n"
        raise KeyboardInterrupt
    assert path.read_text() == "limit = 3\nleast = 3\n" and path.stat().st_mtime_ns == before


def test_own_changes_are_not_overwritten(tree: Path) -> None:
    from mutants import planted

    (tree / "code.py").write_text("limit = 3\nmine = 1\n")
    with pytest.raises(InputError, match=r"code\.py: has uncommitted changes"), planted(defect_of(tree), tree):
        pass
    assert (tree / "code.py").read_text() == "limit = 3\nmine = 1\n"
