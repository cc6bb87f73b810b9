"""The OpenAPI description: a request's schema is made from `rexit.request.FIELDS`, the others from the types here."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI

from rexit.bundle import Id
from rexit.request import json_schema
from rexit.serve.rerank import RerankRequest, TextsRequest

_EXAMPLES = {
    "ScoreRequest": [
        {"user": 196, "items": [242, 302, 377], "top_k": 2, "deadline_ms": 50},
        {"user": 99999, "items": [181, 210], "recent": [50, [288, False]]},
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
    """Scores in the order of the items or, with `top_k`, best first."""

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
