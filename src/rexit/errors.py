"""What rexit raises.

    RexitError                 base: one line that names the thing, what was seen and what was expected
    ├── InputError             the caller's data or arguments: columns, ids, templates, options. Also a ValueError
    ├── CheckpointError        a model checkpoint that cannot be split or loaded
    ├── BundleError            a catalog or bundle on disk: missing, truncated, edited, or of another version or origin
    ├── ParityError            an exported graph that does not compute what the model computes
    │   └── QualityError       a variant of lower precision that loses more than its gate allows
    ├── BackendError           the inference backend: missing, too old, or failing
    ├── PolicyError            a policy that would lose more than it may
    ├── DeadlineError          a request whose deadline passed before any candidate had an answer. Also a TimeoutError
    └── CancelledError         a request that another thread cancelled

Foreign exceptions (torch, ONNX Runtime, polars) are turned into these at the seam where they arise, with `raise … from`.
The command line prints the line and exits with `exit_code`; it never shows a traceback for a RexitError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

__all__ = [
    "BackendError",
    "BundleError",
    "CancelledError",
    "CheckpointError",
    "DeadlineError",
    "InputError",
    "ParityError",
    "PolicyError",
    "QualityError",
    "RexitError",
    "script",
]


class RexitError(Exception):
    """Base class. `status`: the C API's name of the status if the error came from the runtime, else None."""

    exit_code = 1
    status: str | None = None


class InputError(RexitError, ValueError):
    """The caller's data or arguments are not what was expected."""

    exit_code = 2


class CheckpointError(RexitError):
    """A checkpoint that cannot be loaded or split."""

    exit_code = 3


class BundleError(RexitError):
    """A catalog or bundle on disk that is not what it promises to be."""

    exit_code = 4


class ParityError(RexitError):
    """An exported graph that does not compute what the model computes."""

    exit_code = 5


class QualityError(ParityError):
    """A variant of lower precision that loses more than its gate allows."""


class BackendError(RexitError):
    """The inference backend is missing, too old, or failed."""

    exit_code = 6


class DeadlineError(RexitError, TimeoutError):
    """The deadline passed before any candidate had reached its first exit."""

    exit_code = 7


class CancelledError(RexitError):
    """`Session.cancel` was called while the request was running."""


class PolicyError(RexitError):
    """A policy that loses more with a refreshed catalog than its limit, or has no limit."""

    exit_code = 9


P = ParamSpec("P")


def script(main: Callable[P, None]) -> Callable[P, None]:
    """Decorates the `main` of a program outside the command line, as in examples/ and benchmarks/: it ends with one line and exit
    code 1 for a user's mistake or an unreadable file."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except RexitError as exc:
            line = str(exc)
        except OSError as exc:
            line = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        else:
            return
        sys.exit(f"{Path(sys.argv[0]).stem}: {line}")

    return run
