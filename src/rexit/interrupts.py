"""The signals that end a command: Ctrl-C, SIGTERM and SIGHUP.

Their handler raises KeyboardInterrupt wherever the main thread is, so that what is being written goes. Not everything passes an
exception on: PyTorch's C++ makes a TypeError of one while it reads sizes, polars a panic, and Python itself drops what comes out
of `__del__`. So the handler notes the signal too:

1. `check` raises again. Progress does so at every step, and a new folder before it takes its place.
2. However the block of `heeded` ended, it ended by the signal.

Inside `deferred` it only notes: what puts things in place or cleans up is not to be cut short.
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
    """How deep this thread is in blocks of `deferred`. Handlers run in the main thread, and ask for its own."""

    depth = 0


_deferred = _Deferred()


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """While the block runs, a signal interrupts it: SystemExit, 130 after Ctrl-C and 143 after the others. Main thread only."""
    global _code
    before: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    try:
        for number in _CODES:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # else nohup or the caller wants it otherwise
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
def kept() -> Iterator[None]:
    """Around a library that sets handlers of its own, as Ray does on joining a cluster: afterwards those of before hold."""
    before = {number: signal.getsignal(number) for number in _CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """While the block runs, which must be short, a signal raises nothing. May be nested; does nothing in other
    threads than the main one."""
    _deferred.depth += 1
    try:
        yield
    finally:
        _deferred.depth -= 1


def check() -> None:
    """Raises KeyboardInterrupt after a signal."""
    if _code is not None:
        raise KeyboardInterrupt


def _interrupt(number: int, _frame: object) -> None:
    global _code
    _code = _CODES[signal.Signals(number)]
    if not _deferred.depth:
        raise KeyboardInterrupt
