"""The kinds of inputs: what the values of each are, and a value of given codes. The library has their codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Value = str | int | float | Sequence[int] | NDArray[Any]
"""A value as a caller passes it: a text, a number, or token ids."""
Tokenize = Callable[[str, bool], Sequence[int]]
"""Returns a text's token ids. The second argument is the input's `spaced`."""

_DIGITS = (*"0123456789", ".")
"""The text of each code of a number in digits. Behind them, if it is spaced, come the digits that begin a number."""
_MAX_LISTED = 10


class Kind(Protocol):
    """A kind of inputs.

    Attributes:
        max_codes: Maximum number of codes of a value.
        texts: The text of each code in a prompt, unless the template has words; None: codes are token ids.
        expected: What a value must be, for messages.
        example: A value for measurements on made-up requests.
    """

    max_codes: int
    texts: tuple[str, ...] | None
    expected: str
    example: Value

    def decode(self, codes: list[int]) -> Value:
        """Returns a value with these codes, at least one, if there is one; else another, or raises LookupError or ValueError."""


class Values(Kind):
    """A list of values, each with its number as its code."""

    def __init__(self, values: tuple[str, ...]) -> None:
        more = ", …" if len(values) > _MAX_LISTED else ""
        self.max_codes, self.texts, self.example = 1, values, values[0]
        self.expected = f"one of {', '.join(values[:_MAX_LISTED])}{more}"
        self._values = values

    def decode(self, codes: list[int]) -> Value:
        (code,) = codes
        return self._values[code]


class Bins(Kind):
    """Bins of numbers, each with its number as its code."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.max_codes, self.texts, self.example = 1, tuple(map(str, edges[:-1])), edges[0]
        self.expected = f"a number from {edges[0]:g} to below {edges[-1]:g}"
        self._edges = edges

    def decode(self, codes: list[int]) -> Value:
        (code,) = codes
        return self._edges[:-1][code]


class Digits(Kind):
    """A number, with a code for each digit and for the point."""

    def __init__(self, digits: int, spaced: bool) -> None:
        self.max_codes, self.example = len("0.") + digits, int("3" * digits)
        self.texts = (*_DIGITS, *(f" {digit}" for digit in _DIGITS[:10])) if spaced else _DIGITS
        self.expected = f"a number from 0 to below {10**digits}"
        self._digits = digits

    def decode(self, codes: list[int]) -> Value:
        return min(float("".join(self.texts[code] for code in codes)), math.nextafter(10**self._digits, 0))


class Text(Kind):
    """A text, whose codes are its token ids. The example has half the maximum, all 0."""

    def __init__(self, max_tokens: int) -> None:
        self.max_codes, self.texts, self.example = max_tokens, None, np.zeros((max_tokens + 1) // 2, np.int32)
        self.expected = f"at most {max_tokens} tokens"

    def decode(self, codes: list[int]) -> Value:
        return np.array(codes, np.int32)
