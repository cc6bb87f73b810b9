"""Prompts of published rerankers whose folders do not contain them: a plain causal LM does not tell that it is a reranker.

`rexit export MODEL --reranker NAME` takes a name below, or a file of the same form:

    {"prefix": ["Query: {query}\\n"], "document": ["Document: {document}\\n", "Relevant:"], "answers": {"no": "no", "yes": "yes"}}

`answers` are texts of one token each. A model that answers by rows of its own needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexit.bundle import RerankerPrompt
from rexit.bundle.files import short, typed
from rexit.bundle.manifest import TOKENIZER
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.configs import read_config
from rexit.prompts.texts import read_tokenizer

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "qwen3-reranker": {
        "prefix": [
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
            'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "<Instruct>: {instruction}\n<Query>: {query}\n",
        ],
        "document": ["<Document>: {document}", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"],
        "instruction": "Given a web search query, retrieve relevant passages that answer the query",
        "answers": {"no": "no", "yes": "yes"},
    },
    "mxbai-rerank-v2": {
        "prefix": [
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "query: {query}",
        ],
        "document": [
            "\n",
            "document: {document}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
            "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for "
            "not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ],
        "answers": {"no": "0", "yes": "1"},
    },
}
"""As Qwen3-Reranker's model card and the package mxbai-rerank 0.1.6 write them, piece by piece."""


@dataclass(frozen=True)
class NamedPrompt:
    """A reranker's prompt, and the texts of its answers `no` and `yes`; empty if it answers by rows of its own."""

    prompt: RerankerPrompt
    answers: Mapping[str, str]
    source: str

    def tokens(self, folder: Path) -> dict[str, int]:
        """The token ids of the answers in a folder's tokenizer. Raises InputError, CheckpointError."""
        if not self.answers:
            return {}
        tokenizer, tokens = read_tokenizer(folder / TOKENIZER), {}
        for name, text in self.answers.items():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) != 1:
                raise CheckpointError(
                    f"{folder / TOKENIZER}: the answer {text!r} of {self.source} has {len(ids)} tokens, expected one"
                )
            tokens[name] = ids[0]
        return tokens


def named_prompt(name: str) -> NamedPrompt:
    """The prompt of a name in `KNOWN`, or of a JSON file. Raises InputError."""
    if name in KNOWN:
        value, where = dict(KNOWN[name]), name
    elif Path(name).is_file():
        try:
            value, where = read_config(Path(name)), name
        except CheckpointError as exc:
            raise InputError(str(exc)) from exc
    else:
        raise InputError(f"--reranker {name}: expected one of {', '.join(KNOWN)}, or a JSON file")
    prompt = typed(value, RerankerPrompt, where, error=InputError)
    answers = value.get("answers", {})
    texts = isinstance(answers, dict) and all(isinstance(text, str) for text in answers.values())
    if not texts or set(answers) not in (set(), {"yes"}, {"no", "yes"}):
        raise InputError(f"{where}: `answers` is {short(answers)}, expected the texts of `no` and `yes`")
    return NamedPrompt(prompt, answers, where)
