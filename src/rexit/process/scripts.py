"""Errors of programs outside the command line: those of examples/ and benchmarks/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec

from rexit.errors import RexitError

P = ParamSpec("P")


def script(main: Callable[P, None]) -> Callable[P, None]:
    """Decorates a program's `main`, which then ends with one line and exit code 1 for a user's mistake or an unreadable file."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except RexitError as exc:
            _end(str(exc))
        except OSError as exc:
            _end(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))

    return run


def _end(line: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).stem}: {line}")
