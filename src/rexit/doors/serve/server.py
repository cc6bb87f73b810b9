"""The socket and the signals. SIGTERM and Ctrl-C: new requests are refused, accepted requests finish, exit code 0. SIGHUP: the
bundle is opened again; one that came before the service was ready counts once it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from rexit.doors.pool import Pool
from rexit.doors.serve.connections import BACKLOG, Connection, log_loop_error, max_connections
from rexit.errors import InputError, RexitError

_LOGGER = logging.getLogger("rexit")

GRACE_S = 30
"""Seconds that accepted requests may take after the signal."""


class _Server(uvicorn.Server):
    """Leaves the signals to `run`: uvicorn would raise them again when it has stopped, and the exit code would be theirs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket. port: 0: any free port. Raises InputError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Accepted sockets inherit this; asyncio sets it only for sockets that name their protocol. Without it an answer's body
        # waits until the client has acknowledged the headers, 40 ms on Linux.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as exc:
        why = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno and exc.errno > 0 else exc  # not for a name
        raise InputError(f"{host}:{port}: cannot listen: {why}") from exc


def configuration(app: FastAPI, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration. options: its own. Raises InputError if no descriptors are left for connections."""
    protocol = Connection.limited_to(max_connections())
    return uvicorn.Config(
        app, http=protocol, ws="none", backlog=BACKLOG, log_level="error", access_log=False, lifespan="off", **options
    )


def run(
    app: FastAPI,
    pool: Pool,
    listening: socket.socket,
    hung_up: threading.Event,
    ready: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        app: The application.
        pool: What it scores with.
        listening: A listening socket.
        hung_up: Whether SIGHUP came before the service was ready.
        ready: Called once signals are handled.
        say: Called with a line about each signal.
    """
    config = configuration(app, timeout_graceful_shutdown=GRACE_S)
    server = _Server(config)

    def stop() -> None:
        say(f"stopping: {pool.busy} requests running, {pool.waiting} waiting; new ones are refused")
        pool.refuse()
        server.should_exit = True

    def reload() -> None:
        try:
            pool.reload()
        except Exception as exc:
            if not isinstance(exc, RexitError):
                _LOGGER.exception("the bundle cannot be opened again")
            app.state.metrics.reloads.labels("failed").inc()
            say(f"error: {exc}; serving goes on with the bundle opened before")
        else:
            app.state.metrics.reloads.labels("ok").inc()
            say(f"opened the bundle again: {pool.info.variant}")

    def start_reload() -> None:
        threading.Thread(target=reload, daemon=True).start()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, start_reload)
        ready()
        if hung_up.is_set():
            start_reload()
        await server.serve(sockets=[listening])

    asyncio.run(serve())
    if not pool.close(within_s=1):
        # A request outlasted its grace. Python ends with threads that it cannot wait for by unwinding them, which aborts in C++.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)
