"""A chat template as the prompt of a reranker.

The template is rendered once, with marks in the places of the query, the document and the system message. What it renders is
divided without changing how it is tokenized:

1. The prefix ends at the last line break between query and document, or at the document if there is none.
2. Special tokens are texts of their own. A tokenizer divides there first, so nothing changes, and a query cannot spell one.
3. An example is tokenized whole and in these parts. If the tokens differ, the prompt cannot be divided.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rexit.bundle import RerankerPrompt
from rexit.bundle.manifest import PLACEHOLDER, TOKENIZER
from rexit.errors import CheckpointError
from rexit.exporter.libraries import first_line, quiet
from rexit.prompts.texts import TextEncoder, read_tokenizer

NO_LIMIT = 1 << 62
_EXAMPLE = {
    "query": "What carries a wing?",
    "document": "Lift, 9.81 N per kg.\nSee also: drag (induced)",
    "instruction": "Find the answer.",
}


def chat_prompt(folder: Path, system: str | None, settings: Mapping[str, Any]) -> RerankerPrompt | None:
    """The prompt of a folder's chat template.

    Args:
        folder: a tokenizer's.
        system: the system message; None: there is none.
        settings: arguments of the template.

    Returns:
        The prompt; None if there is no chat template, or it leaves out the query or the document.

    Raises:
        CheckpointError: the tokenizer cannot be read, or the prompt cannot be divided.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as exc:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first_line(exc)}") from exc
    if not tokenizer.chat_template:
        return None
    rendered = _rendered(tokenizer, system is not None, settings)
    if rendered is None:
        return None
    marks = list(PLACEHOLDER.finditer(rendered))
    names = [mark[1] for mark in marks]
    if names.count("query") != 1 or names.count("document") != 1 or names.index("query") > names.index("document"):
        raise CheckpointError(f"{folder}: its chat template has the parts {', '.join(names)}, expected a query, then a document")
    begin = next(mark.start() for mark in marks if mark[1] == "document")
    after_query = next(mark.end() for mark in marks if mark[1] == "query")
    cut = rendered.rfind("\n", after_query, begin) + 1 or begin
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    prefix, document = (_divided(part, special) for part in (rendered[:cut], rendered[cut:]))
    prompt = RerankerPrompt(prefix, document, system if "instruction" in names else None)
    _check(folder, rendered, prompt)
    return prompt


def _rendered(tokenizer: Any, has_system: bool, settings: Mapping[str, Any]) -> str | None:
    """The template around `{query}`, `{document}` and `{instruction}`, with contents as texts or as lists of parts."""
    roles = [("system", "instruction")] * has_system + [("query", "query"), ("document", "document")]
    for structured in (False, True):
        messages = [
            {"role": role, "content": [{"type": "text", "text": f"{{{name}}}"}] if structured else f"{{{name}}}"}
            for role, name in roles
        ]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **settings)
        except Exception:  # a template may refuse a form of content, or these roles
            continue
        if isinstance(text, str) and "'text':" not in text and "{query}" in text and "{document}" in text:
            return text
    return None


def _divided(text: str, special: list[str]) -> tuple[str, ...]:
    """The text in parts: special tokens, with what has no placeholder between them, apart from texts with placeholders."""
    pieces = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text) if special else [text]
    parts: list[str] = []
    fixed = False
    for n, piece in enumerate(pieces):
        is_fixed = n % 2 == 1 or not PLACEHOLDER.search(piece)
        if is_fixed and fixed and parts:
            parts[-1] += piece
        elif piece:
            parts.append(piece)
            fixed = is_fixed
    return tuple(parts)


def _check(folder: Path, rendered: str, prompt: RerankerPrompt) -> None:
    """The parts of an example have the tokens of the whole."""
    encoder = TextEncoder(read_tokenizer(folder / TOKENIZER), prompt, NO_LIMIT, NO_LIMIT)
    values = {**_EXAMPLE, "instruction": prompt.instruction or ""}
    (whole,) = encoder.whole([PLACEHOLDER.sub(lambda place: values[place[1]], rendered)])
    prefix, (document,) = encoder.prompt(values["query"], [values["document"]])
    if whole != prefix + document:
        raise CheckpointError(
            f"{folder}: its chat template cannot be divided between query and document without other tokens; expected a "
            f"line break or a special token before the document, the template gives {json.dumps(rendered[:200])}"
        )
