"""Connections: how many there are, how long they may be silent, and which bytes are a request.

1. A connection that has sent no whole request head within `HEAD_S` is closed, be it new or kept alive.
2. A client that takes nothing of its answer for `WRITE_S` loses its connection.
3. Connections end below the process's limit of descriptors. Those beyond get 503 and are closed at once.
4. A request with both Content-Length and Transfer-Encoding is refused: a proxy may see two requests in it (RFC 9112, 6.1).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rexit.errors import InputError

_LOGGER = logging.getLogger("rexit")

HEAD_S = 10.0
"""Seconds in which a request's head must have arrived."""
WRITE_S = 30.0
"""Seconds in which a client must take something of its answer."""
BACKLOG = 64
"""Connections that wait to be accepted, and that are accepted in one turn of the loop."""
MAX_CONNECTIONS = 4096
_RESERVED = 64
"""Descriptors for files: those of a bundle that is opened again, and the log of audits."""
_LOG_AGAIN_S = 60.0
_AMBIGUOUS = "Content-Length and Transfer-Encoding are both set, expected one of them"
_FULL = "all connections are in use, expected fewer clients: try again"


def max_connections() -> int:
    """Returns how many connections the process's limit of descriptors leaves room for. Raises InputError if it is none."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    needed = sum(1 for _ in Path("/proc/self/fd").iterdir()) + _RESERVED + 2 * BACKLOG
    if limit <= needed:
        raise InputError(f"the process may open {limit} descriptors, expected more than {needed}: ulimit -n")
    return min(MAX_CONNECTIONS, limit - needed)


def problem_bytes(status: bytes, line: str) -> bytes:
    """Returns an answer in bytes, after which the connection is closed: for what never becomes a request."""
    body = json.dumps({"error": line}).encode()
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


class _Reader(h11.Connection):
    """Refuses a request whose end depends on who reads it."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError(_AMBIGUOUS)
        return event


class Connection(H11Protocol):
    """A connection, with limits on its silence."""

    limit = MAX_CONNECTIONS
    """Connections at most, of a subclass by `limited_to`."""
    _timer: asyncio.TimerHandle | None = None
    _accepted = False

    @classmethod
    def limited_to(cls, limit: int) -> type[Connection]:
        """Returns the class of connections of which there are at most so many."""
        return type("LimitedConnection", (cls,), {"limit": limit})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limit:
            self.transport = transport
            log_seldom("%d connections are open: further ones are refused", len(self.connections))
            transport.write(problem_bytes(b"503 Service Unavailable\r\nretry-after: 1", _FULL))
            transport.close()
            return
        self._accepted = True
        self.conn = _Reader(h11.SERVER, self.conn._max_incomplete_event_size)
        super().connection_made(transport)
        self._close_after(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close_after(None)
        if self._accepted:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._accepted:
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._close_after(None)  # a request has begun, whose body the application awaits

    def on_response_complete(self) -> None:
        self._close_after(HEAD_S)
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._close_after(None)  # the next request was there already

    def pause_writing(self) -> None:
        super().pause_writing()
        self._close_after(WRITE_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._close_after(HEAD_S if self.cycle is None or self.cycle.response_complete else None)

    def send_400_response(self, msg: str) -> None:
        is_ambiguous = self.conn.their_state is not h11.ERROR  # h11's own refusals put it into that state
        line = _AMBIGUOUS if is_ambiguous else "not an HTTP request"
        self.transport.write(problem_bytes(b"400 Bad Request", line))
        self.transport.close()

    def _close_after(self, seconds: float | None) -> None:
        """Sets the time after which the connection is closed; None: there is none."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._close_silent)

    def _close_silent(self) -> None:
        self.transport.abort()  # not close, which waits until the client has taken everything


_logged_at: dict[str, float] = {}


def log_seldom(line: str, *words: object) -> None:
    """Logs a warning at most once a minute."""
    now = time.monotonic()
    if now - _logged_at.get(line, -_LOG_AGAIN_S) >= _LOG_AGAIN_S:
        _logged_at[line] = now
        _LOGGER.warning(line, *words)


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handles an error of the loop. That descriptors ran out is logged once a minute, not for each connection."""
    exc = context.get("exception")
    if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
        log_seldom("a connection cannot be accepted: %s", exc.strerror)
    else:
        loop.default_exception_handler(context)
