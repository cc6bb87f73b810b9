"""What a reranker reads, around a query and a document: `reranker` in `manifest.json` and `exits.json`.

    {"prefix": ["<s>", "A: {query}"], "document": ["\\n", "B: {document}", "\\n", "{instruction}"], "instruction": "Given a …"}

`prefix` is the part of the prompt that all documents of a query share, `document` what follows for each. Both are lists of
texts, each tokenized on its own, without special tokens around it. `{query}` is in `prefix`, `{document}` in `document`,
`{instruction}` may be in both; other braces are text. `rexit.prompts.texts` tokenizes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from rexit.bundle.typed import Name

PLACEHOLDER = re.compile(r"\{(query|document|instruction)\}")


class RerankerPrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The texts around a query and a document.

    Attributes:
        prefix: Texts with `{query}`, shared by all documents of a query.
        document: Texts with `{document}`.
        instruction: The text for `{instruction}` unless a request brings another; None: there is no such placeholder.
    """

    prefix: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    document: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    instruction: str | None = None

    def __post_init__(self) -> None:
        parts: Mapping[str, tuple[str, ...]] = {"prefix": self.prefix, "document": self.document}
        places = {name: [match for text in part for match in PLACEHOLDER.findall(text)] for name, part in parts.items()}
        for part, own, other in (("prefix", "query", "document"), ("document", "document", "query")):
            if places[part].count(own) != 1 or other in places[part]:
                raise ValueError(f"{part}: is {list(parts[part])}, expected {{{own}}} once and no {{{other}}}")
        if self.instruction is None and "instruction" in places["prefix"] + places["document"]:
            raise ValueError("has {instruction}, but no `instruction`")
