"""What a reranker reads, around a query and a document: `reranker` in `manifest.json` and `exits.json`.

    {"prefix": ["<s>", "A: {query}"], "document": ["\\n", "B: {document}", "\\n", "{instruction}"], "instruction": "Given a …"}

An encoder reads a pair as its tokenizer writes it, without a prefix:

    {"pair": {"tokens": 512, "vocabulary": 30522, "truncation": "longest_first"}}

`prefix` is the part of the prompt that all documents of a query share, `document` what follows for each. Both are lists of
texts, each tokenized on its own, without special tokens around it. `{query}` is in `prefix`, `{document}` in `document`,
`{instruction}` may be in both; other braces are text. `rexit.prompts.texts` tokenizes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from rexit.bundle.typed import Name, Natural, Positive

PLACEHOLDER = re.compile(r"\{(query|document|instruction)\}")


class Pair(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an encoder's tokenizer writes a query and a document.

    Attributes:
        tokens: Most tokens of a pair; a longer one is cut.
        vocabulary: What is added to tokens of type 1, by which the model tells a document from a query; 0: it has no types.
        truncation: What is cut: `longest_first`, token by token, or `only_second`, the document.
    """

    tokens: Positive
    vocabulary: Natural = 0
    truncation: Literal["longest_first", "only_second"] = "longest_first"


class RerankerPrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The texts around a query and a document.

    Attributes:
        prefix: Texts with `{query}`, shared by all documents of a query.
        document: Texts with `{document}`.
        instruction: The text for `{instruction}` unless a request brings another; None: there is no such placeholder.
        pair: What an encoder reads instead; None: the model is a decoder.
    """

    prefix: tuple[Name, ...] = ()
    document: tuple[Name, ...] = ()
    instruction: str | None = None
    pair: Pair | None = None

    def __post_init__(self) -> None:
        if self.pair is not None:
            if self.prefix or self.document or self.instruction is not None:
                raise ValueError("has `pair`, which the model's tokenizer writes, and texts around it")
            return
        parts: Mapping[str, tuple[str, ...]] = {"prefix": self.prefix, "document": self.document}
        places = {name: [match for text in part for match in PLACEHOLDER.findall(text)] for name, part in parts.items()}
        for part, own, other in (("prefix", "query", "document"), ("document", "document", "query")):
            if places[part].count(own) != 1 or other in places[part]:
                raise ValueError(f"{part}: is {list(parts[part])}, expected {{{own}}} once and no {{{other}}}")
        if self.instruction is None and "instruction" in places["prefix"] + places["document"]:
            raise ValueError("has {instruction}, but no `instruction`")
