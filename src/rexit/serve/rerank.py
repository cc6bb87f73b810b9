"""Requests of rerankers' clients: fields, and answers as each client reads them.

    /v1/rerank, /v2/rerank   query, documents, top_n           Cohere, Jina, vLLM, TEI's OpenAI-like proxies
    /v1/score                query, items, label_token_ids     SGLang, vLLM's generative scoring
    /v1/score                text_1, text_2                    vLLM; queries and documents are other names for them

Fields that do not change what is computed (`model`, `user`, `priority`, ...) are ignored, as other servers do.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from rexit.errors import InputError
from rexit.runtime import Scores
from rexit.serve.texts import Prompt, Texts

TokenIds = list[StrictInt]


class TextDocument(BaseModel):
    """A document as an object: its `text` counts, other fields are ignored."""

    text: StrictStr


class RerankRequest(BaseModel):
    """Documents to be ranked for a query."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"examples": [{"query": "wing drag", "documents": ["A wing …", "Heat …"], "top_n": 1}]}
    )
    query: StrictStr
    documents: Annotated[list[StrictStr | TextDocument], Field(min_length=1, description="Texts, or objects with `text`.")]
    top_n: Annotated[int | None, Field(ge=1, strict=True, description="Only the n best. Null: all, best first.")] = None
    return_documents: Annotated[StrictBool, Field(description="Repeat each document in the answer.")] = False
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def prompt(self, texts: Texts) -> Prompt:
        """Returns the token ids. Raises InputError."""
        return texts.prompt(self.query, self.texts)

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.documents)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Session.score_tokens`: best first."""
        return {"top_k": min(self.count, self.top_n or self.count)}

    def answer(self, scores: Scores, variant: str, texts: Texts) -> dict[str, Any]:
        """The answer, with what Cohere's, Jina's and vLLM's clients read."""
        rows = []
        for score, index in zip(scores, scores.index.tolist(), strict=True):
            row: dict[str, Any] = {"index": index, "relevance_score": score.probability}
            if self.return_documents:
                row["document"] = {"text": self.texts[index]}
            rows.append(row)
        usage = _usage(scores)
        tokens = {"input_tokens": usage["prompt_tokens"], "output_tokens": 0}
        return {
            "id": uuid.uuid4().hex,
            "model": self.model or variant,
            "results": rows,
            "usage": usage,
            "meta": {"tokens": tokens},
        }


class LabelsRequest(BaseModel):
    """Items behind a query, as whole texts or token ids, and the labels to score. The query and an item make the prompt."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"query": [1, 20, 31], "items": [[40], [41, 42]], "label_token_ids": [9, 5]}]},
    )
    query: StrictStr | TokenIds
    items: Annotated[
        StrictStr | list[StrictStr] | list[TokenIds], Field(min_length=1, description="Texts or lists of token ids; or one text.")
    ]
    label_token_ids: Annotated[
        TokenIds, Field(min_length=1, description="The model's `yes` and `no`, in the order of the scores that are wanted.")
    ]
    apply_softmax: Annotated[
        StrictBool, Field(description="Must not be false: the model computes no other token than its labels.")
    ] = True
    item_first: Annotated[StrictBool, Field(description="Must be false: the query is the shared prefix.")] = False
    model: str | None = None

    @property
    def _items(self) -> Sequence[str | list[int]]:
        return [self.items] if isinstance(self.items, str) else self.items

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self._items)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Session.score_tokens`: in the order of the items."""
        return {}

    def prompt(self, texts: Texts) -> Prompt:
        """Returns the token ids. Raises InputError."""
        if not self.apply_softmax:
            raise InputError("apply_softmax: got false, expected true: the model computes the probabilities of its labels alone")
        if self.item_first:
            raise InputError("item_first: got true, expected false: the query is what all items share")
        self._names(texts)
        parts = [self.query, *self._items]
        encoded = iter(texts.whole([part for part in parts if isinstance(part, str)]) if _any_text(parts) else ())
        prefix, *candidates = (next(encoded) if isinstance(part, str) else part for part in parts)
        return prefix, candidates

    def answer(self, scores: Scores, variant: str, texts: Texts) -> dict[str, Any]:
        """The answer as SGLang gives it: for each item a probability for each of the label ids."""
        names = self._names(texts)
        rows = [
            [None if p is None else p if name == "yes" else 1 - p for name in names]
            for p in (score.probability for score in scores)
        ]
        return {"object": "scoring", "model": self.model or variant, "scores": rows, "usage": _usage(scores)}

    def _names(self, texts: Texts) -> list[str]:
        """The labels' names."""
        names = {token: name for name, token in texts.labels.items()}
        for n, token in enumerate(self.label_token_ids):
            if token not in names:
                known = " or ".join(f"{token} ({name})" for token, name in sorted(names.items())) or "none: it has no labels"
                raise InputError(f"label_token_ids[{n}]: got {token}, expected {known}")
        return [names[token] for token in self.label_token_ids]


class PairsRequest(BaseModel):
    """A query and documents, as vLLM's clients name them."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"text_1": "wing drag", "text_2": ["A wing …"]}]})
    text_1: Annotated[
        StrictStr | list[StrictStr], Field(validation_alias=AliasChoices("text_1", "queries", "query"), min_length=1)
    ]
    text_2: Annotated[
        StrictStr | list[StrictStr], Field(validation_alias=AliasChoices("text_2", "documents", "items"), min_length=1)
    ]
    model: str | None = None

    @property
    def _documents(self) -> list[str]:
        return [self.text_2] if isinstance(self.text_2, str) else self.text_2

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self._documents)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Session.score_tokens`: in the order of the documents."""
        return {}

    def prompt(self, texts: Texts) -> Prompt:
        """Returns the token ids. Raises InputError."""
        queries = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        if len(queries) != 1:
            raise InputError(f"text_1: has {len(queries)} texts, expected one: a request has one query, whose prompt is shared")
        return texts.prompt(queries[0], self._documents)

    def answer(self, scores: Scores, variant: str, texts: Texts) -> dict[str, Any]:
        """The answer as vLLM gives it."""
        data = [{"index": n, "object": "score", "score": score.probability} for n, score in enumerate(scores)]
        about = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": self.model or variant}
        return {**about, "data": data, "usage": _usage(scores)}


TextRequest = RerankRequest | LabelsRequest | PairsRequest


def kind_of(body: Any) -> str:
    """Which form a body for /v1/score has: `labels`, `pairs`, or `user` for ids of a catalog."""
    names = set(body) if isinstance(body, dict) else set()
    if "label_token_ids" in names:
        return "labels"
    return "pairs" if names & {"text_1", "text_2", "queries", "query", "documents"} else "user"


def _any_text(parts: Sequence[str | list[int]]) -> bool:
    return any(isinstance(part, str) for part in parts)


def _usage(scores: Scores) -> dict[str, int]:
    tokens = scores.stats.prefix_tokens + scores.stats.candidate_tokens
    return {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
