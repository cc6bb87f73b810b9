"""tools/mutants.py plants what its patches say and leaves the file as it was."""

from __future__ import annotations

from pathlib import Path

from running.scripts import scripts_of

ROOT = Path(__file__).parents[2]
scripts = scripts_of("tools")


def test_every_patch_fits_the_code_and_names_its_tests() -> None:
    from mutants import apply, read_defects

    cpp_tests = {path.stem for path in (ROOT / "tests" / "cpp").rglob("*.c*")}
    for defect in read_defects():
        apply(defect, ROOT, "--check")
        assert defect.tests and all((ROOT / test).exists() for test in defect.python_tests), defect.name
        assert set(defect.cpp_tests) <= cpp_tests, defect.name
