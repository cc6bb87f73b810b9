"""The signals that end a command: Ctrl-C, SIGTERM and SIGHUP.

Their handler raises KeyboardInterrupt wherever the main thread is, so that half-written files are removed. The exception may get
lost: PyTorch's C++ turns it into a TypeError while it reads sizes, polars into a panic, and Python drops what `__del__` raises.
So the handler also records the signal:

1. `check` raises KeyboardInterrupt again. Progress calls it at every step, and a writer before it moves a new folder into place.
2. However the block of `interruptible` ends, it ends with the signal's exit code.

Inside `deferred` the handler only records: code that moves files into place or cleans up must not be cut short, nor a training's
step.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

INTERRUPTED, TERMINATED = 130, 143

_CODES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: TERMINATED}
_code: int | None = None


class _Deferred(threading.local):
    """How many blocks of `deferred` this thread is in. Handlers run in the main thread and read its value."""

    depth = 0


_deferred = _Deferred()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets a signal interrupt the block: SystemExit, 130 after Ctrl-C and 143 after the others. Main thread only."""
    global _code
    before: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    try:
        for number in _CODES:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # otherwise nohup or the caller handles it
                before[number] = handler
                signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        code, _code = _code, None
        if code is not None:
            raise SystemExit(code)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defers signals until the block has ended. The block must be short; blocks may be nested. Does nothing outside the main
    thread."""
    _deferred.depth += 1
    try:
        yield
    finally:
        _deferred.depth -= 1


def pending() -> bool:
    """Whether a signal has arrived."""
    return _code is not None


def check() -> None:
    """Raises KeyboardInterrupt after a signal."""
    if pending():
        raise KeyboardInterrupt


def _interrupt(number: int, _frame: object) -> None:
    global _code
    _code = _CODES[signal.Signals(number)]
    if not _deferred.depth:
        raise KeyboardInterrupt
