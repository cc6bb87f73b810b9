"""Requests of rerankers' clients (Cohere, Jina, LiteLLM, ...): fields, and answers as each client reads them.

Fields that do not change what is computed (`model`, `user`, `priority`, ...) are ignored, as other servers do.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from rexit.bundle import Id
from rexit.bundle.typed import typed
from rexit.deadlines import LONGEST_MS
from rexit.errors import InputError
from rexit.request import TokenRequest
from rexit.runtime import Scores, Session
from rexit.serve.jobs import Answer, Job, digest
from rexit.serve.texts import Texts


class TextDocument(msgspec.Struct):
    """A document as an object: its `text` counts, other fields are ignored."""

    text: str


class RerankRequest(msgspec.Struct):
    """Documents to be ranked for a query."""

    query: str
    documents: Annotated[list[str | TextDocument], msgspec.Meta(min_length=1, description="Texts, or objects with `text`.")]
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None, msgspec.Meta(description="Only the n best. Null: all, best first.")
    ] = None
    return_documents: Annotated[bool, msgspec.Meta(description="Repeat each document in the answer.")] = False
    deadline_ms: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=LONGEST_MS)] | None,
        msgspec.Meta(description="As in /v1/score."),
    ] = None
    model: str | None = None

    @classmethod
    def parse(cls, body: bytes) -> RerankRequest:
        """Reads a request. Raises InputError."""
        try:
            value = msgspec.json.decode(body)
        except (ValueError, RecursionError) as exc:
            raise InputError(f"body: not valid JSON: {exc}") from exc
        return typed(value, cls, "body", error=InputError)

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

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


@dataclass(eq=False, kw_only=True)
class RerankJob(Job):
    """A request with texts, which are tokenized when its turn comes."""

    request: RerankRequest

    def score(self, session: Session, texts: Texts, **rule: Any) -> Answer:
        waited_s, request = self.waited_s, self.request
        count = len(request.documents)
        prefix, candidates, truncated = texts.prompt(request.query, request.texts)
        left = self.left_s()
        if left <= 0:
            raise self.late()
        deadline_ms = None if self.deadline_s is None else left * 1000
        top_k = min(count, request.top_n or count)  # best first
        scores = session.score(TokenRequest(prefix, candidates), top_k=top_k, deadline_ms=deadline_ms, **rule)
        body = msgspec.json.encode(request.answer(scores, session.info.variant, truncated))
        return Answer(body, scores.stats, waited_s, truncated=sum(truncated))

    def slate(self) -> tuple[Id, list[Id]]:
        """Returns the query's digest and the documents' places."""
        return digest(self.request.query), list(range(len(self.request.documents)))


def _usage(scores: Scores) -> dict[str, int]:
    tokens = scores.stats.prefix_tokens + scores.stats.candidate_tokens
    return {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
