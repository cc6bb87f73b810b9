"""What a reranker reads, around a query and a document: `reranker` in `manifest.json` and `exits.json`.

    {"prefix": ["<s>", "A: {query}"], "document": ["\\n", "B: {document}", "\\n", "{instruction}"], "instruction": "Given a …"}

`prefix` is the part of the prompt that all documents of a query share, `document` what follows for each. Both are lists of
texts, each tokenized on its own, without special tokens around it. `{query}` stands in `prefix`, `{document}` in `document`,
`{instruction}` may stand in both; other braces are text. `rexit.texts` tokenizes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLACEHOLDER = re.compile(r"\{(query|document|instruction)\}")


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
        places = {name: [match for text in part for match in PLACEHOLDER.findall(text)] for name, part in texts.items()}
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
