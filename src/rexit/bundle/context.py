"""Context: what a request says of its moment, by name (`{context.NAME}` in a template), and the values that prompts know.

Rules
1. A context has a list of values, or bins of numbers: bin i holds edges[i] <= number < edges[i + 1].
2. A whole number matches the value that is written like it: 13 is "13". Of bins, a text that is a number is that number.
3. Any other value, and a context that the request leaves out, is unknown: refused, or read as `words.missing` of the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle.files import check_requires
from rexit.bundle.typed import Name, to_json, typed
from rexit.errors import BundleError, InputError

REQUIRED = "context"
"""In `requires` if prompts place a context."""
MOST_VALUES = 4096
"""Most values of a context, and most bins."""
UNKNOWN = ("refuse", "missing")
"""What happens to a value that a context does not know."""
MISSING = -1
"""The number of a value that is unknown."""

Value = str | int | float
"""A value as a caller passes it."""


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """One context.

    Attributes:
        name: NAME of `{context.NAME}`.
        values: The values, in the program's order; empty if it has bins.
        edges: Ascending edges of the bins (`bins` in JSON); empty if it has values.
        unknown: One of UNKNOWN.
    """

    name: Name
    values: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_VALUES)] = ()
    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=MOST_VALUES + 1)] = msgspec.field(name="bins", default=())
    unknown: Annotated[str, msgspec.Meta(pattern="^(refuse|missing)$")]

    def __post_init__(self) -> None:
        if bool(self.values) == bool(self.edges):
            raise ValueError("expected either `values` or `bins`")
        if len(set(self.values)) != len(self.values):
            raise ValueError("values: one of them appears twice")
        if len(self.edges) == 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"bins: expected 2 to {MOST_VALUES + 1} ascending numbers")

    def __len__(self) -> int:
        return len(self.values) or len(self.edges) - 1

    @property
    def expected(self) -> str:
        """What a value must be, for messages."""
        if self.edges:
            return f"a number from {self.edges[0]:g} to below {self.edges[-1]:g}"
        more = ", …" if len(self.values) > 10 else ""
        return f"one of {', '.join(self.values[:10])}{more}"

    def find(self, value: Value) -> int | None:
        """The number of a value's entry or bin; None if it is unknown."""
        if not self.edges:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            return self._numbers.get(str(value))
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        if not self.edges[0] <= number < self.edges[-1]:  # false for NaN
            return None
        return int(np.searchsorted(self.edges, number, "right")) - 1

    def number(self, value: Value | None) -> int:
        """The number of a value's entry or bin, MISSING where the context takes that. None: the request leaves it out.

        Raises:
            InputError: The value is unknown, and refused.
        """
        found = None if value is None else self.find(value)
        if found is None and self.unknown == "refuse":
            seen = "missing" if value is None else repr(value)
            raise InputError(f"context {self.name!r} is {seen}, expected {self.expected}")
        return MISSING if found is None else found

    def value(self, number: int) -> Value | None:
        """A value with this number, as `Session.score` takes it; None for MISSING. Raises BundleError if there is none."""
        if number == MISSING and self.unknown == "missing":
            return None
        if not 0 <= number < len(self):
            raise BundleError(f"context {self.name!r}: there is no value number {number}, expected 0 to {len(self) - 1}")
        return self.edges[number] if self.edges else self.values[number]

    def to_json(self) -> dict[str, Any]:
        """The context as `prompt.context` of catalog.json lists it."""
        return to_json(self)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {value: number for number, value in enumerate(self.values)}


@dataclass(frozen=True)
class Contexts:
    """The contexts of a prompt program, in its order. Empty if prompts place none."""

    entries: tuple[Context, ...] = ()

    @classmethod
    def of(cls, info: Mapping[str, Any], where: str) -> Contexts:
        """Reads catalog.json. Raises BundleError, which names the file `where`."""
        listed = info["prompt"].get("context") or []
        check_requires(info, REQUIRED, bool(listed), where)
        contexts = typed(listed, tuple[Context, ...], where, at="prompt context")
        names = [context.name for context in contexts]
        ops = [op for part in ("prefix", "candidate") for op in info["prompt"].get(part, [])]
        placed = {op.get("name") for op in ops if op["op"] == "context"}
        if len(set(names)) != len(names) or placed != set(names):
            raise BundleError(f"{where}: contexts of the prompt are {names}, its ops place {sorted(map(str, placed))}")
        return cls(contexts)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """The contexts' names."""
        return [context.name for context in self.entries]

    def numbers(self, given: Mapping[str, Value] | None) -> NDArray[np.int32]:
        """The numbers of a request's values, int32 [contexts].

        Raises:
            InputError: A name or a value is unknown, or a context is missing.
        """
        given = given or {}
        self.check_names(given)
        return np.array([context.number(given.get(context.name)) for context in self.entries], np.int32)

    def check_names(self, names: Iterable[str]) -> None:
        """Raises InputError for a name that prompts do not place."""
        for name in names:
            if name not in self.names:
                known = f"it has: {', '.join(self.names)}" if self.entries else "it has none"
                raise InputError(f"context {name!r}: the prompt places no such context, {known}")

    def values(self, numbers: Sequence[int] | NDArray[Any]) -> dict[str, Value]:
        """Values with these numbers, as `Session.score` takes them. Raises BundleError if there are none."""
        if len(numbers) != len(self.entries):
            raise BundleError(f"{len(numbers)} contexts, the prompt places {len(self.entries)}")
        pairs = [(context.name, context.value(int(n))) for context, n in zip(self.entries, numbers, strict=True)]
        return {name: value for name, value in pairs if value is not None}

    def example(self) -> dict[str, Value]:
        """The first value of each context, for measurements on made-up requests."""
        return self.values([0] * len(self.entries))
