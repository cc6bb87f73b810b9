"""From what callers pass to what the compiled module takes. Everything raises InputError for anything else."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.bundle import Id, TopK
from rexit.bundle.typed import short
from rexit.errors import InputError
from rexit.request import AnyRequest, TokenRequest, check_deadline

if TYPE_CHECKING:
    from rexit.request import Recent

_INT64 = -(1 << 63), (1 << 63) - 1

NativeInput = float | str | list[int]
"""A value of an input as the compiled module takes it."""
NativeRequest = tuple[NDArray[Any], _native.Request]


@dataclass(frozen=True)
class StopRule:
    """Replaces the bundle's stopping rules for one request. The bundle's Platt maps stay.

    Attributes:
        upper: Thresholds on c, one per exit; inf: never.
        lower: Thresholds on -c, one per exit; inf: never.
        patience: How many heads in a row must agree on the sign of c before a candidate stops.
        quorum: The last so many candidates of a slate stop together; 0: no such rule. As in `rexit.bundle.Policy`.
        top_k: The top-k rule; None: no such rule.
        keep: How many candidates of a slate go on at most, one per exit; 0: no limit. Empty: no limits.
    """

    upper: Sequence[float]
    lower: Sequence[float]
    patience: int = 1
    quorum: int = 0
    top_k: TopK | None = None
    keep: Sequence[int] = ()


def to_text(name: str, value: Any) -> str:
    """A string that C and UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {short(value)}, expected a string")
    if "\0" in value:
        raise InputError(f"{name} has a NUL, expected text without one")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is {short(value)}: UTF-8 cannot hold it") from None
    return str(value)


def to_place(bundle: str | os.PathLike[str] | bytes) -> str | bytes:
    """A bundle's path, or its archive."""
    return bundle if isinstance(bundle, bytes) else to_text("path", os.fspath(bundle))


def to_provider_options(options: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(to_text("a key of provider.options", key), to_text(f"provider.options[{key!r}]", options[key])) for key in options]


def to_integer(name: str, value: Any, low: int = _INT64[0], high: int = _INT64[1], expected: str = "") -> int:
    """The integer that a value is, from `low` to `high`. expected: for messages, instead of these."""
    expected = expected or f"an integer from {low} to {high}"
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {short(value)}, expected {expected}") from None
    if isinstance(value, bool) or not low <= number <= high:  # True is 1 to Python, and would be user 1
        seen = short(value) if number.bit_length() < 128 else f"an integer of {number.bit_length()} bits"
        raise InputError(f"{name} is {seen}, expected {expected}")
    return number


def to_natural(name: str, value: Any) -> int:
    return to_integer(name, value, 0, (1 << 31) - 1)


def to_size(name: str, value: Any) -> int:
    return to_integer(name, value, 0)


def to_plain_id(name: str, value: Any) -> Id:
    return to_text(name, value) if isinstance(value, str) else to_integer(name, value, expected="a 64-bit integer or a string")


def to_plain_ids(name: str, values: Any) -> tuple[NDArray[Any], list[Id]]:
    """Ids as an array, for the answer, and as plain Python values."""
    plain = [to_plain_id(f"{name}[{n}]", value) for n, value in enumerate(_sequence(name, values, "ids"))]
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values, plain
    if all(isinstance(value, int) for value in plain):
        return np.array(plain, np.int64), plain
    ids = np.empty(len(plain), object)
    ids[:] = plain
    return ids, plain


def to_tokens(name: str, values: Any) -> NDArray[np.int32]:
    """Token ids, int32 [T]."""
    array = _integers(values)
    if array is None:  # slower, and says what is wrong
        array = np.array([_to_token(f"{name}[{n}]", token) for n, token in enumerate(_sequence(name, values, "token ids"))], int)
    if len(array) and (int(array.min()) < 0 or int(array.max()) >= 1 << 31):
        at = int(((array < 0) | (array >= 1 << 31)).argmax())
        raise InputError(f"{name}[{at}] is {int(array[at])}, expected a token id")
    return np.ascontiguousarray(array, np.int32)


def _to_token(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 1 << 31:
        raise InputError(f"{name} is {short(value)}, expected a token id")
    return int(value)


def _integers(values: Any) -> NDArray[Any] | None:
    """The values as one array of integers; None if they are none."""
    if not isinstance(values, np.ndarray | list | tuple):
        return None
    if not isinstance(values, np.ndarray) and not {bool, np.bool_}.isdisjoint(map(type, values)):
        return None  # among integers, NumPy takes True as 1
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists of different lengths
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iu" else None


def to_token_lists(name: str, values: Any) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """All tokens of lists of token ids, int32, and how many each list has, uint64 [n]."""
    lists = [to_tokens(f"{name}[{n}]", tokens) for n, tokens in enumerate(_sequence(name, values, "lists of token ids"))]
    counts = np.array([len(tokens) for tokens in lists], np.uint64)
    return np.concatenate([np.zeros(0, np.int32), *lists]), counts


def to_recent(recent: Recent | None) -> tuple[list[Id], list[int]]:
    """Ids of items, and whether each item was liked: 1 or 0."""
    ids: list[Id] = []
    liked: list[int] = []
    for n, interaction in enumerate(() if recent is None else _sequence("recent", recent, "interactions")):
        if isinstance(interaction, tuple) and len(interaction) != 2:
            raise InputError(
                f"recent[{n}] is {short(interaction)}, expected an item id or a pair of an item id and whether it was liked"
            )
        item, verdict = interaction if isinstance(interaction, tuple) else (interaction, True)
        ids.append(to_plain_id(f"recent[{n}]", item))
        liked.append(int(bool(verdict)))
    return ids, liked


def to_request(request: AnyRequest, encode: Callable[[Mapping[str, Any]], list[tuple[str, NativeInput]]]) -> NativeRequest:
    """The candidates' ids as an array, and the request as the compiled module takes it. encode: Returns the inputs' values as it
    takes them."""
    if isinstance(request, TokenRequest):
        candidates, counts = to_token_lists("candidates", request.candidates)
        tokens = _native.Tokens(to_tokens("prefix", request.prefix), candidates, counts)
        return np.arange(len(counts)), _with_scores(_native.Request(tokens), request)
    ids, items = to_plain_ids("items", request.items)
    native = _native.Request(to_plain_id("user", request.user)).items(items).recent(*to_recent(request.recent))
    if request.as_of is not None:
        native.as_of(to_integer("as_of", request.as_of, expected="a 64-bit integer"))
    inputs = {} if request.inputs is None else request.inputs
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs is {short(inputs)}, expected an object of values by name")
    for name, value in encode(inputs) if inputs else ():
        native.input(name, value)
    return ids, _with_scores(native, request)


def _with_scores(native: _native.Request, request: AnyRequest) -> _native.Request:
    if request.scores is None:
        return native
    scores = list(_sequence("scores", request.scores, "numbers"))
    for n, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float | np.number):
            raise InputError(f"scores[{n}] is {short(score)}, expected a number")
    with np.errstate(over="ignore"):  # beyond float32 a number is infinite, which is refused
        return native.scores([float(np.float32(score)) for score in scores])


def to_policy(policy: StopRule | None) -> _native.Policy | None:
    """The compiled module checks the lengths."""
    if policy is None:
        return None
    upper, lower = [float(v) for v in policy.upper], [float(v) for v in policy.lower]
    top_k = None
    if (rule := policy.top_k) is not None:
        rise, fall = [float(v) for v in rule.rise], [float(v) for v in rule.fall]
        top_k = _native.TopK(to_natural("policy.top_k.k", rule.k), bool(rule.ordered), rise, fall)
    keep = [to_natural(f"policy.keep[{k}]", count) for k, count in enumerate(policy.keep)]
    patience, quorum = to_natural("policy.patience", policy.patience), to_natural("policy.quorum", policy.quorum)
    return _native.Policy(upper, lower, patience, quorum, top_k, keep)


def to_exit(force_exit: int | None) -> int | None:
    return None if force_exit is None else to_natural("force_exit", force_exit)


def to_deadline_us(deadline_ms: float | None) -> int:
    """In whole microseconds; 0: none."""
    if deadline_ms is None:
        return 0
    check_deadline(deadline_ms)
    return max(1, round(deadline_ms * 1000))


def _sequence(name: str, values: Any, of: str) -> Iterator[Any]:
    try:
        iterator: Iterator[Any] | None = None if isinstance(values, str | bytes | Mapping) else iter(values)
    except TypeError:
        iterator = None
    if iterator is None:
        raise InputError(f"{name} is {short(values)}, expected an array of {of}")
    return iterator
