"""Requests of rerankers' clients (Cohere, Jina, LiteLLM, ...): fields, and answers as each client reads them.

Null is the same as no field. A field of one of their APIs that would change the answer is followed or refused. A field that
nobody knows is ignored, as other servers do, and logged once.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from rexit.bundle import Id
from rexit.bundle.typed import short, typed
from rexit.errors import InputError
from rexit.request import LONGEST_MS, TokenRequest
from rexit.runtime import Scores, Session
from rexit.serve.jobs import Answer, Job, Texts, digest

_LOGGER = logging.getLogger("rexit")
_WITHOUT_EFFECT = ("user", "priority")
_REFUSED = {
    "max_chunks_per_doc": "expected max_tokens_per_doc: documents are not divided",
    "truncate_prompt_tokens": "expected max_tokens_per_doc",
    "raw_scores": "expected false: scores are probabilities",
}
_MAX_LOGGED = 32
_logged: set[str] = set()
"""Unknown fields of requests so far, at most _MAX_LOGGED."""


class TextDocument(msgspec.Struct):
    """A document as an object: its `text` counts, other fields are ignored."""

    text: str


class RerankRequest(msgspec.Struct):
    """Documents to be ranked for a query."""

    query: str
    documents: Annotated[list[str | TextDocument], msgspec.Meta(min_length=1, description="Texts, or objects with `text`.")]
    scores: Annotated[
        list[float] | None,
        msgspec.Meta(description="The first stage's number of each document, if the bundle's exit zero reads it."),
    ] = None
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None, msgspec.Meta(description="Only the n best. Null: all, best first.")
    ] = None
    top_k: Annotated[Annotated[int, msgspec.Meta(ge=1)] | None, msgspec.Meta(description="Another name of `top_n`.")] = None
    instruction: Annotated[
        str | None, msgspec.Meta(description="In the place of the reranker's own, if it reads one; else it is refused.")
    ] = None
    max_tokens_per_doc: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="Documents are cut to this many tokens. Null: to as many as the model takes."),
    ] = None
    truncation: Annotated[bool, msgspec.Meta(description="False: a document that would be cut is refused.")] = True
    rank_fields: Annotated[
        list[str] | None, msgspec.Meta(description='Fields of documents that count; other ones than `["text"]` are refused.')
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
        if not isinstance(value, dict):
            raise InputError(f"body: is {short(value)}, expected an object")
        fields = {name: field for name, field in value.items() if field is not None}
        kind = TextsRequest if "texts" in fields and "documents" not in fields else cls
        request = typed(fields, kind, "body", error=InputError)
        for name, field in fields.items():
            if name in _REFUSED and field is not False:
                raise InputError(f"{name} is {short(field)}, {_REFUSED[name]}")
            if name not in (*kind.__struct_encode_fields__, *_WITHOUT_EFFECT, *_REFUSED):
                _log_unknown(name)
        if request.top_k is not None and request.top_n not in (None, request.top_k):
            raise InputError(f"top_k is {request.top_k}, but top_n is {request.top_n}: expected one of them")
        if request.rank_fields not in (None, ["text"]):
            raise InputError(f"rank_fields is {short(request.rank_fields)}, expected ['text'], the field that is read")
        return request

    @property
    def count(self) -> int:
        """Documents in the answer."""
        return min(len(self.documents), self.top_n or self.top_k or len(self.documents))

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def answer(self, scores: Scores, variant: str, truncated: Sequence[bool]) -> Any:
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
        tokens = scores.stats.prefix_tokens + scores.stats.candidate_tokens
        return {
            "id": uuid.uuid4().hex,
            "model": self.model or variant,
            "results": rows,
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
            "meta": {"tokens": {"input_tokens": tokens, "output_tokens": 0}},
        }


class TextsRequest(RerankRequest, kw_only=True):
    """The same in the form of Hugging Face's text-embeddings-inference. Its answer is an array, best first."""

    documents: Annotated[list[str | TextDocument], msgspec.Meta(min_length=1)] = msgspec.field(name="texts")
    return_documents: bool = msgspec.field(name="return_text", default=False)
    truncation: bool = msgspec.field(name="truncate", default=True)
    truncation_direction: Annotated[str, msgspec.Meta(pattern="^(Right|right)$")] = "Right"

    def answer(self, scores: Scores, variant: str, truncated: Sequence[bool]) -> Any:
        results = super().answer(scores, variant, truncated)["results"]
        return [{"index": row["index"], "score": row["relevance_score"], **row.get("document", {})} for row in results]


@dataclass(eq=False, kw_only=True)
class RerankJob(Job):
    """A request with texts, which are tokenized when its turn comes."""

    request: RerankRequest

    def score(self, session: Session, texts: Texts, **rule: Any) -> Answer:
        waited_s, request = self.waited_s, self.request
        prefix, candidates, truncated = texts.prompt(
            request.query, request.texts, request.instruction, request.max_tokens_per_doc
        )
        if not request.truncation and any(truncated):
            raise InputError(f"documents[{truncated.index(True)}] is too long, and truncation is false")
        left = self.left_s()
        if left <= 0:
            raise self.late()
        deadline_ms = None if self.deadline_s is None else left * 1000
        prompt = TokenRequest(prefix, candidates, request.scores)
        scores = session.score(prompt, top_k=request.count, deadline_ms=deadline_ms, **rule)
        body = msgspec.json.encode(request.answer(scores, session.info.variant, truncated))
        return Answer(body, scores.stats, waited_s, truncated=sum(truncated))

    def slate(self) -> tuple[Id, list[Id]]:
        """Returns the query's digest and the documents' places."""
        return digest(self.request.query), list(range(len(self.request.documents)))


def _log_unknown(name: str) -> None:
    if name not in _logged and len(_logged) < _MAX_LOGGED:
        _logged.add(name)
        _LOGGER.warning("rerank: the field %s is not known and ignored", short(name))
