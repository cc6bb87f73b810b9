"""Texts as token ids: how a reranker's query and documents become a prefix and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexit.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUERY, DOCUMENT = "{query}", "{document}"


@dataclass(frozen=True)
class TextTemplate:
    """What surrounds a query and a document. Each string is tokenized on its own, as the reranker's training did.

    Attributes:
        prefix: Strings, of which exactly one has `{query}`, once.
        candidate: Strings, of which exactly one has `{document}`, once. The others are never cut.
    """

    prefix: tuple[str, ...]
    candidate: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, strings, place in (("prefix", self.prefix, QUERY), ("candidate", self.candidate, DOCUMENT)):
            if (count := sum(text.count(place) for text in strings)) != 1:
                raise InputError(f"text template: `{name}` has {place} {count} times, expected once")

    @classmethod
    def of_json(cls, value: Any, where: str) -> TextTemplate:
        """Returns the template of `{"prefix": [...], "candidate": [...]}`. Raises InputError. where: for messages."""
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {_short(value)}, expected an object with `prefix` and `candidate`")
        parts = []
        for name in ("prefix", "candidate"):
            strings = value.get(name)
            if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
                raise InputError(f"{where}: `{name}` is {_short(strings)}, expected a list of strings")
            parts.append(tuple(strings))
        if unknown := sorted(set(value) - {"prefix", "candidate"}):
            raise InputError(f"{where}: has `{unknown[0]}`, expected `prefix` and `candidate` alone")
        try:
            return cls(*parts)
        except InputError as exc:
            raise InputError(f"{where}: {exc}") from exc

    def to_json(self) -> dict[str, list[str]]:
        """As `of_json` reads it."""
        return {"prefix": list(self.prefix), "candidate": list(self.candidate)}


class TextEncoder:
    """Tokenizes texts.

    1. No special token is added; those that a template or a whole prompt spells out (`<s>`) are recognized.
    2. A special token that a query or document spells out is ordinary text: it cannot end the prompt. Such a text is tokenized
       apart from the words around it.
    3. A document that does not fit is cut at its end, so that prefix and candidate fit the model and the candidate fits a pass.

    Args:
        tokenizer: The model's.
        template: Of queries and documents; None: only whole prompts can be tokenized.
        max_positions: Most tokens of a prefix and one candidate.
        max_tokens: Most tokens of a candidate.
    """

    def __init__(self, tokenizer: Tokenizer, template: TextTemplate | None, max_positions: int, max_tokens: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.template = tokenizer, template
        self._max_positions, self._max_tokens = max_positions, max_tokens
        self._specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts that are whole prefixes or candidates."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def prompt(self, query: str, documents: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Returns the token ids of the prefix and of each candidate.

        Raises:
            InputError: There is no template, or the query leaves no room for a document.
        """
        template = self.template
        if template is None:
            raise InputError("the model has no text template, which says what surrounds a query and a document")
        prefix = [token for text in template.prefix for token in self._filled(text, QUERY, query)]
        at = next(n for n, text in enumerate(template.candidate) if DOCUMENT in text)
        before, after = ([token for part in self.whole(texts) for token in part] for texts in _around(template.candidate, at))
        rest, around = self._max_positions - len(prefix), len(before) + len(after)
        if self._max_tokens <= around:
            raise InputError(f"the template alone has {around} tokens per candidate, the variant takes {self._max_tokens}")
        if rest <= around:
            raise InputError(
                f"the query is too long: with the template it has {len(prefix)} tokens, which leaves no room for a document in "
                f"the {self._max_positions} that the model takes"
            )
        room = min(rest, self._max_tokens) - around
        texts = [self._filled(template.candidate[at], DOCUMENT, document)[:room] for document in documents]
        return prefix, [[*before, *tokens, *after] for tokens in texts]

    def _filled(self, text: str, place: str, value: str) -> list[int]:
        if not any(special in value for special in self._specials):
            return self.whole([text.replace(place, value)])[0]
        before, _, after = text.partition(place)
        if place not in text:
            return self.whole([text])[0]
        self._tokenizer.encode_special_tokens = True
        try:
            middle = self._tokenizer.encode(value, add_special_tokens=False).ids
        finally:
            self._tokenizer.encode_special_tokens = False
        first, last = self.whole([before, after])
        return [*first, *middle, *last]


def read_tokenizer(file: Path) -> Tokenizer:
    """Reads a tokenizer.json. Raises InputError."""
    from tokenizers import Tokenizer

    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a tokenizer.json")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as exc:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a tokenizer: {str(exc).splitlines()[0]}") from exc


def _around(strings: Sequence[str], at: int) -> tuple[Sequence[str], Sequence[str]]:
    return strings[:at], strings[at + 1 :]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
