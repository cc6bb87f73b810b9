"""What a session is asked: a `Request`. The format page, the OpenAPI schema and the commands' help are made from its fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rexit.errors import InputError

MAX_CANDIDATES = 10_000
"""Most candidates of a request, be they items, documents or token ids, at every door; and most recent interactions."""
MAX_COUNT = (1 << 31) - 1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rexit.format.bundle.inputs import Value
    from rexit.format.ids import Id

    Ids = Sequence[Id] | NDArray[Any]
    Recent = Iterable[Id | tuple[Id, bool]]
    """Interactions newer than the catalog's, oldest first: ids of liked items, or pairs (id, liked)."""
    Values = Mapping[str, Value]
    Tokens = Sequence[int] | NDArray[Any]
    TokenLists = Sequence[Tokens]
    Documents = Sequence[str]
    StageScores = Mapping[str, Sequence[float | None] | NDArray[Any] | None]
else:  # the same in JSON
    _SLATE = msgspec.Meta(min_length=1, max_length=MAX_CANDIDATES)
    Id = int | str
    Ids = Annotated[list[Id], _SLATE]
    Recent = Annotated[list[Id | tuple[Id, bool]], msgspec.Meta(max_length=MAX_CANDIDATES)]
    Tokens = list[Annotated[int, msgspec.Meta(ge=0)]]
    Values = dict[str, str | float | Tokens | None]
    TokenLists = Annotated[
        list[Annotated[Tokens, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1, max_length=MAX_CANDIDATES)
    ]
    Documents = Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CANDIDATES)]
    StageScores = dict[str, list[float | None] | None]

LONGEST_MS = 1e12  # 31 years: as microseconds it fits every clock


def _field(kind: str, description: str) -> msgspec.Meta:
    return msgspec.Meta(title=kind, description=description)


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A slate for one user, or a prompt as token ids, which reads no catalog.

    Arrays of NumPy do where sequences do. None is the same as no field. The library reads the request as JSON and checks it: a
    mistake raises InputError when the request is scored.
    """

    user: Annotated[
        Id | None,
        _field(
            "integer or string",
            "The user's id, of the catalog's type. A user whom the catalog does not have is represented by `recent`.",
        ),
    ] = None
    items: Annotated[
        Ids | None,
        _field("array of integers or strings", "Ids of the candidates, at least one. All must be in the catalog."),
    ] = None
    retrieve: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_CANDIDATES)] | None,
        _field(
            "integer, 1 to the catalog's items",
            "In place of `items`: so many items of the catalog, those whose embeddings have the largest product with the user's. "
            "Items that the user has met, and those without an embedding, are left out.",
        ),
    ] = None
    recent: Annotated[
        Recent | None,
        _field(
            "array of ITEM or [ITEM, true or false]",
            "Interactions newer than the catalog's, oldest first: an item's id if it was liked, or the id and whether it was "
            "liked.",
        ),
    ] = None
    as_of: Annotated[
        Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None,
        _field("integer", "Only earlier interactions reach the prompt. A time in the catalog's unit. Absent: all."),
    ] = None
    inputs: Annotated[
        Values | None,
        _field(
            "object: NAME to string, number or array of token ids",
            "Values of the template's `{input.NAME}`, by name. A text is a string, if the bundle has a tokenizer, or its token "
            "ids.",
        ),
    ] = None
    scores: Annotated[
        StageScores | None,
        _field(
            "object: NAME to array of numbers or null",
            "First stages' numbers of each candidate, such as BM25's, by name. Null and a name that is absent are missing. "
            "Required if the bundle's exit zero reads scores, at least one of its names; else refused.",
        ),
    ] = None
    prefix: Annotated[
        Tokens | None, _field("array of token ids", "A prompt as token ids: what all candidates share. Absent: nothing.")
    ] = None
    candidates: Annotated[
        TokenLists | None,
        _field(
            "array of arrays of token ids",
            "A prompt as token ids: those of each candidate, at least one of each. In place of `user`, `items`, "
            "`retrieve`, `recent`, `as_of` and `inputs`.",
        ),
    ] = None
    query: Annotated[str | None, _field("string", "A text, for a bundle that takes texts: what `documents` are ranked by.")] = (
        None
    )
    documents: Annotated[
        Documents | None,
        _field(
            "array of strings",
            "The texts of the candidates, at least one. In place of `prefix` and `candidates`, which the library makes of them.",
        ),
    ] = None
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] | None,
        _field(
            "integer, 0 to 2147483647",
            "Only the k most probable, best first. 0 or absent: all, in the order of the request. It changes how many answers "
            "there are, not where candidates stop.",
        ),
    ] = None
    floor: Annotated[
        bool | None,
        _field(
            "true or false",
            "True: leaves out the candidates below the floor of the policy, which keeps a share of what is relevant. The others "
            "come best first; there may be none. Refused if the policy has none.",
        ),
    ] = None
    deadline_ms: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=LONGEST_MS)] | None,
        _field(
            "number above 0, at most 1e12",
            "Milliseconds from the request's arrival, waiting in a queue included. Candidates that are not finished by then "
            "answer from the deepest exit they have reached, and are marked `cut_short`.",
        ),
    ] = None
    force_exit: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        _field("integer from 0", "The exit, from 0, at which every candidate stops, whatever the policy says."),
    ] = None
    id: Annotated[str | float | None, _field("string or number", "Repeated in the answer.")] = None

    @classmethod
    def tokens(cls, prefix: Tokens, candidates: TokenLists, scores: StageScores | None = None) -> Request:
        """Returns a request of a prompt as token ids: the prefix's, which may be none, and each candidate's.

        The session caches the prefix as it caches a user's: the same tokens again cost nothing, and a common start is reused.
        """
        return cls(prefix=prefix, candidates=candidates, scores=scores)

    def to_json(self) -> bytes:
        """Returns the request as JSON, UTF-8. Raises InputError for what JSON cannot hold."""
        from rexit.format.bundle.files import short

        if isinstance(self.user, bytes | bytearray):  # JSON would hold its base64, a user whom nobody knows
            raise InputError(f"user is {short(self.user)}, expected a 64-bit integer or a string")
        request, scores = self, dict[str, Any]()
        if isinstance(self.scores, Mapping):
            scores = {name: _listed(values) for name, values in self.scores.items()}
            request = msgspec.structs.replace(self, scores=scores)
        inputs = self.inputs.items() if isinstance(self.inputs, Mapping) else ()
        numbers: dict[str, Any] = {
            "deadline_ms": self.deadline_ms,
            "id": self.id,
            **{f"inputs.{name}": value for name, value in inputs},
            **{f"scores.{name}[{n}]": value for name, values in scores.items() for n, value in _infinite(values)},
        }
        for name, value in numbers.items():  # JSON would hold null, which is the same as nothing
            is_number = isinstance(value, Real)
            if is_number and not -math.inf < value < math.inf:
                raise InputError(f"{name} is {value}, expected a finite number")
        try:
            return _ENCODER.encode(request)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise InputError(f"the request is not JSON: {exc}") from None


def _infinite(values: Any) -> Iterable[tuple[int, Real]]:
    """Returns the infinite numbers with their places. NaN is null in JSON: missing."""
    numbers = values if isinstance(values, list) else ()
    return [(n, value) for n, value in enumerate(numbers) if isinstance(value, Real) and value in (math.inf, -math.inf)]


def _listed(values: Any) -> Any:
    """Returns arrays and other collections of numbers as lists, which can be read twice; anything else as it is."""
    is_other = isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable)
    return values if is_other else _plain(values)


def _plain(value: Any) -> Any:
    """Returns arrays, NumPy's numbers and other collections as what JSON has."""
    for convert in ("tolist", "to_list"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}, expected a string, a number, an array or an object")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a request."""
    _, components = msgspec.json.schema_components([Request])
    kinds = [
        {"required": list(kind)} for kind in (("user", "items"), ("user", "retrieve"), ("candidates",), ("query", "documents"))
    ]
    return {**components["Request"], "additionalProperties": False, "oneOf": kinds}


def summaries() -> dict[str, str]:
    """Returns the first sentence of each field's description, for the help of commands."""
    fields: dict[str, dict[str, str]] = json_schema()["properties"]
    return {name: field["description"].partition(". ")[0].removesuffix(".") + "." for name, field in fields.items()}


def check_count(name: str, count: int) -> None:
    """Raises InputError for more entries than `MAX_CANDIDATES`."""
    if count > MAX_CANDIDATES:
        raise InputError(f"{name} has {count} entries, expected at most {MAX_CANDIDATES}")


def check_deadline(deadline_ms: float) -> None:
    """Raises InputError for a deadline that is not a number above 0 and at most `LONGEST_MS` milliseconds."""
    is_number = isinstance(deadline_ms, Real) and not isinstance(deadline_ms, bool)
    if not is_number or not 0 < deadline_ms <= LONGEST_MS:
        raise InputError(f"deadline_ms is {deadline_ms!r}, expected a number above 0 and at most 1e12")
