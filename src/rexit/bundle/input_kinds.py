"""The kinds of inputs: how each turns values into codes, by the rules of `rexit.bundle.inputs`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.files import short
from rexit.errors import InputError

Value = str | int | float | Sequence[int] | NDArray[Any]
"""A value as a caller passes it: a text, a number, or token ids."""
Tokenize = Callable[[str, bool], Sequence[int]]
"""Returns a text's token ids. The second argument is the input's `spaced`."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DIGITS = (*"0123456789", ".")
"""The text of each code of a number in digits. Behind them, if it is spaced, come the digits that begin a number."""
_MAX_EXACT = 1 << 53
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

    def encode(self, value: Value, where: str, tokenize: Tokenize | None, vocabulary: int) -> Sequence[int]:
        """Returns a value's codes; none if it is unknown. Raises InputError if it is always refused."""

    def decode(self, codes: list[int]) -> Value:
        """Returns a value with these codes, at least one. Raises LookupError or ValueError if there is none."""


class Values(Kind):
    """A list of values, each with its number as its code."""

    def __init__(self, values: tuple[str, ...]) -> None:
        more = ", …" if len(values) > _MAX_LISTED else ""
        self.max_codes, self.texts, self.example = 1, values, values[0]
        self.expected = f"one of {', '.join(values[:_MAX_LISTED])}{more}"
        self._values, self._codes = values, {value: code for code, value in enumerate(values)}

    def encode(self, value: Value, where: str, tokenize: Tokenize | None, vocabulary: int) -> Sequence[int]:
        if not isinstance(value, str):
            number = _to_number(value, where, self.expected)
            if not abs(number) < _MAX_EXACT or not number.is_integer():
                return []
            value = str(int(number))
        return [self._codes[value]] if value in self._codes else []

    def decode(self, codes: list[int]) -> Value:
        (code,) = codes
        return self._values[code]


class Bins(Kind):
    """Bins of numbers, each with its number as its code."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.max_codes, self.texts, self.example = 1, tuple(map(str, edges[:-1])), edges[0]
        self.expected = f"a number from {edges[0]:g} to below {edges[-1]:g}"
        self._edges = edges

    def encode(self, value: Value, where: str, tokenize: Tokenize | None, vocabulary: int) -> Sequence[int]:
        number = _to_number(value, where, self.expected)
        if not self._edges[0] <= number < self._edges[-1]:  # false for NaN
            return []
        return [int(np.searchsorted(self._edges, number, "right")) - 1]

    def decode(self, codes: list[int]) -> Value:
        (code,) = codes
        return self._edges[:-1][code]


class Digits(Kind):
    """A number, with a code for each digit and for the point."""

    def __init__(self, digits: int, spaced: bool) -> None:
        self.max_codes, self.example = len("0.") + digits, int("3" * digits)
        self.texts = (*_DIGITS, *(f" {digit}" for digit in _DIGITS[:10])) if spaced else _DIGITS
        self.expected = f"a number from 0 to below {10**digits}"
        self._digits, self._spaced = digits, spaced

    def encode(self, value: Value, where: str, tokenize: Tokenize | None, vocabulary: int) -> Sequence[int]:
        number = _to_number(value, where, self.expected)
        if not 0 <= number < 10**self._digits:  # false for NaN
            return []
        whole = int(number)
        text = f"{abs(number):.{self._digits - len(str(whole)) if whole else self._digits}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        first, *others = map(_DIGITS.index, text)
        return [first + (len(_DIGITS) if self._spaced else 0), *others]

    def decode(self, codes: list[int]) -> Value:
        number = min(float("".join(self.texts[code] for code in codes)), math.nextafter(10**self._digits, 0))
        if self.encode(number, "", None, 0) != codes:
            raise LookupError
        return number


class Text(Kind):
    """A text, whose codes are its token ids. The example has half the maximum, all 0."""

    def __init__(self, max_tokens: int, spaced: bool) -> None:
        self.max_codes, self.texts, self.example = max_tokens, None, np.zeros((max_tokens + 1) // 2, np.int32)
        self.expected = f"at most {max_tokens} tokens"
        self._spaced = spaced

    def encode(self, value: Value, where: str, tokenize: Tokenize | None, vocabulary: int) -> Sequence[int]:
        if isinstance(value, str):
            if tokenize is None:
                raise InputError(
                    f"{where} is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --with-tokenizer`"
                )
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(f"{where} is {short(value)}: UTF-8 cannot hold it") from None
            value = tokenize(value, self._spaced)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise InputError(f"{where} is {short(value)}, expected a text or token ids")
        if len(value) > self.max_codes:
            raise InputError(f"{where} has {len(value)} tokens, expected at most {self.max_codes}")
        for n, token in enumerate(value):
            if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= int(token) < vocabulary:
                raise InputError(f"{where}[{n}] is {short(token)}, expected a token id from 0 to {vocabulary - 1}")
        return value

    def decode(self, codes: list[int]) -> Value:
        if len(codes) > self.max_codes:
            raise LookupError
        return np.array(codes, np.int32)


def _to_number(value: Any, where: str, expected: str) -> float:
    """Returns a number, or the one that a text spells, as float64; NaN for another text. Raises InputError for another type."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else np.nan
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{where} is {short(value)}, expected {expected}")
    return float(value)
