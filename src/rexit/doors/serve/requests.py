"""What a body may say: requests in JSON, whose reader is the library, and those of rerankers' clients.

A client of Cohere, Jina, LiteLLM, text-embeddings-inference and others sends its own fields and reads its own answer. Null is the
same as no field. A field of one of their APIs that would change the answer is followed or refused. A field that nobody knows is
ignored, as other servers do, and logged once.
"""

from __future__ import annotations

import logging
import uuid
from typing import Annotated, Any

import msgspec

from rexit.doors.pool import Ranking, TextsJob
from rexit.errors import InputError
from rexit.format.bundle.files import short, typed
from rexit.format.request import LONGEST_MS, MAX_CANDIDATES, MAX_COUNT, check_count

_LOGGER = logging.getLogger("rexit")
_WITHOUT_EFFECT = ("user", "priority")
_REFUSED = {
    "max_chunks_per_doc": "expected max_tokens_per_doc: documents are not divided",
    "truncate_prompt_tokens": "expected max_tokens_per_doc",
    "raw_scores": "expected false: scores are probabilities",
}
_MAX_LOGGED = 32
_SLATE = msgspec.Meta(min_length=1, max_length=MAX_CANDIDATES)
_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
_logged: set[str] = set()
"""Unknown fields of requests so far, at most _MAX_LOGGED."""


class Peek(msgspec.Struct):
    """What the service itself must know of a request in JSON; `rexit.format.request.Request` describes all of it."""

    items: list[msgspec.Raw] | None = None
    retrieve: int | None = None
    recent: list[msgspec.Raw] | None = None
    candidates: list[msgspec.Raw] | None = None
    documents: list[msgspec.Raw] | None = None
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_MS)] | None = None

    @classmethod
    def of(cls, body: bytes) -> Peek:
        """Returns what a body says; nothing if it is no request, which the library then refuses."""
        try:
            return _PEEK.decode(body)
        except (ValueError, RecursionError):
            return cls()


_PEEK = msgspec.json.Decoder(Peek)


class TextDocument(msgspec.Struct):
    """A document as an object: its `text` counts, other fields are ignored."""

    text: str


class RerankRequest(msgspec.Struct):
    """Documents to be ranked for a query."""

    query: str
    documents: Annotated[
        list[str | TextDocument],
        _SLATE,
        msgspec.Meta(description="Texts, or objects with `text`."),
    ]
    scores: Annotated[
        dict[str, list[float | None] | None] | None,
        msgspec.Meta(description="First stages' numbers of each document by name, if the bundle's exit zero reads them."),
    ] = None
    top_n: Annotated[
        _Count | None,
        msgspec.Meta(description="Only the n best. Null: all, best first."),
    ] = None
    top_k: Annotated[_Count | None, msgspec.Meta(description="Another name of `top_n`.")] = None
    floor: Annotated[bool, msgspec.Meta(description="As in /v1/score.")] = False
    instruction: Annotated[
        str | None, msgspec.Meta(description="In the place of the reranker's own, if it reads one; else it is refused.")
    ] = None
    max_tokens_per_doc: Annotated[
        _Count | None,
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
        fields = {name: content for name, content in value.items() if content is not None}
        kind = TextsRequest if "texts" in fields and "documents" not in fields else cls
        for name in ("documents", "texts"):
            if isinstance(entries := fields.get(name), list):
                check_count(name, len(entries))
        request = typed(fields, kind, "body", error=InputError)
        for name, content in fields.items():
            if name in _REFUSED and content is not False:
                raise InputError(f"{name} is {short(content)}, {_REFUSED[name]}")
            if name not in (*kind.__struct_encode_fields__, *_WITHOUT_EFFECT, *_REFUSED):
                _log_unknown(name)
        if request.top_k is not None and request.top_n not in (None, request.top_k):
            raise InputError(f"top_k is {request.top_k}, but top_n is {request.top_n}: expected one of them")
        if request.rank_fields not in (None, ["text"]):
            raise InputError(f"rank_fields is {short(request.rank_fields)}, expected ['text'], the field that is read")
        return request

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def job(self, deadline_s: float | None = None) -> TextsJob:
        """Returns what a session is asked; its answer's content is the client's, as JSON."""
        return TextsJob(
            deadline_s=deadline_s,
            query=self.query,
            documents=self.texts,
            scores=self.scores,
            top_k=self.top_n or self.top_k,
            instruction=self.instruction,
            floor=self.floor,
            max_document_tokens=self.max_tokens_per_doc,
            may_cut=self.truncation,
            form=lambda ranking: msgspec.json.encode(self.answer(ranking)),
        )

    def answer(self, ranking: Ranking) -> Any:
        """Returns the answer, with what the clients read."""
        rows, texts, scores = [], self.texts, ranking.scores
        for score, index in zip(scores, scores.index.tolist(), strict=True):
            row: dict[str, Any] = {"index": index, "relevance_score": score.probability}
            if self.return_documents:
                row["document"] = {"text": texts[index]}
            if ranking.truncated[index]:
                row["truncated"] = True
            if score.cut_short:
                row["cut_short"] = True
            rows.append(row)
        tokens = scores.stats.prefix_tokens + scores.stats.candidate_tokens
        return {
            "id": uuid.uuid4().hex,
            "model": self.model or ranking.variant,
            "results": rows,
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
            "meta": {"tokens": {"input_tokens": tokens, "output_tokens": 0}},
        }


class TextsRequest(RerankRequest, kw_only=True):
    """The same in the form of Hugging Face's text-embeddings-inference. Its answer is an array, best first."""

    documents: Annotated[list[str | TextDocument], _SLATE] = msgspec.field(name="texts")
    return_documents: bool = msgspec.field(name="return_text", default=False)
    truncation: bool = msgspec.field(name="truncate", default=False)
    truncation_direction: Annotated[str, msgspec.Meta(pattern="^(Right|right)$")] = "Right"

    def answer(self, ranking: Ranking) -> Any:
        results = super().answer(ranking)["results"]
        return [{"index": row["index"], "score": row["relevance_score"], **row.get("document", {})} for row in results]


def _log_unknown(name: str) -> None:
    if name not in _logged and len(_logged) < _MAX_LOGGED:
        _logged.add(name)
        _LOGGER.warning("rerank: the field %s is not known and ignored", short(name))
