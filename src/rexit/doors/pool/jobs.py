"""What a session of the pool is asked, and what it answers."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.data.texts import NoTextsError, TextEncoder, session_encoder
from rexit.errors import DeadlineError, InputError
from rexit.format.request import Request, check_count
from rexit.runtime import Scores, Session, Stats

if TYPE_CHECKING:
    from rexit.format.request import StageScores


class Texts:
    """Tokenizes requests. Threads may share it.

    Args:
        session: A session of the bundle, whose tokenizer is read now.

    Raises:
        InputError: The tokenizer is damaged.
    """

    def __init__(self, session: Session) -> None:
        self._encoder: TextEncoder | None = None
        self._problem = ""
        try:
            self._encoder = session_encoder(session, "the bundle")
        except NoTextsError as exc:
            self._problem = str(exc)

    def check(self) -> None:
        """Raises InputError if texts cannot be tokenized."""
        if self._encoder is None:
            raise InputError(self._problem)

    def prompt(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        max_document_tokens: int | None = None,
        deadline: float = math.inf,
    ) -> tuple[list[int], list[list[int]], list[bool]]:
        """Returns a reranker's prompt, as `TextEncoder.prompt_with_cuts` does. Raises InputError and DeadlineError."""
        self.check()
        assert self._encoder is not None
        return self._encoder.prompt_with_cuts(query, documents, instruction, max_document_tokens, deadline)


class LateError(DeadlineError):
    """The deadline passed before a session began with the request."""


@dataclass(frozen=True)
class Answer:
    """What the caller gets, and what the metrics count.

    Attributes:
        content: JSON, or what the job's `form` makes of a ranking.
        stats: What the request cost.
        waited_s: Seconds from its arrival to a session.
        unknown_user: Whether it named a user whom the catalog does not have.
        truncated: Number of documents cut at their end.
        unlike: In what the request is unlike those that calibrated the policy; see `likeness`.
    """

    content: Any
    stats: Stats
    waited_s: float
    unknown_user: bool = False
    truncated: int = 0
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """Documents, best first.

    Attributes:
        scores: Their scores; `index` is a document's place in the request.
        truncated: Whether each document of the request, or the query with it, was cut to fit the model.
        variant: The bundle's variant.
    """

    scores: Scores
    truncated: Sequence[bool]
    variant: str


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
    def trace(self, session: Session, texts: Texts) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Returns the request's fields, which name what it retrieved as `items`, and every exit's raw log-odds, float32
        [candidates, exits]."""

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

    def trace(self, session: Session, texts: Texts) -> tuple[dict[str, Any], NDArray[np.float32]]:
        fields = self._fields()
        if "retrieve" not in fields:
            return fields, session.trace_json(self.body)
        trace = session.trace_with_stats(Request(**fields))
        del fields["retrieve"]
        return {**fields, "items": np.asarray(trace.items, object).tolist()}, trace.log_odds

    def _fields(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.json.decode(self.body).items() if value is not None}

    @property
    def follows_policy(self) -> bool:
        return "force_exit" not in self._fields()


def _as_it_is(ranking: Ranking) -> Any:
    return ranking


@dataclass(eq=False, kw_only=True)
class TextsJob(Job):
    """Documents to be ranked for a query. They are tokenized when its turn comes.

    Attributes:
        query: The query.
        documents: The documents, 1 to `MAX_CANDIDATES`. More raise InputError.
        scores: First stages' numbers of each document, by name.
        top_k: Only the k best; None: all.
        instruction: In the place of the reranker's own.
        floor: Whether documents below the policy's floor are left out.
        max_document_tokens: Documents are cut to this many tokens; None: to as many as the model takes.
        may_cut: Whether a document that does not fit is cut; else it is refused.
        force_exit: The exit at which every document stops; None: the policy decides.
        form: Makes the answer's content of the ranking, in the session's thread.
    """

    query: str
    documents: Sequence[str]
    scores: StageScores | None = None
    top_k: int | None = None
    instruction: str | None = None
    floor: bool = False
    max_document_tokens: int | None = None
    may_cut: bool = True
    force_exit: int | None = None
    form: Callable[[Ranking], Any] = _as_it_is

    def __post_init__(self) -> None:
        check_count("documents", len(self.documents))

    def score(self, session: Session, texts: Texts, **rule: Any) -> Answer:
        waited_s, count = self.waited_s, len(self.documents)
        floor = self.floor and not rule  # it is of the policy's own rules
        deadline = math.inf if self.deadline_s is None else self.arrived + self.deadline_s
        request, truncated = self._request(texts, floor or None, deadline)
        if not self.may_cut and any(truncated):
            raise InputError(f"documents[{truncated.index(True)}], or the query with it, would be cut, and truncation is false")
        left = self.left_s()
        if left <= 0:
            raise self.late()
        deadline_ms = None if self.deadline_s is None else left * 1000
        rule = {"force_exit": self.force_exit, **rule}
        scores = session.score(request, top_k=min(count, self.top_k or count), deadline_ms=deadline_ms, **rule)
        content = self.form(Ranking(scores, truncated, session.info.variant))
        return Answer(content, scores.stats, waited_s, truncated=sum(truncated))

    def trace(self, session: Session, texts: Texts) -> tuple[dict[str, Any], NDArray[np.float32]]:
        fields = {
            "instruction": self.instruction,
            "max_tokens_per_doc": self.max_document_tokens,
            "scores": self.scores,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return {"documents": self.documents, "query": self.query, **given}, session.trace(self._request(texts)[0])

    @property
    def follows_policy(self) -> bool:
        return self.force_exit is None

    def _request(self, texts: Texts, floor: bool | None = None, deadline: float = math.inf) -> tuple[Request, list[bool]]:
        """The request as token ids, and whether each document was cut."""
        fields = self.query, self.documents, self.instruction, self.max_document_tokens
        prefix, candidates, truncated = texts.prompt(*fields, deadline)
        return Request(prefix=prefix, candidates=candidates, scores=self.scores, floor=floor), truncated
