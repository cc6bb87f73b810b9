"""Plants defects, one at a time, and shows which test finds each: whether the suite still catches what it should.

    python tools/mutants.py                        # every defect of tools/mutants.toml
    python tools/mutants.py --only fold-in-weight  # one of them
    python tools/mutants.py --nearest              # by the nearest tests alone, minutes instead of hours

Of each defect:

1. It is written into the working tree, which has to have no other changes in that file. A C++ defect is built.
2. The nearest tests run up to the first failure. If they find nothing so does the rest of the suite, without the slow tests.
3. The file is restored, whatever happens.

In the end the C++ library is rebuilt as it was, and every test that found something has to pass without a defect. Where one
fails, or a defect LIVED because no test found it, the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rexit.errors import InputError
from rexit.scripts import script

ROOT = Path(__file__).resolve().parents[1]
DEFECTS = ROOT / "tools" / "mutants.toml"
OWN_TEST = "tests/tools/test_mutants.py"
"""Fails under every defect: it holds that none is planted."""
LIMIT_S = 3600
"""Nothing takes longer unless it hangs."""


@dataclass(frozen=True)
class Defect:
    """One change of one file: `old`, which stands there once, becomes `new`.

    tests: the nearest ones. A path under tests/ is pytest's; any other name is of a C++ test, as ctest and its target have it.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        return Path(self.file).suffix in (".cpp", ".hpp", ".h")

    @property
    def python_tests(self) -> list[str]:
        return [test for test in self.tests if test.startswith("tests/")]

    @property
    def cpp_tests(self) -> list[str]:
        return [test for test in self.tests if not test.startswith("tests/")]


@dataclass(frozen=True)
class Verdict:
    """test: the first that failed; None if all passed. seconds: until it failed, or until all had passed, without building."""

    defect: str
    file: str
    test: str | None
    seconds: float


def read_defects(path: Path = DEFECTS) -> list[Defect]:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["defect"]
    return [Defect(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def patched(defect: Defect, root: Path = ROOT) -> str:
    """The file's text with the defect. Raises InputError unless `old` stands exactly once in it."""
    text = (root / defect.file).read_text(encoding="utf-8")
    if (count := text.count(defect.old)) != 1:
        raise InputError(f"{defect.name}: its `old` text stands {count} times in {defect.file}, expected once")
    return text.replace(defect.old, defect.new)


@contextlib.contextmanager
def planted(defect: Defect, root: Path = ROOT) -> Iterator[None]:
    """The defect is in the working tree while the block runs. Raises InputError for a file with uncommitted changes."""
    path = root / defect.file
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", defect.file], cwd=root, capture_output=True, text=True, check=True
    )
    if status.stdout:
        raise InputError(f"{defect.file}: has uncommitted changes, expected none: commit or stash them")
    text = patched(defect, root)
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(text, encoding="utf-8")
        yield
    finally:
        path.write_bytes(before)
        if not defect.compiled:  # so that make remakes nothing; what was compiled has to be compiled again
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


class Suite:
    """Runs builds and tests in the working tree. build: the folder of make's BUILD. every: slow tests run, too."""

    def __init__(self, every: bool) -> None:
        self.build = os.environ.get("BUILD", "build")
        self._markers = ["-m", ""] if every else []
        self._labels = [] if every else ["-LE", "slow"]
        # A defect's bytecode would outlive it: it is told from the right one by the second of its time and by its size.
        self._environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "REXIT_TEST_BUILD": str((ROOT / self.build).resolve())}
        self._environment |= {"REXIT_TEST_SLOW": "1"} if every else {}

    def make(self, *targets: str) -> None:
        self._must("make", "-s", f"BUILD={self.build}", *targets)

    def make_tests(self, names: Sequence[str]) -> None:
        """Builds some C++ tests and what they are linked with."""
        self._must(self._tool("cmake"), "--build", f"{self.build}/cpp", "--target", *names)

    def pytest(self, *words: str) -> str | None:
        """The first test that fails; None if all pass. Raises InputError if they cannot be run."""
        options = ["-x", "--tb=no", "-rfE", "-p", "no:cacheprovider", f"--ignore={OWN_TEST}", *self._markers]
        code, text = self._run(sys.executable, "-m", "pytest", *options, *words)
        if code == 0:
            return None
        failure = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
        # Two processes that stop at the first failure end with 2, as does a file of tests that cannot be read, which is no test.
        if code not in (1, 2) or failure is None or "::" not in failure[1]:
            raise InputError(f"pytest {' '.join(words)}: exit code {code}: {_last_line(text)}")
        return failure[1]

    def ctest(self, names: Sequence[str] = ()) -> str | None:
        """The same of C++ tests, all by default."""
        chosen = ["-R", f"^({'|'.join(names)})$"] if names else []
        options = ["--no-tests=error", "--stop-on-failure", "--output-on-failure", *self._labels]
        code, text = self._run(self._tool("ctest"), "--test-dir", f"{self.build}/cpp", *options, *chosen)
        if code == 0:
            return None
        failure = re.search(r"^\s*\d+ - (\S+) \(", text, re.MULTILINE)
        if failure is None:
            raise InputError(f"ctest {' '.join(names)}: exit code {code}: {_last_line(text)}")
        part = re.search(r"\[  FAILED  \] ([^\s,]+)", text)
        return failure[1] + (f" {part[1]}" if part else "")

    def _tool(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _must(self, *command: str) -> None:
        code, text = self._run(*command)
        if code:
            raise InputError(f"{' '.join(command)}: exit code {code}: {_last_line(text)}")

    def _run(self, *command: str) -> tuple[int, str]:
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=self._environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{' '.join(command)}: no end after {LIMIT_S} s") from None
        return ended.returncode, ended.stdout


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


def judge(defect: Defect, suite: Suite, nearest: bool) -> Verdict:
    with planted(defect):
        test, seconds = _nearest(defect, suite)
        if test is None and not nearest:
            test, more = _rest(defect, suite)
            seconds += more
    return Verdict(defect.name, defect.file, test, seconds)


def _nearest(defect: Defect, suite: Suite) -> tuple[str | None, float]:
    if defect.compiled and defect.cpp_tests:
        suite.make_tests(defect.cpp_tests)
    begin = time.monotonic()
    test = suite.ctest(defect.cpp_tests) if defect.cpp_tests else None
    seconds = time.monotonic() - begin
    if test is None and defect.python_tests:
        if defect.compiled:
            suite.make("setup")
        begin = time.monotonic()
        test = suite.pytest(*defect.python_tests)
        seconds += time.monotonic() - begin
    return test, seconds


def _rest(defect: Defect, suite: Suite) -> tuple[str | None, float]:
    if defect.compiled:
        suite.make(f"{suite.build}/cpp/.built", f"{suite.build}/example/.built")
    begin = time.monotonic()
    test = (suite.ctest() if defect.compiled else None) or suite.pytest("-n", "auto", "--dist", "loadscope")
    return test, time.monotonic() - begin


def failing_anyway(verdicts: Sequence[Verdict], suite: Suite) -> list[str]:
    """Of the tests that failed under a defect, the first that fails without one, in Python and in C++."""
    tests = dict.fromkeys(verdict.test for verdict in verdicts if verdict.test is not None)
    in_python = [test for test in tests if test.startswith("tests/")]
    in_cpp = list(dict.fromkeys(test.split()[0] for test in tests if not test.startswith("tests/")))
    if in_cpp:
        suite.make_tests([name for name in in_cpp if not name.startswith("write_")])
    failures = (suite.ctest(in_cpp) if in_cpp else None, suite.pytest(*in_python) if in_python else None)
    return [test for test in failures if test is not None]


def table(verdicts: Sequence[Verdict]) -> str:
    rows = [("defect", "file", "seconds", "found by")]
    rows += [(verdict.defect, verdict.file, f"{verdict.seconds:.0f}", verdict.test or "LIVED") for verdict in verdicts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _chosen(names: Sequence[str]) -> list[Defect]:
    defects = {defect.name: defect for defect in read_defects()}
    if unknown := [name for name in names if name not in defects]:
        raise InputError(f"--only {unknown[0]}: no such defect, expected one of: {', '.join(defects)}")
    return [defects[name] for name in names] if names else list(defects.values())


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this defect; may stand several times")
    parser.add_argument("--nearest", action="store_true", help="only the tests that tools/mutants.toml names beside the defect")
    parser.add_argument("--all", action="store_true", help="slow tests, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the file is restored
    defects, suite, verdicts = _chosen(args.only), Suite(args.all), []
    for defect in defects:
        patched(defect)  # before the first of many minutes
    try:
        for defect in defects:
            verdicts.append(judge(defect, suite, args.nearest))
            print(f"{defect.name}: {verdicts[-1].test or 'LIVED'} ({verdicts[-1].seconds:.0f} s)", file=sys.stderr, flush=True)
    finally:
        if any(defect.compiled for defect in defects):
            suite.make("setup", *([f"{suite.build}/cpp/.built"] if not args.nearest else []))
    broken = failing_anyway(verdicts, suite)
    print(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) if args.json else table(verdicts))
    for test in broken:
        print(f"{test}: fails without a defect, too", file=sys.stderr)
    if broken or any(verdict.test is None for verdict in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
