"""Request texts: what only a request knows, such as a search query (`{request.NAME}` in a template), as token ids by name.

Rules
1. A text has at most `limit` tokens. A longer one is refused, never cut.
2. A text without tokens is missing, and so is one that the request leaves out: refused, or read as the template's `missing`.
3. Tokens stand in the prompt as they are. `spaced`: the space before the placeholder belongs to the text, so it is in its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle.files import check_requires
from rexit.bundle.typed import Name, short, typed
from rexit.errors import BundleError, InputError

REQUIRED = "request-text"
"""In `requires` if prompts place a request text."""
MOST_TOKENS = 4096
"""The highest limit."""

Tokens = NDArray[np.int32]
Text = str | Sequence[int] | NDArray[Any]
"""A text as a caller passes it: itself, or its token ids."""

NO_TOKENS: Tokens = np.empty(0, np.int32)


class _Op(msgspec.Struct, frozen=True):
    """An op that places a request text."""

    name: Name
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
    spaced: bool
    missing: int | None = None


@dataclass(frozen=True)
class RequestText:
    """One request text.

    Attributes:
        name: NAME of `{request.NAME}`.
        limit: Most tokens.
        spaced: Whether a text begins with a space before it is tokenized.
        required: Whether a request without it is refused.
    """

    name: str
    limit: int
    spaced: bool
    required: bool

    def check(self, ids: Sequence[Any] | NDArray[Any], vocabulary: int | None = None) -> Tokens:
        """Returns the token ids as int32. vocabulary: they are below this; None: not checked.

        Raises:
            InputError: There are too many tokens, none where one is required, or a number is not a token id.
        """
        if len(ids) > self.limit:
            raise InputError(f"request text {self.name!r} has {len(ids)} tokens, expected at most {self.limit}")
        if self.required and not len(ids):
            raise InputError(f"request text {self.name!r} is missing, expected at most {self.limit} tokens")
        for n, token in enumerate(ids.tolist() if isinstance(ids, np.ndarray) else ids):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < (vocabulary or 1 << 31):
                known = f" from 0 to {vocabulary - 1}" if vocabulary else ""
                raise InputError(f"request text {self.name!r}[{n}] is {short(token)}, expected a token id{known}")
        return np.array(ids, np.int32)


@dataclass(frozen=True)
class RequestTexts:
    """The request texts of a prompt program, in the order of its ops. Empty if prompts place none."""

    entries: tuple[RequestText, ...] = ()

    @classmethod
    def of(cls, info: Mapping[str, Any], where: str) -> RequestTexts:
        """Reads catalog.json. Raises BundleError, which names the file `where`."""
        entries: dict[str, RequestText] = {}
        for part in ("prefix", "candidate"):
            for n, value in enumerate(info["prompt"].get(part, [])):
                if value["op"] != "request":
                    continue
                op = typed(value, _Op, where, at=f"prompt {part}[{n}]")
                text = RequestText(op.name, op.limit, op.spaced, op.missing is None)
                if entries.setdefault(text.name, text) != text:
                    raise BundleError(f"{where}: prompt {part}[{n}]: places {text.name!r} by other rules than an op before it")
        check_requires(info, REQUIRED, bool(entries), where)
        return cls(tuple(entries.values()))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """The texts' names."""
        return [text.name for text in self.entries]

    @property
    def width(self) -> int:
        """The sum of all limits."""
        return sum(text.limit for text in self.entries)

    def named(self, name: str) -> RequestText:
        """Returns the text of a name. Raises InputError for one that prompts do not place."""
        self.check_names([name])
        return self.entries[self.names.index(name)]

    def check_names(self, names: Iterable[str]) -> None:
        """Raises InputError for a name that prompts do not place."""
        for name in names:
            if name not in self.names:
                known = f"it has: {', '.join(self.names)}" if self.entries else "it has none"
                raise InputError(f"request text {name!r}: the prompt places no such text, {known}")

    def tokens(self, request: Mapping[str, Sequence[int] | Tokens] | None, vocabulary: int | None = None) -> list[Tokens]:
        """Returns a request's tokens, int32, in the order of the texts.

        Args:
            request: Token ids by name.
            vocabulary: As in `RequestText.check`.

        Raises:
            InputError: A name is unknown, or `RequestText.check` refuses a text.
        """
        request = request or {}
        self.check_names(request)
        return [text.check(request.get(text.name, NO_TOKENS), vocabulary) for text in self.entries]

    def by_name(self, tokens: Sequence[Tokens]) -> dict[str, Tokens]:
        """Returns the texts of a request that are not missing, as `Session.score` takes them. tokens: in the order of the texts.
        Raises BundleError for another number of texts."""
        if len(tokens) != len(self.entries):
            raise BundleError(f"{len(tokens)} request texts, the prompt places {len(self.entries)}")
        return {name: ids for name, ids in zip(self.names, tokens, strict=True) if len(ids)}

    def example(self) -> dict[str, Tokens]:
        """Texts of half their limits, for measurements on made-up requests. All tokens are 0."""
        return {text.name: np.zeros((text.limit + 1) // 2, np.int32) for text in self.entries}


def required(prompt: Mapping[str, Any]) -> list[str]:
    """Returns what a program's request texts add to `requires` of catalog.json."""
    return [REQUIRED] if any(op["op"] == "request" for part in ("prefix", "candidate") for op in prompt[part]) else []
