"""From what callers pass to what the compiled module takes. Everything raises InputError for anything else."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Id, TopK
from rexit.bundle.context import Value
from rexit.bundle.request_text import Text
from rexit.errors import InputError
from rexit.runtime import _native

Recent = Iterable[Id | tuple[Id, bool]]
"""Interactions newer than the catalog's, oldest first: ids of liked items, or pairs of an id and whether the item was liked."""


@dataclass(frozen=True)
class StopRule:
    """Replaces the bundle's stopping rules for one request. The bundle's Platt maps stay.

    Attributes:
        upper: Thresholds on c, one per exit; inf: never.
        lower: Thresholds on -c, one per exit; inf: never.
        patience: How many heads in a row must agree on the sign of c before a candidate stops.
        quorum: The share of a slate that stops together; 0: no such rule. As in `rexit.bundle.Policy`.
        top_k: The top-k rule; None: no such rule.
    """

    upper: Sequence[float]
    lower: Sequence[float]
    patience: int = 1
    quorum: float = 0.0
    top_k: TopK | None = None


def to_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if "\0" in text:
        raise InputError(f"path is {text!r}: it must not hold a NUL character")
    return text


def to_place(bundle: str | os.PathLike[str] | bytes) -> str | bytes:
    """A bundle's path, or its archive."""
    return bundle if isinstance(bundle, bytes) else to_path(bundle)


def to_provider_options(options: Mapping[str, str]) -> list[tuple[str, str]]:
    for key, value in options.items():
        if not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value:
            raise InputError(f"provider.options has {key!r}: {value!r}, expected strings without a NUL character")
    return list(options.items())


def to_integer(name: str, value: Any, bits: int = 63) -> int:
    """The integer that a value is. bits: 31: from 0 to below 2^31."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):  # True is 1 to Python, and would be user 1
        raise InputError(f"{name} is {value!r}, expected an integer")
    if not -(1 << bits) <= number < 1 << bits or (bits == 31 and number < 0):
        raise InputError(f"{name} is {number}, out of range")
    return number


def to_size(name: str, value: Any) -> int:
    number = to_integer(name, value)
    if number < 0:
        raise InputError(f"{name} is {number}, expected 0 or more")
    return number


def to_share(name: str, value: Any) -> float:
    """A number from 0 to 1, which NaN is not."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}, expected a share from 0 to 1")
    return float(value)


def to_plain_id(name: str, value: Any) -> Id:
    if isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{name} is {value!r}: an id must not hold a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} is {value!r}: UTF-8 cannot hold it") from None
        return str(value)
    return to_integer(name, value)


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
        numbers = [to_integer(f"{name}[{n}]", token) for n, token in enumerate(_sequence(name, values, "token ids"))]
        array = np.array(numbers, np.int64)
    if len(array) and (int(array.min()) < 0 or int(array.max()) >= 1 << 31):
        at = int(((array < 0) | (array >= 1 << 31)).argmax())
        raise InputError(f"{name}[{at}] is {int(array[at])}, expected a token id")
    return np.ascontiguousarray(array, np.int32)


def _integers(values: Any) -> NDArray[Any] | None:
    """The values as one array of integers; None if they are none."""
    if not isinstance(values, np.ndarray | list | tuple):
        return None
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
                f"recent[{n}] is {interaction!r}, expected an item id or a pair of an item id and whether it was liked"
            )
        item, verdict = interaction if isinstance(interaction, tuple) else (interaction, True)
        ids.append(to_plain_id(f"recent[{n}]", item))
        liked.append(int(bool(verdict)))
    return ids, liked


def to_context(context: Mapping[str, Value] | None) -> list[tuple[str, float | str]]:
    """Names and values. An integer that a float cannot hold goes as text, which means the same."""
    if context is not None and not isinstance(context, Mapping):
        raise InputError(f"context is {context!r}, expected a mapping from names to values")
    return [(_to_text("a name in context", name), _to_context_value(name, value)) for name, value in (context or {}).items()]


def _to_context_value(name: str, value: Any) -> float | str:
    if isinstance(value, str):
        return _to_text(f"context {name!r}", value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"context {name!r} is {value!r}, expected a string or a number")
    return str(int(value)) if isinstance(value, int | np.integer) and abs(int(value)) >= 1 << 53 else float(value)


def _to_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}, expected a string")
    if "\0" in value:
        raise InputError(f"{name} is {value!r}: it must not hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is {value!r}: UTF-8 cannot hold it") from None
    return str(value)


def to_texts(request: Mapping[str, Text] | None, encode: Callable[[str, str], Any]) -> list[tuple[str, list[int]]]:
    """Names and token ids of a request's texts. encode: Returns the tokens of a text, by its name."""
    if request is not None and not isinstance(request, Mapping):
        raise InputError(f"request is {request!r}, expected a mapping from names to texts or token ids")
    texts = []
    for name, value in (request or {}).items():
        tokens = encode(_to_text("a name in request", name), value) if isinstance(value, str) else value
        texts.append((_to_text("a name in request", name), to_tokens(f"request text {name!r}", tokens).tolist()))
    return texts


def to_rules(policy: StopRule, exits: int) -> _native._Rules:
    upper, lower = [float(v) for v in policy.upper], [float(v) for v in policy.lower]
    if len(upper) != exits or len(lower) != exits:
        raise InputError(f"policy has {len(upper)} upper and {len(lower)} lower thresholds, the bundle has {exits} exits")
    top_k: _native._TopK | None = None
    if (rule := policy.top_k) is not None:
        rise, fall = [float(v) for v in rule.rise], [float(v) for v in rule.fall]
        if len(rise) != exits - 1 or len(fall) != exits - 1:
            raise InputError(f"policy.top_k has {len(rise)} rises and {len(fall)} falls, expected {exits - 1} of each")
        top_k = to_integer("policy.top_k.k", rule.k, 31), bool(rule.ordered), rise, fall
    return upper, lower, to_integer("policy.patience", policy.patience, 31), float(policy.quorum), top_k


def _sequence(name: str, values: Any, of: str) -> Iterable[Any]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} is a string, expected a sequence of {of}")
    try:
        iter(values)
    except TypeError:
        raise InputError(f"{name} is {values!r}, expected a sequence of {of}") from None
    return cast(Iterable[Any], values)
