"""What a connection may do before it is a request."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from builders.bundles.held_out import write_ranked
from builders.bundles.reranker import write_reranker
from rexit import runtime
from rexit.doors.pool import Pool
from rexit.doors.serve import connections
from rexit.errors import InputError
from rexit.format.request import MAX_CANDIDATES, json_schema
from running.service import Service, serving


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    yield Pool(partial(runtime.open, write_ranked(tmp_path).bundle), 1, 4)


def exchange(service: Service, data: bytes) -> bytes:
    """Returns all that arrives until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(data)
        answer = b""
        while part := client.recv(4096):
            answer += part
        return answer


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_silent_connection_is_closed(pool: Pool, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with serving(pool) as service:
        assert exchange(service, data) == b"", "it ends without an answer, within the client's five seconds"


def test_connections_beyond_the_limit_are_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rexit.doors.serve.server.max_connections", lambda: 2)
    with serving(pool) as service:
        clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        assert exchange(service, b"").startswith(b"HTTP/1.1 503 ")
        for client in clients:
            client.close()


def test_two_lengths_are_refused(pool: Pool) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with serving(pool) as service:
        answer = exchange(service, head + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1


def test_compressed_bodies_long_paths_and_the_end(pool: Pool) -> None:
    with serving(pool) as service:
        answer = exchange(
            service,
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        )
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert len(service.get("/" + "y" * 60_000).text) < 200
        metrics = service.get("/metrics").text
        assert "process_open_fds" in metrics and re.search(r'rexit_bundle_info\{.*sha256="[0-9a-f]{64}"', metrics)
        pool.refuse()
        assert service.get("/healthz").headers["connection"] == "close"


def test_a_changed_catalog_file_ends_readiness(tmp_path: Path) -> None:
    bundle = write_ranked(tmp_path).bundle
    pool = Pool(partial(runtime.open, bundle), 1, 4)
    with serving(pool) as service:
        for file in bundle.glob("catalog*/*.safetensors"):
            os.utime(file, (1, 1))
        assert service.score(user=100, items=[3]).status == 500
        assert (reply := service.get("/readyz")).status == 503 and "was modified" in reply.json["error"]
        pool.reload()
        assert service.get("/readyz").status == 200 and service.score(user=100, items=[3]).status == 200


def test_a_broken_tokenizer_is_refused_at_start_and_at_reload(tmp_path: Path) -> None:
    bundle = write_reranker(tmp_path / "bundle")
    pool = Pool(partial(runtime.open, bundle), 1, 4)
    file = bundle / "tokenizer.json"
    size = file.stat().st_size
    file.unlink()
    file.write_bytes(b"{" * size)
    with pytest.raises(InputError, match="not a tokenizer"):
        pool.reload()
    pool.close()
    with pytest.raises(InputError, match="not a tokenizer"):
        Pool(partial(runtime.open, bundle), 1, 4)


def test_the_schema_has_texts_and_limits() -> None:
    schema = json_schema()
    assert {"required": ["query", "documents"]} in schema["oneOf"]
    assert f'"maxItems": {MAX_CANDIDATES}' in json.dumps(schema["properties"]["documents"])


def test_a_request_is_a_line_in_the_log(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rexit.access"), serving(pool) as service:
        service.get("/healthz")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ GET /healthz 200 \d+\.\d ms", caplog.records[-1].getMessage())
