"""Inputs: what a request says for each `{input.NAME}` of a template, and its encoding.

Rules
1. An input is of one kind: a list of values, bins of numbers (bin i holds bins[i] <= number < bins[i + 1]), a number in digits,
   or a text.
2. Every value becomes codes, int32: a value its number, a number its bin's or its digits, a text its token ids. A missing value
   has none.
3. A whole number below 2^53 matches the value that is written like it: 13 and 13.0 are "13". For bins and digits, a text in
   decimal syntax is the number it spells.
4. A missing value is refused, and so is one outside the values or the range; an optional input takes both as missing.
5. A text with too many tokens, a bad token id and a value of a wrong type are always refused. A text is never cut.
6. A text's tokens are in the prompt as they are. `spaced`: the space before the placeholder belongs to the text's tokens, or to
   the first digit, which then has a code of its own.
7. A number in digits is from 0 to below 10^digits. It is rounded to `digits` significant digits and at most `digits` decimals,
   exact ties to the even digit, and written without exponent and trailing zeros.

The library encodes; the classes of kinds say what the values of each are. What surrounds them knows codes only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.errors import BundleError, InputError
from rexit.format.bundle.files import Name, Positive, short, to_json, typed

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


MAX_VALUES = 4096
"""Maximum number of values, and of bins."""
MAX_TOKENS = 4096
"""Maximum of `max_tokens`."""
MAX_DIGITS = 9
"""Maximum of `digits`."""
COLUMN = "input."
"""Begins an input's placeholder, and the name of its column in a catalog's splits."""

Codes = NDArray[np.int32]


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """One input.

    Attributes:
        name: NAME of `{input.NAME}`.
        values: Its values; empty for another kind.
        bins: Ascending edges of its bins; empty for another kind.
        digits: Maximum number of significant digits of a number; None for another kind.
        max_tokens: Maximum number of tokens of a text; None for another kind.
        spaced: Whether a text begins with a space before it is tokenized, and a number's first digit with one.
        optional: Whether a value may be missing.
    """

    name: Name
    values: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_VALUES)] = ()
    bins: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_VALUES + 1)] = ()
    digits: Annotated[int, msgspec.Meta(ge=1, le=MAX_DIGITS)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)] | None = None
    spaced: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        if len(self._kinds) != 1:
            *names, last = (f"`{kind}`" for kind in KINDS)
            raise ValueError(f"expected one of {', '.join(names)} and {last}")
        if self.spaced and self.kind not in SPACED:
            raise ValueError(f"`spaced` is only for an input with `{'` or `'.join(SPACED)}`")
        if len(set(self.values)) != len(self.values):
            twice = next(value for value in self.values if self.values.count(value) > 1)
            raise ValueError(f"values: `{twice}` appears twice")
        if len(self.bins) == 1 or list(self.bins) != sorted(set(self.bins)) or not np.isfinite(self.bins).all():
            raise ValueError(f"bins: expected 2 to {MAX_VALUES + 1} ascending numbers")

    @property
    def _kinds(self) -> list[str]:
        return [kind for kind in KINDS if getattr(self, kind)]

    @cached_property
    def encoder(self) -> Kind:
        """What its values are, and their codes."""
        return KINDS[self.kind](self)

    @property
    def kind(self) -> str:
        """The key that says its kind, one of KINDS."""
        return self._kinds[0]

    @property
    def words(self) -> tuple[str, ...]:
        """The text of each value or bin, which a template may replace; empty for another kind."""
        return self.encoder.texts or () if self.values or self.bins else ()

    def encode(self, value: Value | None, tokenize: Tokenize | None = None, vocabulary: int = 1 << 31) -> Codes:
        """Returns a value's codes, int32 [at most max_codes]; none if it is missing.

        Args:
            value: None: the request leaves it out.
            tokenize: For a text that is not token ids already.
            vocabulary: Token ids are below this.

        Raises:
            InputError: The value is refused.
        """
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(plain, str):
            plain = self._text(plain, tokenize)
        if isinstance(plain, Sequence) and not isinstance(plain, str | bytes):
            return self._library.encode(self._token_ids(plain, vocabulary), vocabulary)
        if isinstance(plain, Real) and not isinstance(plain, bool):
            try:
                return self._library.encode(float(plain), vocabulary)
            except OverflowError:
                return self._library.encode(math.inf, vocabulary)
        if plain is None or isinstance(plain, str):
            return self._library.encode(plain, vocabulary)
        expected = self.encoder.expected if self.max_tokens is None else "a text or token ids"
        raise InputError(f"inputs.{self.name} is {short(plain)}, expected {expected}")

    @cached_property
    def _library(self) -> _native.Input:
        return _native.Input(msgspec.json.encode(self))

    def _text(self, text: str, tokenize: Tokenize | None) -> str | Sequence[int]:
        """Returns a text's tokens, or the text that is a value or a number."""
        where = f"inputs.{self.name}"
        if self.max_tokens is not None and tokenize is None:
            raise InputError(
                f"{where} is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --with-tokenizer`"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} is {short(text)}: UTF-8 cannot hold it") from None
        return text if self.max_tokens is None or tokenize is None else tokenize(text, self.spaced)

    def _token_ids(self, tokens: Sequence[Any], vocabulary: int) -> NDArray[np.int64]:
        """Returns token ids as an array, int64 [n]. The library checks them."""
        if self.max_tokens is None:
            raise InputError(f"inputs.{self.name} is {short(tokens)}, expected {self.encoder.expected}")
        for n, token in enumerate(tokens):
            if isinstance(token, bool) or not isinstance(token, Integral) or not abs(int(token)) < 1 << 63:
                raise InputError(f"inputs.{self.name}[{n}] is {short(token)}, expected a token id from 0 to {vocabulary - 1}")
        return np.array(tokens, np.int64)

    def decode(self, codes: Codes) -> Value | None:
        """Returns a value with these codes, as `Session.score` takes it; None if it is missing. Raises BundleError if there is
        none."""
        if not len(codes) and self.optional:
            return None
        try:
            if not len(codes) or min(codes) < 0:
                raise LookupError
            value = self.encoder.decode(codes.tolist())
            if self.encode(value).tolist() != codes.tolist():
                raise LookupError
            return value
        except (LookupError, ValueError, InputError):
            raise BundleError(
                f"inputs.{self.name} has the codes {short(codes.tolist())}, expected {self.encoder.expected}"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The input as `prompt.inputs` of catalog.json lists it."""
        return to_json(self)


KINDS: Mapping[str, Callable[[Input], Kind]] = {
    "values": lambda entry: Values(entry.values),
    "bins": lambda entry: Bins(entry.bins),
    "digits": lambda entry: Digits(entry.digits or 0, entry.spaced),
    "max_tokens": lambda entry: Text(entry.max_tokens or 0),
}
"""The encoder of each kind, by the key that says the kind."""
SPACED = ("digits", "max_tokens")
"""Kinds whose codes carry the space before the placeholder; the pieces of others do."""


class _Tokenizer(msgspec.Struct, frozen=True):
    vocab_size: Positive


class _Info(msgspec.Struct, frozen=True):
    tokenizer: _Tokenizer


class _Op(msgspec.Struct, frozen=True):
    """An op that places an input."""

    name: Name
    pieces: tuple[int, ...] | None = None
    missing: int | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of a prompt program. Empty if it has none.

    Attributes:
        entries: In the order of their first places.
        vocabulary: Token ids of texts are below this.
    """

    entries: tuple[Input, ...] = ()
    vocabulary: int = 1 << 31

    @classmethod
    def of(cls, info: Mapping[str, Any], where: str) -> Inputs:
        """Reads catalog.json. Raises BundleError, which names the file `where`."""
        prompt = info["prompt"]
        entries = typed(prompt.get("inputs") or [], tuple[Input, ...], where, at="prompt inputs")
        inputs = {entry.name: entry for entry in entries}
        placed = []
        for part in ("prefix", "candidate"):
            for n, value in enumerate(prompt.get(part, [])):
                if value["op"] != "input":
                    continue
                at = f"prompt {part}[{n}]"
                op = typed(value, _Op, where, at=at)
                placed.append(op.name)
                if op.name in inputs and (problem := _op_problem(op, inputs[op.name])):
                    raise BundleError(f"{where}: {at}: {problem}")
        if list(dict.fromkeys(placed)) != [entry.name for entry in entries]:
            raise BundleError(
                f"{where}: prompt inputs: lists {[entry.name for entry in entries]}, its ops place {list(dict.fromkeys(placed))}"
            )
        return cls(entries, typed(info, _Info, where).tokenizer.vocab_size) if entries else cls()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """The inputs' names."""
        return [entry.name for entry in self.entries]

    @property
    def width(self) -> int:
        """Maximum number of codes of a request."""
        return sum(entry.encoder.max_codes for entry in self.entries)

    def check_names(self, names: Iterable[str]) -> None:
        """Raises InputError for a name that prompts do not place."""
        for name in names:
            if name not in self.names:
                known = f"it has: {', '.join(self.names)}" if self.entries else "it has none"
                raise InputError(f"inputs.{name}: the prompt has no such input, {known}")

    def encode(self, values: Mapping[str, Value] | None, tokenize: Tokenize | None = None) -> tuple[Codes, ...]:
        """Returns the codes of a request's values, in the order of the inputs.

        Args:
            values: By name.
            tokenize: As in `Input.encode`.

        Raises:
            InputError: A name is unknown, or a value is refused.
        """
        values = values or {}
        self.check_names(values)
        return tuple(entry.encode(values.get(entry.name), tokenize, self.vocabulary) for entry in self.entries)

    def decode(self, codes: Sequence[Codes]) -> dict[str, Value]:
        """Returns the values with these codes by name, as `Session.score` takes them, without missing ones. Raises BundleError if
        there are none."""
        if len(codes) != len(self.entries):
            raise BundleError(f"{len(codes)} inputs, the prompt has {len(self.entries)}")
        pairs = [(entry.name, entry.decode(part)) for entry, part in zip(self.entries, codes, strict=True)]
        return {name: value for name, value in pairs if value is not None}

    def example(self) -> dict[str, Value]:
        """Returns an example of each value."""
        return {entry.name: entry.encoder.example for entry in self.entries}


def _op_problem(op: _Op, entry: Input) -> str | None:
    if entry.optional != (op.missing is not None):
        return f"`missing` is {op.missing}, the input `{op.name}` is {'optional' if entry.optional else 'not optional'}"
    count, expected = (None if pieces is None else len(pieces) for pieces in (op.pieces, entry.encoder.texts))
    if count != expected:
        return f"pieces: has {count or 'none'}, expected {expected or 'none'}"
    return None
