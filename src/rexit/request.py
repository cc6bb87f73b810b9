"""What a session is asked: a `Request` names a user and items, a `TokenRequest` is a prompt as token ids.

`FIELDS` describes the same request in JSON, as HTTP, `rexit-run pipe` and `Session.score_json` take it. The format page, the
OpenAPI schema and the commands' help are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from rexit.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rexit.bundle.input_kinds import Value
    from rexit.ids import Id

    Recent = Iterable[Id | tuple[Id, bool]]
    """Interactions newer than the catalog's, oldest first: ids of liked items, or pairs (id, liked)."""

LONGEST_MS = 1e12  # 31 years: as microseconds it fits every clock


@dataclass(frozen=True)
class Request:
    """A slate for one user.

    Attributes:
        user: The user's id. A user whom the catalog does not have is represented by `recent`.
        items: Ids of the candidates, at least one.
        recent: Interactions newer than the catalog's, oldest first: ids of liked items, or pairs (id, liked).
        as_of: A time in the catalog's unit. Only its interactions before that time reach the prompt; None: all.
        inputs: Values of the template's `{input.NAME}`, by name: `{"device": "tv", "hour": 21, "query": "red shoes"}`. A text is
            a string, if the bundle has a tokenizer (`rexit export --with-tokenizer`), or its token ids.
        scores: The first stage's number of each candidate, if the bundle's exit zero reads it.
    """

    user: Id
    items: Sequence[Id] | NDArray[Any]
    recent: Recent | None = None
    as_of: int | None = None
    inputs: Mapping[str, Value] | None = None
    scores: Sequence[float] | NDArray[Any] | None = None


class RequestFields(TypedDict, total=False):
    """The fields of a `Request` that may be left out, as arguments."""

    recent: Recent | None
    as_of: int | None
    inputs: Mapping[str, Value] | None
    scores: Sequence[float] | NDArray[Any] | None


@dataclass(frozen=True)
class TokenRequest:
    """A prompt as token ids. It reads no catalog, so it works with every bundle.

    The session caches the prefix as it caches a user's: the same tokens again cost nothing, and a common start is reused.

    Attributes:
        prefix: Token ids that all candidates share; may be empty.
        candidates: Token ids of each candidate, at least one of each.
        scores: Exit zero's log-odds of each candidate, if the bundle has that exit: without a catalog, the first stage's number,
            such as BM25's.
    """

    prefix: Sequence[int] | NDArray[Any]
    candidates: Sequence[Sequence[int] | NDArray[Any]]
    scores: Sequence[float] | NDArray[Any] | None = None


AnyRequest = Request | TokenRequest


def check_deadline(deadline_ms: float) -> None:
    """Raises InputError for a deadline that is not a number above 0 and at most `LONGEST_MS` milliseconds."""
    is_number = isinstance(deadline_ms, Real) and not isinstance(deadline_ms, bool)
    if not is_number or not 0 < deadline_ms <= LONGEST_MS:
        raise InputError(f"deadline_ms is {deadline_ms!r}, expected a number above 0 and at most 1e12")


@dataclass(frozen=True)
class Field:
    """One field of a request in JSON. Absent and null are the same.

    Attributes:
        name: Its key.
        kind: The requests that may have it: `items` for those that name a user and items, `tokens` for prompts as token ids, or
            `any`.
        type: What it holds, in a few words.
        schema: The same as a JSON Schema, with its limits.
        description: One or two sentences.
        required: Whether every request of this kind has it.
    """

    name: str
    kind: Literal["items", "tokens", "any"]
    type: str
    schema: Mapping[str, Any]
    description: str
    required: bool = False

    @property
    def summary(self) -> str:
        """The description's first sentence, for the help of a command."""
        return self.description.partition(". ")[0].removesuffix(".") + "."


_ID = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}

FIELDS = (
    Field("id", "any", "string or number", {"anyOf": [{"type": "string"}, {"type": "number"}]}, "Repeated in the answer."),
    Field(
        "user",
        "items",
        "integer or string",
        _ID,
        "The user's id, of the catalog's type. A user whom the catalog does not have is represented by `recent`.",
        required=True,
    ),
    Field(
        "items",
        "items",
        "array of integers or strings",
        {"type": "array", "items": _ID, "minItems": 1},
        "Ids of the candidates, at least one. All must be in the catalog.",
        required=True,
    ),
    Field(
        "recent",
        "items",
        "array of ITEM or [ITEM, true or false]",
        {
            "type": "array",
            "items": {
                "anyOf": [
                    *_ID["anyOf"],
                    {"type": "array", "prefixItems": [_ID, {"type": "boolean"}], "minItems": 2, "maxItems": 2},
                ]
            },
        },
        "Interactions newer than the catalog's, oldest first: an item's id if it was liked, or the id and whether it was liked.",
    ),
    Field(
        "as_of",
        "items",
        "integer",
        {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1},
        "Only earlier interactions reach the prompt. A time in the catalog's unit. Absent: all.",
    ),
    Field(
        "inputs",
        "items",
        "object: NAME to string, number or array of token ids",
        {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, _TOKENS]}},
        "Values of the template's `{input.NAME}`, by name. A text is a string, if the bundle has a tokenizer, or its token ids.",
    ),
    Field(
        "prefix", "tokens", "array of token ids", _TOKENS, "A prompt as token ids: what all candidates share. Absent: nothing."
    ),
    Field(
        "candidates",
        "tokens",
        "array of arrays of token ids",
        {"type": "array", "items": {**_TOKENS, "minItems": 1}, "minItems": 1},
        "A prompt as token ids: those of each candidate, at least one of each. In place of `user`, `items`, `recent`, `as_of` "
        "and `inputs`.",
        required=True,
    ),
    Field(
        "scores",
        "any",
        "array of numbers",
        {"type": "array", "items": {"type": "number"}},
        "The first stage's number of each candidate, such as BM25's. Required if the bundle's exit zero reads it, else refused.",
    ),
    Field(
        "top_k",
        "any",
        "integer, 0 to 2147483647",
        {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
        "Only the k most probable, best first. 0 or absent: all, in the order of the request.",
    ),
    Field(
        "deadline_ms",
        "any",
        "number above 0, at most 1e12",
        {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_MS},
        "Milliseconds from the request's arrival, waiting in a queue included. Candidates that are not finished by then answer "
        "from the deepest exit they have reached, and are marked `cut_short`.",
    ),
    Field(
        "force_exit",
        "any",
        "integer from 0",
        {"type": "integer", "minimum": 0},
        "The exit, from 0, at which every candidate stops, whatever the policy says.",
    ),
)
"""The fields of a request in JSON, in the order of the format page."""


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a request."""
    kinds = [{"required": [part.name for part in FIELDS if part.required and part.kind == kind]} for kind in ("items", "tokens")]
    return {
        "type": "object",
        "properties": {part.name: {**part.schema, "description": part.description} for part in FIELDS},
        "additionalProperties": False,
        "oneOf": kinds,
    }
