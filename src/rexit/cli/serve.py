"""`rexit serve`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rexit.cli._output import DeviceOption, stderr
from rexit.deadlines import check_deadline


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: Annotated[str | None, typer.Option(help="Which variant. Default: the bundle's first.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one, which is printed.")] = 8000,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Requests scored at once.")] = 1,
    threads: Annotated[
        int,
        typer.Option(
            min=0, help="Threads of one request: its session's own and a pool's that all share. 0: in all one per core."
        ),
    ] = 0,
    device: DeviceOption = None,
    cache_mib: Annotated[int, typer.Option(min=1, help="Of cached prefixes, for each session.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait for a session; more are refused with 503.")] = 64,
    deadline_ms: Annotated[float | None, typer.Option(help="For requests that name none.")] = None,
    max_items: Annotated[int, typer.Option(min=1, help="Candidates in a request.")] = 2000,
    max_body_kib: Annotated[int, typer.Option(min=1, help="Size of a request.")] = 1024,
    grace_s: Annotated[int, typer.Option(min=1, help="After SIGTERM, how long accepted requests may take.")] = 30,
) -> None:
    """Score over HTTP: POST /v1/score, with GET /healthz, /readyz, /metrics and, for the fields, /docs.

        rexit serve bundle --port 8000 --sessions 2

        curl localhost:8000/v1/score --json '{"user": 196, "items": [242, 302, 377], "deadline_ms": 50}'

    SIGTERM and Ctrl-C stop it: new requests are refused, accepted ones finish, and the exit code is 0. SIGHUP opens the bundle
    again, for instance after a new one was renamed over it; requests that are running finish on the old one.
    """
    from rexit import runtime
    from rexit.serve import Limits, Pool, create_app, run
    from rexit.serve.server import listen

    if deadline_ms is not None:
        check_deadline(deadline_ms)
    listening = listen(host, port)
    opened = partial(
        runtime.open, bundle, variant, threads=threads or threads_for(sessions), device=device, cache_bytes=cache_mib << 20
    )
    pool = Pool(opened, sessions, queue)
    app = create_app(pool, Limits(max_items, max_body_kib << 10, deadline_ms))
    served = f"{bundle} ({pool.info.variant}), {sessions} sessions, on http://{host}:{listening.getsockname()[1]}"
    run(app, pool, listening, grace_s, lambda: _say(served), _say)


def threads_for(sessions: int) -> int:
    """Of one request, so that all sessions at once have as many as there are cores: its session's own, and the pool's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - sessions + 1)


def _say(line: str) -> None:
    stderr.print(f"rexit: {line}", soft_wrap=True)
