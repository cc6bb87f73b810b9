"""Requests of rerankers' clients (Cohere, Jina, LiteLLM, ...): fields, and answers as each client reads them.

Fields that do not change what is computed (`model`, `user`, `priority`, ...) are ignored, as other servers do.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from rexit.runtime import Scores
from rexit.serve.messages import Deadline


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
    deadline_ms: Deadline = None
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.documents)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Session.score_tokens`: best first."""
        return {"top_k": min(self.count, self.top_n or self.count)}

    def answer(self, scores: Scores, variant: str, truncated: Sequence[bool]) -> dict[str, Any]:
        """The answer, with what the clients read. truncated: whether each document was cut."""
        rows, texts = [], self.texts
        for score, index in zip(scores, scores.index.tolist(), strict=True):
            row: dict[str, Any] = {"index": index, "relevance_score": score.probability}
            if self.return_documents:
                row["document"] = {"text": texts[index]}
            if truncated[index]:
                row["truncated"] = True
            if score.cut_short:
                row["cut_short"] = True
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


def _usage(scores: Scores) -> dict[str, int]:
    tokens = scores.stats.prefix_tokens + scores.stats.candidate_tokens
    return {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
