"""The fields of a request and of an answer. The OpenAPI page shows the descriptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt, StrictStr

from rexit.deadlines import LONGEST_MS

Id = StrictInt | StrictStr
Deadline = Annotated[
    float | None,
    Field(
        gt=0,
        le=LONGEST_MS,
        allow_inf_nan=False,
        description="Counted from arrival, so waiting in the queue counts. Candidates that are not finished by then answer "
        "from the deepest exit they have reached, with `cut_short`. 504 if none has reached an exit by then.",
    ),
]


class ScoreRequest(BaseModel):
    """One user's slate: candidates that are scored together."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user": 196, "items": [242, 302, 377], "top_k": 2, "deadline_ms": 50},
                {"user": 99999, "items": [181, 210], "recent": [50, [288, False]]},
            ]
        },
    )
    user: Annotated[
        Id,
        Field(description="A number or a string, as the catalog's. An unknown user is placed by `recent`."),
    ]
    items: Annotated[list[Id], Field(min_length=1, description="Ids of the candidates. All must be in the catalog.")]
    recent: Annotated[
        list[Id | tuple[Id, StrictBool]],
        Field(description="Interactions newer than the catalog's, oldest first: an item's id (liked), or the id and a boolean."),
    ] = []
    as_of: Annotated[
        StrictInt | None, Field(description="Only the catalog's interactions before this time are used. Null: all.")
    ] = None
    context: Annotated[
        dict[str, StrictStr | StrictInt | Annotated[FiniteFloat, Field(strict=True)]],
        Field(description="Values of the prompt template's `{context.NAME}`, by name: strings or numbers."),
    ] = {}
    request: Annotated[
        dict[str, StrictStr | list[StrictInt]],
        Field(description="The prompt template's `{request.NAME}`, by name: texts, if the bundle has a tokenizer, or token ids."),
    ] = {}
    top_k: Annotated[
        int, Field(ge=0, lt=1 << 31, strict=True, description="Only the k most probable, best first. 0: all, in the order given.")
    ] = 0
    deadline_ms: Deadline = None


class Score(BaseModel):
    """A candidate's score. Where the deadline came before its first exit, the numbers are null."""

    item: Id
    probability: Annotated[
        float | None, Field(description="Calibrated probability of a like; of several objectives, their utility.")
    ]
    log_odds: Annotated[float | None, Field(description="Raw log-odds at the exit that answered.")]
    exit: Annotated[int | None, Field(description="The exit that answered, from 0.")]
    layers: Annotated[int, Field(description="That exit's depth.")]
    cut_short: Annotated[bool, Field(description="The deadline stopped this candidate.")]
    objectives: Annotated[
        dict[str, float] | None, Field(description="Only with several objectives: each one's calibrated probability.")
    ] = None


class ScoreAnswer(BaseModel):
    """Scores in the order of the items or, with `top_k`, best first."""

    user: Id
    variant: str
    known: Annotated[bool, Field(description="Whether the catalog has the user. False: a new user, or a mistyped id.")]
    scores: list[Score]
    stats: Annotated[
        dict[str, Any],
        Field(description="What it cost: tokens, tokens in the prefix cache, layers, microseconds by stage and in the queue."),
    ]


class Problem(BaseModel):
    """Why there is no answer, in one line that names the field, what was seen and what was expected."""

    error: str
