"""The routes. Every problem is one line of JSON, `{"error": "…"}`:

404   no such route; 405: no such method of it
413   the body is larger than the limit
422   the request: not JSON, a wrong field or id, an item that is not in the catalog, a prompt that is too long
500   the backend failed, or rexit has a defect; its traceback is in the log
503   the queue is full, or the service is stopping: with Retry-After
504   the deadline passed before any candidate had an answer
"""

from __future__ import annotations

import asyncio
import logging
import math
import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rexit import __version__
from rexit.errors import DeadlineError, InputError, RexitError
from rexit.serve.messages import Problem, ScoreAnswer, ScoreRequest
from rexit.serve.metrics import Metrics
from rexit.serve.pool import Answered, AnyJob, Job, LateError, Pool, RefusedError, TextJob
from rexit.serve.rerank import RerankRequest

_LOGGER = logging.getLogger("rexit")

SCORE, RERANK = "/v1/score", "/v1/rerank"
SCORING = (SCORE, RERANK, "/v2/rerank")
"""The routes that score."""
_ABOUT = """Scores candidates with an early-exit model.

Send `POST /v1/score` with a user and items, or `POST /v1/rerank` with a query and documents. Each candidate stops at its first
confident exit. With `deadline_ms`, all answer from the deepest exit reached by then. A user's or query's next request finds its
prefix in the cache and costs less, so route a user's requests to the same replica if you have several.
"""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_items: Most candidates, and most recent interactions.
        max_body: Most bytes of the body.
        deadline_ms: The deadline of requests that name none; None: no deadline.
    """

    max_items: int = 2000
    max_body: int = 1 << 20
    deadline_ms: float | None = None


def create_app(pool: Pool, limits: Limits | None = None) -> FastAPI:
    """Returns the application over a running pool, which the caller closes.

    Args:
        pool: What it scores with.
        limits: None: the defaults.
    """
    limits = limits or Limits()
    metrics = Metrics(lambda: pool.waiting, lambda: pool.busy, pool.auditor)
    app = FastAPI(title="rexit", version=__version__, description=_ABOUT, docs_url="/docs", redoc_url=None)
    app.state.metrics = metrics
    app.add_middleware(_Boundary, max_body=limits.max_body, metrics=metrics)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        if isinstance(exc.body, bytes):
            got = request.headers.get("content-type")
            return _problem(422, f"Content-Type: {'missing' if got is None else 'got ' + _short(got)}, expected application/json")
        return _problem(422, _first_line(exc.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> JSONResponse:
        return _refusal(request, exc)

    problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (413, 422, 500, 503, 504)}

    async def answer(request: ScoreRequest | RerankRequest) -> Any:
        arrived = time.monotonic()
        try:
            if isinstance(request, ScoreRequest):
                job: AnyJob = _job(request, pool, limits)
            else:
                job = _text_job(request, limits, arrived)
            answered = await _answer(pool, job)
        except RefusedError as exc:
            metrics.refusals.labels(exc.reason).inc()
            return _problem(503, str(exc), {"Retry-After": str(exc.retry_s)})
        except DeadlineError as exc:
            if isinstance(exc, LateError):
                metrics.refusals.labels("deadline").inc()
            return _problem(504, str(exc))
        except InputError as exc:
            return _problem(422, str(exc).replace("recent_items", "recent", 1))  # as the field is called here
        except RexitError as exc:
            return _problem(500, str(exc))
        metrics.queued.observe(answered.waited)
        metrics.latency.observe(time.monotonic() - arrived)
        metrics.count(answered.scores, len(job.ids), isinstance(request, ScoreRequest))
        metrics.truncated.inc(sum(answered.truncated))
        if not isinstance(request, ScoreRequest):
            return JSONResponse(request.answer(answered.scores, answered.variant, answered.truncated))
        reply = {"user": request.user, "variant": answered.variant, **answered.scores.to_dict()}
        reply["stats"]["queue_us"] = answered.waited * 1e6
        return JSONResponse(reply)

    @app.post(SCORE, responses={200: {"model": ScoreAnswer}, **problems}, summary="Score candidates")
    async def score(request: ScoreRequest) -> Any:
        return await answer(request)

    async def rerank(request: RerankRequest) -> Any:
        return await answer(request)

    for path in SCORING[1:]:
        app.post(path, responses=problems, summary="Rank documents for a query")(rerank)

    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": Problem}}, summary="Whether it takes requests")
    async def readyz() -> Any:
        if pool.stopping:
            return _problem(503, "the service is stopping")
        return {"status": "ready", "variant": pool.info.variant}

    @app.get("/metrics", summary="For Prometheus")
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _job(request: ScoreRequest, pool: Pool, limits: Limits) -> Job:
    """Returns the job of a request. Raises InputError for what its types do not say."""
    info = pool.info
    if not info.has_catalog:
        raise InputError("user: the bundle has no catalog, expected a query and documents for /v1/rerank")
    for name, entries in (("items", request.items), ("recent", request.recent)):
        if len(entries) > limits.max_items:
            raise InputError(f"{name}: has {len(entries)}, expected at most {limits.max_items}")
    _check_kind("user", request.user, info.string_user_ids)
    for n, item in enumerate(request.items):
        _check_kind(f"items[{n}]", item, info.string_item_ids)
    recent = [interaction if isinstance(interaction, tuple) else (interaction, True) for interaction in request.recent]
    for n, (item, _) in enumerate(recent):
        _check_kind(f"recent[{n}]", item, info.string_item_ids)
    return Job(
        request.user,
        request.items,
        {
            "recent": recent or None,
            "as_of": request.as_of,
            "context": request.context,
            "request": request.request,
            "top_k": request.top_k,
        },
        _deadline_s(request, limits),
    )


def _deadline_s(request: ScoreRequest | RerankRequest, limits: Limits) -> float | None:
    deadline = limits.deadline_ms if request.deadline_ms is None else request.deadline_ms
    return None if deadline is None else deadline / 1000


def _check_kind(field: str, value: int | str, strings: bool) -> None:
    if isinstance(value, str) != strings:
        raise InputError(f"{field}: got {_short(value)}, this catalog's ids are {'strings' if strings else 'integers'}")


def _text_job(request: RerankRequest, limits: Limits, arrived: float) -> TextJob:
    """Returns the job of a request with texts. Raises InputError."""
    if request.count > limits.max_items:
        raise InputError(f"{request.count} candidates, expected at most {limits.max_items}")
    return TextJob(request.query, request.texts, request.options, _deadline_s(request, limits), arrived)


async def _answer(pool: Pool, job: AnyJob) -> Answered:
    """Waits for the answer. A request that is still in the queue at its deadline is withdrawn; once it runs, its session keeps
    the deadline."""
    pool.submit(job)
    answer = asyncio.wrap_future(job.future)
    left = job.left_s()
    await asyncio.wait({answer}, timeout=None if left == math.inf else max(0.0, left))
    if not answer.done() and pool.withdraw(job):
        raise job.late()
    return await answer


def _problem(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    printable = line.encode("utf-8", "backslashreplace").decode()  # JSON can hold half a surrogate pair, UTF-8 cannot
    return JSONResponse({"error": printable}, status, headers)


def _refusal(request: Request, exc: HTTPException) -> JSONResponse:
    """Answers what FastAPI itself refuses."""
    path = request.url.path
    if exc.status_code == 400:  # the body is not JSON, for another reason than its syntax
        why = "nested too deep" if isinstance(exc.__cause__, RecursionError) else f"cannot be decoded: {exc.__cause__}"
        return _problem(422, f"body: {why}")
    if exc.status_code == 404:
        return _problem(404, f"{path}: not found, expected a route of /openapi.json")
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another")
        return _problem(405, f"{path}: method not allowed, got {request.method}, expected {allowed}", exc.headers)
    return _problem(exc.status_code, exc.detail, exc.headers)


def _first_line(errors: Sequence[Any]) -> str:
    """Describes the first problem in one line: the field, what was seen, what was expected."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"body: not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    loc = first["loc"][1:]
    parts = [part for part in loc if not _is_arm(part)]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in parts).removeprefix(".") or "body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "missing":
        return f"{field}: missing, expected in every request{more}"
    if first["type"] == "extra_forbidden":
        return f"{field}: got a field that is not known, expected those of {SCORE} in /openapi.json{more}"
    if first["type"] in ("int_type", "string_type") and len(errors) > 1:
        expected = {
            "recent": "an id, or an id and whether it was liked",
            "context": "a string or a number",
            "request": "a text or token ids",
        }.get(str(parts[0]), "an id: an integer or a string")
        return f"{field}: got {_short(first['input'])}, expected {expected}"
    expected = first["msg"][:1].lower() + first["msg"][1:]
    return f"{field}: got {_short(first['input'])}, expected: {expected.removeprefix('input should be ')}{more}"


def _is_arm(part: Any) -> bool:
    """Whether a part of a location is an arm of a union, not of the field's name."""
    return part in ("int", "str", "TextDocument") or (isinstance(part, str) and part.startswith(("list[", "constrained-")))


def _name(field: str) -> str:
    """Returns a field's name as it is, or quoted if it is not a name: a client may call a field anything."""
    return field if field.isidentifier() and len(field) <= 60 else _short(field)


_BOUNDED = reprlib.Repr()  # `repr` fails for values that nest deeper than Python's stack
_BOUNDED.maxstring = _BOUNDED.maxother = _BOUNDED.maxlong = 60


def _short(value: Any) -> str:
    text = _BOUNDED.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Boundary:
    """Surrounds all routes.

    1. Refuses a body above the limit before it is read whole, whether its size was announced or not.
    2. Answers exceptions that no route caught.
    3. Counts each request to a route of SCORING by the status of its answer.
    """

    def __init__(self, app: ASGIApp, max_body: int, metrics: Metrics) -> None:
        self._app, self._max_body, self._metrics = app, max_body, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if scope["path"] in SCORING:
                    self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        try:
            body = await self._body(receive)
            if body is None:
                return
            await self._app(scope, body, counted)
        except HTTPException as exc:
            await _problem(exc.status_code, exc.detail, exc.headers)(scope, receive, counted)
        except Exception as exc:
            _LOGGER.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await _problem(500, f"internal error: {type(exc).__name__}; the service's log has more")(scope, receive, counted)

    async def _body(self, receive: Receive) -> Receive | None:
        """Reads the whole body and returns what replays it; None: the client is gone. Raises HTTPException."""
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._max_body:
                line = f"body: got more than {self._max_body} bytes, expected at most that"
                raise HTTPException(413, line, {"Connection": "close"})
        replayed: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return replayed.pop() if replayed else await receive()

        return replay
