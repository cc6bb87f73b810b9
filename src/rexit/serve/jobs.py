"""What a session of the pool is given to do, and the bundle's tokenizer for it."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from rexit.bundle import Id
from rexit.errors import DeadlineError, InputError
from rexit.prompts.texts import TextEncoder, session_encoder
from rexit.request import LONGEST_MS
from rexit.runtime import Session, Stats


class Texts:
    """Tokenizes requests, one at a time.

    Args:
        session: A session of the bundle, whose tokenizer is read now.
    """

    def __init__(self, session: Session) -> None:
        self._lock = threading.Lock()
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
        with self._lock:
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
    """

    body: bytes
    stats: Stats
    waited_s: float
    unknown_user: bool = False
    truncated: int = 0


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
    def slate(self) -> tuple[Id, list[Id]]:
        """Returns what an audit counts once, such as the user, and the candidates' ids."""

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
    """What the service itself must know of a request in JSON; `rexit.request.FIELDS` describes all of it."""

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


class _Slate(msgspec.Struct):
    """The part of a scored request that audits name."""

    user: int | str | None = None
    items: list[int | str] | None = None
    prefix: list[int] | None = None
    candidates: list[msgspec.Raw] | None = None


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

    def slate(self) -> tuple[Id, list[Id]]:
        """Returns the user and the items; of a prompt as token ids, the prefix's digest and the candidates' places."""
        request = msgspec.json.decode(self.body, type=_Slate)
        if request.user is not None:
            return request.user, request.items or []
        return digest(repr(request.prefix or [])), list(range(len(request.candidates or ())))


def digest(text: str) -> str:
    """Returns what stands for a text or prompt in the log of audits."""
    return "#" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
