"""What a session of the pool is given to do: requests in JSON, whose reader is the library, and those of rerankers' clients.

A client of Cohere, Jina, LiteLLM, text-embeddings-inference and others sends its own fields and reads its own answer. Null is the
same as no field. A field of one of their APIs that would change the answer is followed or refused. A field that nobody knows is
ignored, as other servers do, and logged once.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle.files import short, typed
from rexit.errors import DeadlineError, InputError
from rexit.prompts.texts import TextEncoder, session_encoder
from rexit.request import LONGEST_MS, Request
from rexit.runtime import Scores, Session, Stats

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


class Texts:
    """Tokenizes requests. Threads may share it.

    Args:
        session: A session of the bundle, whose tokenizer is read now.
    """

    def __init__(self, session: Session) -> None:
        self._encoder: TextEncoder | None = None
        try:
            self._encoder = session_encoder(session, "the bundle")
        except InputError as exc:
            self._problem = str(exc)

    def prompt(
        self, query: str, documents: Sequence[str], instruction: str | None = None, max_document_tokens: int | None = None
    ) -> tuple[list[int], list[list[int]], list[bool]]:
        """Returns a reranker's prompt, as `TextEncoder.prompt_with_cuts` does. Raises InputError."""
        if self._encoder is None:
            raise InputError(self._problem)
        return self._encoder.prompt_with_cuts(query, documents, instruction, max_document_tokens)


class LateError(DeadlineError):
    """The deadline passed before a session began with the request."""


@dataclass(frozen=True)
class Answer:
    """What a client gets, and what the metrics count.

    Attributes:
        body: JSON.
        stats: What the request cost.
        waited_s: Seconds from its arrival to a session.
        unknown_user: Whether it named a user whom the catalog does not have.
        truncated: Number of documents cut at their end.
        unlike: In what the request is unlike those that calibrated the policy; see `likeness`.
    """

    body: bytes
    stats: Stats
    waited_s: float
    unknown_user: bool = False
    truncated: int = 0
    unlike: tuple[str, ...] = ()


@dataclass(eq=False, kw_only=True)
class Job(ABC):
    """A request and its future.

    Attributes:
        deadline_s: Seconds from `arrived`; None: no deadline.
        arrived: By `time.monotonic`.
        future: Gets the answer.
    """

    deadline_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    future: Future[Answer] = field(default_factory=Future)

    @abstractmethod
    def score(self, session: Session, texts: Texts, **rule: Any) -> Answer:
        """Returns the session's answer. texts: those of the session's bundle. rule: options in place of the policy."""

    @abstractmethod
    def trace(self, session: Session, texts: Texts) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, float32 [candidates, exits]."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Returns the request's fields."""

    @property
    def follows_policy(self) -> bool:
        """Whether the bundle's policy decides where its candidates stop."""
        return True

    @property
    def waited_s(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.arrived

    def left_s(self) -> float:
        """Returns the seconds until the deadline; inf without one."""
        return math.inf if self.deadline_s is None else self.deadline_s - self.waited_s

    def late(self) -> LateError:
        """Returns the error of a request that did not begin in time."""
        return LateError(f"the deadline of {(self.deadline_s or 0) * 1000:g} ms passed in the queue, before scoring began")


class Peek(msgspec.Struct):
    """What the service itself must know of a request in JSON; `rexit.request.Request` describes all of it."""

    items: list[msgspec.Raw] | None = None
    recent: list[msgspec.Raw] | None = None
    candidates: list[msgspec.Raw] | None = None
    deadline_ms: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_MS)] | None = None

    @classmethod
    def of(cls, body: bytes) -> Peek:
        """Returns what a body says; nothing if it is no request, which the library then refuses."""
        try:
            return _PEEK.decode(body)
        except (ValueError, RecursionError):
            return cls()


_PEEK = msgspec.json.Decoder(Peek)


@dataclass(eq=False, kw_only=True)
class ScoreJob(Job):
    """A request in JSON, which the library reads.

    Attributes:
        body: The request.
        names_user: Whether it names a user.
    """

    body: bytes
    names_user: bool = True

    def score(self, session: Session, texts: Texts, **rule: Any) -> Answer:
        waited_s = self.waited_s
        deadline_us = 0 if self.deadline_s is None else max(1, round(self.deadline_s * 1e6))
        answer = session.score_json(self.body, waited_us=round(waited_s * 1e6), deadline_us=deadline_us, **rule)
        return Answer(answer.text, answer.stats, waited_s, self.names_user and not answer.stats.known_user)

    def trace(self, session: Session, texts: Texts) -> NDArray[np.float32]:
        return session.trace_json(self.body)

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.json.decode(self.body).items() if value is not None}

    @property
    def follows_policy(self) -> bool:
        return "force_exit" not in self.document()


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
        fields = {name: content for name, content in value.items() if content is not None}
        kind = TextsRequest if "texts" in fields and "documents" not in fields else cls
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
    def count(self) -> int:
        """Documents in the answer."""
        return min(len(self.documents), self.top_n or self.top_k or len(self.documents))

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def answer(self, scores: Scores, variant: str, truncated: Sequence[bool]) -> Any:
        """The answer, with what the clients read. truncated: whether each document, or the query with it, was cut."""
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
    truncation: bool = msgspec.field(name="truncate", default=False)
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
            raise InputError(f"documents[{truncated.index(True)}], or the query with it, would be cut, and truncation is false")
        left = self.left_s()
        if left <= 0:
            raise self.late()
        deadline_ms = None if self.deadline_s is None else left * 1000
        prompt = Request.tokens(prefix, candidates, request.scores)
        scores = session.score(prompt, top_k=request.count, deadline_ms=deadline_ms, **rule)
        body = msgspec.json.encode(request.answer(scores, session.info.variant, truncated))
        return Answer(body, scores.stats, waited_s, truncated=sum(truncated))

    def trace(self, session: Session, texts: Texts) -> NDArray[np.float32]:
        request = self.request
        prompt = texts.prompt(request.query, request.texts, request.instruction, request.max_tokens_per_doc)
        return session.trace(Request.tokens(*prompt[:2], request.scores))

    def document(self) -> dict[str, Any]:
        request = self.request
        fields = {name: getattr(request, name) for name in ("query", "instruction", "max_tokens_per_doc", "scores")}
        return {"documents": request.texts, **{name: value for name, value in fields.items() if value is not None}}


def _log_unknown(name: str) -> None:
    if name not in _logged and len(_logged) < _MAX_LOGGED:
        _logged.add(name)
        _LOGGER.warning("rerank: the field %s is not known and ignored", short(name))
