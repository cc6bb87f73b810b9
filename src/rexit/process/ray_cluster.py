"""A connection to a Ray cluster, with Ray's errors as rexit's."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import ray
import ray.data

from rexit.errors import BackendError, RexitError
from rexit.process import interrupts


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connects this process to the cluster of `$RAY_ADDRESS`, or to a new one on this machine, unless it is connected already.

    Raises:
        RexitError: The error of a worker.
        BackendError: Any other failure of Ray.
    """
    started = not ray.is_initialized()
    if started:
        with interrupts.handlers_restored():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # Ray's wrapper loses the cause between processes
        yield
    except ray.exceptions.RayError as exc:
        raise _cause(exc) from exc
    finally:
        if started:
            ray.shutdown()


def _cause(exc: BaseException) -> RexitError:
    """Returns the error that a worker raised, from inside Ray's wrappers."""
    inner: BaseException | None = exc
    while inner is not None:
        if isinstance(inner, RexitError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return BackendError(f"Ray: {str(exc).strip().splitlines()[-1]}")
