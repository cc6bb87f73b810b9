"""The routes, and their OpenAPI description. Every problem is one line of JSON, `{"error": "…"}`:

404   no such route; 405: no such method of it
408   the body did not arrive in time
413   the body is larger than the limit
415   the body is compressed
422   the request: not JSON, a wrong field or id, an item that is not in the catalog, a prompt that is too long; the line is the
      library's, which reads the body
500   the backend failed, or rexit has a defect; its traceback is in the log
503   the queue is full, or the service is stopping: with Retry-After
504   the deadline passed before any candidate had an answer
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rexit import __version__
from rexit.doors.pool import Answer, Job, Pool, RefusedError, ScoreJob, TextsJob
from rexit.doors.pool.jobs import LateError
from rexit.doors.serve.access import Access
from rexit.doors.serve.prometheus import Metrics
from rexit.doors.serve.requests import Peek, RerankRequest, TextsRequest
from rexit.errors import DeadlineError, InputError, RexitError
from rexit.format.bundle import Id
from rexit.format.bundle.files import clipped, short
from rexit.format.request import MAX_CANDIDATES, check_count, json_schema

_LOGGER = logging.getLogger("rexit")

SCORE = "/v1/score"
SCORING = (SCORE, "/rerank", "/v1/rerank", "/v2/rerank")
"""The routes that score."""
_MAX_LINE = 1000
"""Most characters of a problem."""
_BODY_S = 30
"""Seconds in which a body must have arrived."""
_PROBLEMS = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "A wrong request.",
    500: "The backend failed, or rexit has a defect.",
    503: "The queue is full, or the service is stopping.",
    504: "The deadline passed before any candidate had an answer.",
}
_ABOUT = f"""Scores candidates with an early-exit model.

Send `POST /v1/score` with a user and items, or `POST /v1/rerank` with a query and documents: at most {MAX_CANDIDATES:,} of them.
Each candidate stops at its first confident exit. With `deadline_ms`, all answer from the deepest exit reached by then. A user's
or query's next request finds its prefix in the cache and costs less, so route a user's requests to the same replica if you have
several.
"""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_body: Most bytes of the body.
        deadline_ms: The deadline of requests that name none; None: no deadline.
    """

    max_body: int = 1 << 20
    deadline_ms: float | None = None


def create_app(pool: Pool, limits: Limits | None = None) -> FastAPI:
    """Returns the application over a running pool, which the caller closes.

    Args:
        pool: What it scores with.
        limits: None: the defaults.
    """
    limits = limits or Limits()
    metrics = Metrics(pool)
    app = FastAPI(
        title="rexit", version=__version__, description=_ABOUT, docs_url="/docs", redoc_url=None, redirect_slashes=False
    )
    app.state.metrics = metrics

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> JSONResponse:
        if request.url.path in SCORING or exc.status_code == 404:
            metrics.requests.labels(str(exc.status_code)).inc()
        return _refusal(request, exc)

    async def answer(request: Request, job_of: Callable[[bytes, Limits], Job]) -> Response:
        try:
            body = await _body(request, limits.max_body)
            _check_encoding(request.headers.get("content-encoding"))
        except ClientDisconnect:
            return Response()  # to nobody
        response = await scored(request, body, job_of)
        metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def scored(request: Request, body: bytes, job_of: Callable[[bytes, Limits], Job]) -> Response:
        try:
            _check_content_type(request.headers.get("content-type"))
            job = job_of(body, limits)
            reply = await _answer(pool, job)
        except RefusedError as exc:
            metrics.refusals.labels(exc.reason).inc()
            return _problem(503, str(exc), {"Retry-After": str(exc.retry_s)})
        except DeadlineError as exc:
            if isinstance(exc, LateError):
                metrics.refusals.labels("deadline").inc()
            return _problem(504, str(exc))
        except InputError as exc:
            return _problem(422, str(exc))
        except RexitError as exc:
            return _problem(500, str(exc))
        except Exception as exc:  # a defect
            _LOGGER.exception("%s failed", request.url.path)
            return _problem(500, f"internal error: {type(exc).__name__}; the service's log has more")
        metrics.count(reply, job.waited_s, pool.info.exits > pool.info.segments)
        return Response(reply.content, media_type="application/json")

    problems: dict[int | str, dict[str, Any]] = {
        status: {"description": why, "content": reference("Problem")} for status, why in _PROBLEMS.items()
    }
    answers = {200: {"content": reference("ScoreAnswer")}, **problems}

    @app.post(SCORE, responses=answers, openapi_extra=request_body("ScoreRequest"), summary="Score candidates")
    async def score(request: Request) -> Response:
        return await answer(request, _score_job)

    async def rerank(request: Request) -> Response:
        return await answer(request, _rerank_job)

    for path in SCORING[1:]:
        extra = request_body("RerankRequest", "TextsRequest")
        app.post(path, responses=problems, openapi_extra=extra, summary="Rank documents for a query")(rerank)

    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses={503: problems[503]}, summary="Whether it takes requests")
    @app.get("/health", responses={503: problems[503]}, summary="The same, under text-embeddings-inference's name")
    async def readyz() -> Any:
        if pool.ended:
            return _problem(
                503, f"{pool.ended} sessions have ended, which is a defect: the service's log has more; start it again"
            )
        if pool.stopping:
            return _problem(503, "the service is stopping")
        if pool.broken is not None:
            return _problem(503, pool.broken)
        return {"status": "ready", "variant": pool.info.variant}

    @app.get("/info", summary="What is served, in text-embeddings-inference's words")
    async def info() -> dict[str, Any]:
        opened = pool.info
        return {
            "model_id": opened.variant,
            "model_dtype": opened.variant.partition("-")[2],
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": pool.capacity,
            "max_input_length": opened.max_positions,
            "max_batch_tokens": opened.max_tokens,
            "max_client_batch_size": MAX_CANDIDATES,
            "auto_truncate": False,
            "tokenization_workers": 1,
            "version": __version__,
        }

    @app.get("/metrics", summary="For Prometheus")
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(Access, stopping=lambda: pool.stopping)
    describe(app)
    return app


def _score_job(body: bytes, limits: Limits) -> ScoreJob:
    """Returns the job of a body. Raises InputError if it exceeds a limit of this service."""
    peek = Peek.of(body)
    for name in ("items", "recent", "candidates", "documents"):
        check_count(name, len(getattr(peek, name) or ()))
    if (peek.retrieve or 0) > MAX_CANDIDATES:
        raise InputError(f"retrieve is {short(peek.retrieve)}, expected at most {MAX_CANDIDATES}")
    return ScoreJob(deadline_s=_deadline_s(peek.deadline_ms, limits), body=body, names_user=peek.candidates is None)


def _rerank_job(body: bytes, limits: Limits) -> TextsJob:
    """Returns the job of a body. Raises InputError."""
    request = RerankRequest.parse(body)
    return request.job(_deadline_s(request.deadline_ms, limits))


def _deadline_s(deadline_ms: float | None, limits: Limits) -> float | None:
    deadline = limits.deadline_ms if deadline_ms is None else deadline_ms
    return None if deadline is None else deadline / 1000


async def _body(request: Request, most: int) -> bytes:
    """Returns the body. What is beyond `most` bytes is discarded as it arrives: many clients read the answer only after they have
    sent everything. Raises HTTPException for a body that is larger or arrives too slowly, ClientDisconnect."""
    too_large = HTTPException(413, f"body: got more than {most} bytes, expected at most that", {"Connection": "close"})
    waits = "expect" in request.headers  # the client sends the body only when it is asked to
    if waits and int(request.headers.get("content-length", 0)) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                size += len(part)
                if size <= most:
                    parts.append(part)
    except TimeoutError:
        if size <= most:
            line = f"body: {size} bytes arrived in {_BODY_S} s, expected all of it"
            raise HTTPException(408, line, {"Connection": "close"}) from None
    if size > most:
        raise too_large
    return b"".join(parts)


def _check_encoding(value: str | None) -> None:
    """Raises HTTPException for a compressed body."""
    if value is not None and value.strip().lower() not in ("", "identity"):
        line = f"Content-Encoding: got {short(value)}, expected none"
        raise HTTPException(415, line, {"Accept-Encoding": "identity"})


def _check_content_type(value: str | None) -> None:
    """Raises InputError unless the body is declared to be JSON: a page of another site cannot declare that."""
    kind = (value or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        seen = "missing" if value is None else f"got {short(value)}"
        raise InputError(f"Content-Type: {seen}, expected application/json")


async def _answer(pool: Pool, job: Job) -> Answer:
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
    shown = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…"
    printable = shown.encode("utf-8", "backslashreplace").decode()  # JSON can hold half a surrogate pair, UTF-8 cannot
    return JSONResponse({"error": printable}, status, headers)


def _refusal(request: Request, exc: HTTPException) -> JSONResponse:
    """Answers what FastAPI itself refuses."""
    path = request.url.path
    if exc.status_code == 404:
        return _problem(404, f"{clipped(path)}: not found, expected a route of /openapi.json")
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another")
        return _problem(405, f"{path}: method not allowed, got {clipped(request.method)}, expected {allowed}", exc.headers)
    return _problem(exc.status_code, exc.detail, exc.headers)


_EXAMPLES = {
    "ScoreRequest": [
        {"user": 196, "items": [242, 302, 377], "top_k": 2, "deadline_ms": 50},
        {"user": 99999, "items": [181, 210], "recent": [50, [288, False]]},
        {"user": 196, "retrieve": 200, "top_k": 10},
    ],
    "RerankRequest": [{"query": "wing drag", "documents": ["A wing …", "Heat …"], "top_n": 1}],
}


def _about(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class Score(msgspec.Struct):
    """A candidate's score. Where the deadline came before its first exit, the numbers are null."""

    item: Id
    probability: Annotated[float | None, _about("Calibrated probability of a like.")]
    log_odds: Annotated[float | None, _about("Raw log-odds at the exit that answered.")]
    exit: Annotated[int | None, _about("The exit that answered, from 0.")]
    layers: Annotated[int, _about("That exit's depth.")]
    cut_short: Annotated[bool, _about("The deadline stopped this candidate.")]


class ScoreAnswer(msgspec.Struct):
    """Scores in the order of the items or of retrieval; with `top_k`, best first."""

    variant: str
    scores: list[Score]
    stats: Annotated[
        dict[str, Any],
        _about("What it cost: tokens, tokens in the prefix cache, layers, microseconds by stage and in the queue."),
    ]
    id: Annotated[str | float | None, _about("The request's.")] = None
    user: Annotated[Id | None, _about("The request's, unless it is a prompt as token ids.")] = None
    known: Annotated[
        bool | None, _about("With `user`: whether the catalog has the user. False: a new user, or a mistyped id.")
    ] = None


class Problem(msgspec.Struct):
    """Why there is no answer, in one line that names the field, what was seen and what was expected."""

    error: str


def reference(*names: str) -> dict[str, Any]:
    """Returns the content of a body by the names of the schemas that it may have."""
    return {"application/json": {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}}}


def request_body(*names: str) -> dict[str, Any]:
    """Returns what a route adds to its description: that it takes a body, by the names of its schemas."""
    return {"requestBody": {"required": True, "content": reference(*names)}}


def describe(app: FastAPI) -> None:
    """Adds the schemas that routes refer to."""
    types = RerankRequest, TextsRequest, ScoreAnswer, Problem
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas["ScoreRequest"] = json_schema()
    for name, examples in _EXAMPLES.items():
        schemas[name] = {**schemas[name], "examples": examples}
    routes_only = app.openapi

    def openapi() -> dict[str, Any]:
        description = routes_only()
        description.setdefault("components", {})["schemas"] = schemas
        return description

    app.openapi = openapi  # type: ignore[method-assign]
