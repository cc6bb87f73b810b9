"""`rexit serve`'s application on a real socket, in this process."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from rexit.doors.pool import Pool
from rexit.doors.serve import Limits, create_app
from rexit.doors.serve.server import configuration, listen


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Service:
    port: int

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str | None = "application/json") -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {} if content_type is None else {"Content-Type": content_type})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode())

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def score(self, **fields: Any) -> Reply:
        return self.ask("POST", "/v1/score", json.dumps(fields).encode())


@contextlib.contextmanager
def serving(pool: Pool, limits: Limits | None = None) -> Iterator[Service]:
    """Serves until the block ends, and closes the pool."""
    listening = listen("127.0.0.1", 0)
    config = configuration(create_app(pool, limits), timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Service(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        pool.close()
