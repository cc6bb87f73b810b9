"""tools/mutants.py plants what it says, finds what fails, and leaves the file as it was."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rexit.errors import InputError
from running.scripts import scripts_of

ROOT = Path(__file__).parents[2]
scripts = scripts_of("tools")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one file."""
    (tmp_path / "code.py").write_text("limit = 3\nleast = 3\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def make_defect() -> Any:
    from mutants import Defect

    return Defect("limit", "code.py", "limit = 3", "limit = 4", "why", ("tests/test_slates.py",))


def test_every_defect_still_fits_the_code() -> None:
    """Otherwise nobody learns any more whether the suite finds it: plant the same kind of defect in what replaced the text."""
    from mutants import patched, read_defects

    defects = read_defects()
    assert len(defects) >= 20 and len({defect.file for defect in defects}) >= 20
    assert len({defect.name for defect in defects}) == len(defects)
    cpp_tests = {path.stem for path in (ROOT / "tests" / "cpp").rglob("*.c*")}
    for defect in defects:
        assert patched(defect) != (ROOT / defect.file).read_text(), defect.name
        assert defect.why and defect.tests and all((ROOT / test).exists() for test in defect.python_tests), defect.name
        assert set(defect.cpp_tests) <= cpp_tests, defect.name


def test_a_file_is_restored_when_its_tests_fail(tree: Path) -> None:
    from mutants import planted

    path = tree / "code.py"
    before = path.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt), planted(make_defect(), tree):
        assert path.read_text() == "limit = 4\nleast = 3\n"
        raise KeyboardInterrupt
    assert path.read_text() == "limit = 3\nleast = 3\n" and path.stat().st_mtime_ns == before


def test_own_changes_are_not_overwritten(tree: Path) -> None:
    from mutants import planted

    (tree / "code.py").write_text("limit = 3\nmine = 1\n")
    with pytest.raises(InputError, match=r"code\.py: has uncommitted changes"), planted(make_defect(), tree):
        pass
    assert (tree / "code.py").read_text() == "limit = 3\nmine = 1\n"


def test_a_text_that_is_not_unique_is_refused(tree: Path) -> None:
    from mutants import patched

    with pytest.raises(InputError, match=r"stands 2 times in code\.py, expected once"):
        patched(replace(make_defect(), old=" = 3"), tree)


def test_verdicts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest tests, then the rest; exit code 1 if a defect lives."""
    import mutants

    class Suite:
        build = "build"

        def __init__(self, every: bool) -> None:
            pass

        def pytest(self, *words: str) -> str | None:
            return "tests/test_slates.py::test_order" if words == ("tests/test_slates.py",) else None

    caught = make_defect()
    lived = replace(caught, name="lived", tests=("tests/test_ranking.py",))
    monkeypatch.setattr(mutants, "planted", lambda defect: contextlib.nullcontext())
    monkeypatch.setattr(mutants, "patched", lambda defect: "")
    monkeypatch.setattr(mutants, "Suite", Suite)
    monkeypatch.setattr(mutants, "read_defects", lambda: [caught, lived])
    monkeypatch.setattr("sys.argv", ["mutants.py", "--nearest"])
    with pytest.raises(SystemExit) as end:
        mutants.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert end.value.code == 1
    assert lines[1][-1] == "tests/test_slates.py::test_order" and lines[2][-1] == "LIVED"
