"""What a reranker reads, around a query and a document: `reranker` in `manifest.json` and `exits.json`.

    {"prefix": ["<s>", "A: {query}"], "document": ["\\n", "B: {document}", "\\n", "{instruction}"], "instruction": "Given a …"}

`prefix` is the part of the prompt that all documents of a query share, `document` what follows for each. Both are lists of
texts, each tokenized on its own, without special tokens around it. `{query}` stands in `prefix`, `{document}` in `document`,
`{instruction}` may stand in both; other braces are text. Special tokens that a text spells out are read as such, unless it has a
placeholder: nobody's query or document can end the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r"\{(query|document|instruction)\}")

Encode = Callable[[str, bool], Sequence[int]]
"""The tokens of a text; whether special tokens that it spells out are read as such."""


@dataclass(frozen=True)
class RerankerPrompt:
    """The texts around a query and a document.

    Attributes:
        prefix: Texts with `{query}`, shared by all documents of a query.
        document: Texts with `{document}`.
        instruction: The text for `{instruction}` unless a request brings another; None: there is no such placeholder.
    """

    prefix: tuple[str, ...]
    document: tuple[str, ...]
    instruction: str | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> RerankerPrompt:
        """Reads the JSON form. Raises ValueError, naming `where`, for another form."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}, expected an object with `prefix` and `document`")
        texts = {}
        for name in ("prefix", "document"):
            part = value.get(name)
            if not isinstance(part, list) or not part or not all(isinstance(text, str) and text for text in part):
                raise ValueError(f"{where}.{name} is {part!r}, expected a list of texts")
            texts[name] = tuple(part)
        instruction = value.get("instruction")
        if instruction is not None and not isinstance(instruction, str):
            raise ValueError(f"{where}.instruction is {instruction!r}, expected a text")
        places = {name: [match for text in part for match in _PLACEHOLDER.findall(text)] for name, part in texts.items()}
        for part_name, own, other in (("prefix", "query", "document"), ("document", "document", "query")):
            if places[part_name].count(own) != 1 or other in places[part_name]:
                raise ValueError(f"{where}.{part_name} is {list(texts[part_name])}, expected {{{own}}} once and no {{{other}}}")
        if instruction is None and "instruction" in places["prefix"] + places["document"]:
            raise ValueError(f"{where}: has {{instruction}}, but no `instruction`")
        return cls(texts["prefix"], texts["document"], instruction)

    def to_json(self) -> dict[str, Any]:
        """As in `manifest.json`."""
        parts = {"prefix": list(self.prefix), "document": list(self.document)}
        return parts if self.instruction is None else {**parts, "instruction": self.instruction}

    def prefix_tokens(self, encode: Encode, query: str, instruction: str | None = None) -> list[int]:
        """The tokens of the shared prefix. instruction: None: the reranker's own."""
        return self._tokens(encode, self.prefix, {"query": query}, instruction)

    def document_tokens(self, encode: Encode, document: str, instruction: str | None = None) -> list[int]:
        """The tokens of one document's part. instruction: None: the reranker's own."""
        return self._tokens(encode, self.document, {"document": document}, instruction)

    def _tokens(self, encode: Encode, texts: tuple[str, ...], values: Mapping[str, str], instruction: str | None) -> list[int]:
        values = {**values, "instruction": instruction if instruction is not None else self.instruction or ""}
        tokens: list[int] = []
        for text in texts:
            filled, places = _PLACEHOLDER.subn(lambda match: values[match[1]], text)
            tokens += encode(filled, places == 0)
        return tokens


def encoder(tokenizer: str) -> Encode:
    """Encodes with a tokenizer. tokenizer: the text of a `tokenizer.json`."""
    from tokenizers import Tokenizer

    plain, special = Tokenizer.from_str(tokenizer), Tokenizer.from_str(tokenizer)
    for tokens in (plain, special):
        tokens.no_truncation()
        tokens.no_padding()
    plain.encode_special_tokens = True  # as ordinary text
    return lambda text, reads_special: list((special if reads_special else plain).encode(text, add_special_tokens=False).ids)
