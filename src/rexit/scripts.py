"""For programs beside the command line, as those of examples/ and benchmarks/ are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec

from rexit.errors import RexitError

P = ParamSpec("P")


def script(main: Callable[P, None]) -> Callable[P, None]:
    """A program's `main` that ends in one line, and with exit code 1, for a user's mistake or a file that cannot be had."""

    @wraps(main)
    def run(*words: P.args, **more: P.kwargs) -> None:
        try:
            main(*words, **more)
        except RexitError as exc:
            _end(str(exc))
        except OSError as exc:
            _end(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))

    return run


def _end(line: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).stem}: {line}")
