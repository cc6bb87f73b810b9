"""`rexit serve`."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.arguments import VariantOption
from rexit.doors.cli.common.output import counted, say
from rexit.errors import InputError
from rexit.format.request import check_deadline


def serve(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: VariantOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0: any free one.")] = 8000,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Requests scored at once.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads per request. 0: one per core in all.")] = 0,
    cache_mib: Annotated[int, typer.Option(min=1, help="MiB of cached prefixes per session.")] = 32,
    deadline_ms: Annotated[float | None, typer.Option(help="Deadline of requests that name none.")] = None,
    audit: Annotated[float, typer.Option(help="Share of answers to audit.")] = 0.0,
    audit_log: Annotated[Path | None, typer.Option(help="File of audits.")] = None,
    on_alarm: Annotated[str, typer.Option(help="log or full-depth.")] = "log",
) -> None:
    """Score over HTTP: POST /v1/score and /v1/rerank, with GET /healthz, /readyz, /metrics and, for the fields, /docs.

    ```
    rexit serve bundle --port 8000 --sessions 2
    curl localhost:8000/v1/score --json '{"user": 196, "items": [242, 302]}'
    ```

    A request has at most 10,000 candidates, documents or recent interactions, and 1 MiB. Each is a line on stdout: time, client,
    method, path, status, milliseconds. SIGTERM and Ctrl-C stop the service once accepted requests are answered. SIGHUP opens the
    bundle again.
    """
    hung_up = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: hung_up.set())

    from rexit import runtime
    from rexit.doors.pool import Auditor, Pool
    from rexit.doors.serve import Limits, create_app, run
    from rexit.doors.serve.access import log_to_stdout
    from rexit.doors.serve.server import listen

    if deadline_ms is not None:
        check_deadline(deadline_ms)
    if not 0 <= audit <= 1:
        raise InputError(f"--audit {audit:g}, expected a share from 0 to 1")
    if not audit and (audit_log is not None or on_alarm != "log"):
        raise InputError(f"{'--audit-log' if audit_log is not None else '--on-alarm'} is for --audit, expected a share above 0")
    listening = listen(host, port)
    opened = partial(runtime.open, bundle, variant, threads=threads or threads_for(sessions), cache_bytes=cache_mib << 20)
    auditor = Auditor(bundle, variant, audit, audit_log, on_alarm) if audit else None
    pool = Pool(opened, sessions, auditor=auditor)
    app = create_app(pool, Limits(deadline_ms=deadline_ms))
    served = f"{bundle} ({pool.info.variant}), {counted(sessions, 'session')}, on http://{host}:{listening.getsockname()[1]}"

    def ready() -> None:
        _say(served)
        if auditor is not None:
            _say(f"audits {audit:.3g} of the answers, {auditor.watch.limits.sentence()}")

    log_to_stdout()
    run(app, pool, listening, hung_up, ready, _say)


def threads_for(sessions: int) -> int:
    """Returns the threads per request with which all sessions use every core: the session's own thread, and the pool's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - sessions + 1)


def _say(line: str) -> None:
    say(f"rexit: {line}")
