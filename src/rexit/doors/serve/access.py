"""A line for each request on stdout, and the end of connections once the service stops."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rexit.doors.serve.connections import log_seldom

_ACCESS = logging.getLogger("rexit.access")
_MAX_PATH = 200
_CLOSE = (b"connection", b"close")


class Access:
    """The application, around which requests are logged: time, client, path, status, milliseconds.

    Args:
        app: The application.
        stopping: Returns whether the service stops: then answers end their connection.
    """

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        self._app, self._stopping = app, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, status = time.monotonic(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._stopping() and _CLOSE not in message["headers"]:
                    message = {**message, "headers": [*message["headers"], _CLOSE]}
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            if scope["type"] == "http" and _ACCESS.isEnabledFor(logging.INFO):
                path = scope["raw_path"].decode("ascii", "backslashreplace")
                client = ":".join(map(str, scope["client"] or ("-",)))
                shown = path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}…"
                milliseconds = (time.monotonic() - begin) * 1000
                _ACCESS.info("%s %s %s %s %.1f ms", client, scope["method"][:16], shown, status or "-", milliseconds)


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard output. That it takes no more is said once a minute, not with each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        log_seldom("the access log cannot be written: %s", sys.exc_info()[1])


def log_to_stdout() -> None:
    """Begins the access log."""
    lines = _Lines(sys.stdout)
    lines.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S"))
    lines.formatter.converter = time.gmtime  # type: ignore[union-attr]
    _ACCESS.addHandler(lines)
    _ACCESS.setLevel(logging.INFO)
    _ACCESS.propagate = False
