"""Plants the defects of tools/mutants, one at a time, and shows which of the nearest tests finds each.

    python tools/mutants.py                            # all of them
    python tools/mutants.py snapshot-knows-its-part    # one of them

These defects were hard to find; tools/mutate.sh makes small mechanical changes to one module.

A patch begins with what the defect does, then `Tests:`, the tests that should find it: a path under tests/ is for pytest, any
other name is a C++ test of ctest. C++ is built before its tests, and again without the defect. A defect that no test finds LIVED,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rexit.errors import InputError, script

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "tools" / "mutants"
BUILD = os.environ.get("BUILD", "build")


@dataclass(frozen=True)
class Defect:
    """A patch of one file. tests: the nearest ones."""

    path: Path
    file: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def compiled(self) -> bool:
        return Path(self.file).suffix in (".cpp", ".hpp", ".h")

    @property
    def python_tests(self) -> list[str]:
        return [test for test in self.tests if test.startswith("tests/")]

    @property
    def cpp_tests(self) -> list[str]:
        return [test for test in self.tests if not test.startswith("tests/")]


def read_defects(folder: Path = PATCHES) -> list[Defect]:
    return [_read(path) for path in sorted(folder.glob("*.patch"))]


def _read(path: Path) -> Defect:
    match = re.search(r"^Tests: (.+)\n--- a/(.+)\n", path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise InputError(f"{path}: has no line of tests before its patch, expected `Tests: tests/...`")
    return Defect(path, match[2], tuple(match[1].split()))


@contextlib.contextmanager
def planted(defect: Defect, root: Path = ROOT) -> Iterator[None]:
    """Keeps the defect in the working tree during the block. Raises InputError if its file has changes, or other code."""
    if _run("git", "status", "--porcelain", "--", defect.file, root=root).stdout:
        raise InputError(f"{defect.file}: has uncommitted changes, expected none: commit them")
    path = root / defect.file
    before, times = path.read_bytes(), path.stat()
    try:
        apply(defect, root)
        yield
    finally:
        path.write_bytes(before)
        if not defect.compiled:  # so that make remakes nothing; C++ has to be compiled again
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def apply(defect: Defect, root: Path = ROOT, *options: str) -> None:
    """Raises InputError if the code has changed: plant the same kind of defect in what replaced it."""
    applied = _run("git", "apply", "-C1", *options, str(defect.path), root=root)
    if applied.returncode:
        raise InputError(f"{defect.name}: does not fit {defect.file}: {applied.stdout.splitlines()[0]}")


def find(defect: Defect) -> str | None:
    """Returns the first of the defect's tests that fails in the working tree; None if all pass."""
    return (_ctest(defect) if defect.cpp_tests else None) or (_pytest(defect) if defect.python_tests else None)


def _ctest(defect: Defect) -> str | None:
    if defect.compiled:
        _must(_tool("cmake"), "--build", f"{BUILD}/cpp", "--target", *defect.cpp_tests)
    names = f"^({'|'.join(defect.cpp_tests)})$"
    ended = _run(_tool("ctest"), "--test-dir", f"{BUILD}/cpp", "--no-tests=error", "--output-on-failure", "-R", names)
    if ended.returncode == 0:
        return None
    failure = re.search(r"\[  FAILED  \] ([^\s,]+)", ended.stdout)
    return failure[1] if failure else f"{defect.cpp_tests[0]} ends with {ended.returncode}"


def _pytest(defect: Defect) -> str | None:
    if defect.compiled:
        _must("make", "-s", f"BUILD={BUILD}", f"{BUILD}/.installed")
    ended = _run(
        sys.executable, "-m", "pytest", "-x", "-m", "", "--tb=no", "-rfE", "-p", "no:cacheprovider", *defect.python_tests
    )
    if ended.returncode == 0:
        return None
    failure = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", ended.stdout, re.MULTILINE)
    if failure is None:
        raise InputError(f"pytest {' '.join(defect.python_tests)}: exit code {ended.returncode}: {ended.stdout[-300:]}")
    return failure[1]


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _must(*command: str) -> None:
    ended = _run(*command)
    if ended.returncode:
        raise InputError(f"{' '.join(command)}: exit code {ended.returncode}: {ended.stdout[-300:]}")


def _run(*command: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # A defect's bytecode would outlive it: Python compares sources by their size and by the second of their time.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "REXIT_TEST_BUILD": str((ROOT / BUILD).resolve())}
    return subprocess.run(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3600
    )


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these defects instead of all")
    names = parser.parse_args().names
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the file is restored
    defects = [defect for defect in read_defects() if not names or defect.name in names]
    if unknown := set(names) - {defect.name for defect in defects}:
        raise InputError(f"{min(unknown)}: no such defect in {PATCHES}")
    lived = 0
    try:
        for defect in defects:
            if failing := find(defect):
                raise InputError(f"{failing}: fails without a defect")
            with planted(defect):
                test = find(defect)
            lived += test is None
            print(f"{defect.name}: {test or 'LIVED'}", flush=True)
    finally:
        if any(defect.compiled for defect in defects):
            _must("make", "-s", f"BUILD={BUILD}", f"{BUILD}/.installed")
    if lived:
        sys.exit(1)


if __name__ == "__main__":
    main()
