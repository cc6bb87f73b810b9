"""A bundle in three lines: `Reranker` ranks documents for a query, `Recommender` items for a user.

    reranker = rexit.Reranker("bundle")
    hits = reranker.rank(query, documents, top_k=10)

Both hold a pool of sessions, which threads may share, and answer with dicts. `rexit.open` gives a session of its own, with token
ids, traces and a stopping rule by request.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import runtime
from rexit.doors.pool import Answer, Job, Pool, Ranking, RefusedError, ScoreJob, TextsJob
from rexit.errors import InputError, RexitError
from rexit.format.bundle.files import short
from rexit.format.request import Request, check_deadline

if TYPE_CHECKING:
    from rexit.format.ids import Id
    from rexit.format.request import Ids, Recent, StageScores, Values

    Query = tuple[str, Iterable[str]] | tuple[str, Iterable[str], StageScores]

_J = TypeVar("_J", bound=Job)
_ANY_NUMBER = 1 << 62
"""Requests that may wait: as many as there are threads that ask."""


class _Ranker(ABC):
    """A bundle's variant, opened for all threads of this process."""

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        variant: str | None = None,
        *,
        sessions: int = 1,
        threads: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        """Opens a bundle.

        Args:
            bundle: The bundle's folder.
            variant: Name of the variant; None: the first with a policy, or else the first.
            sessions: Requests scored at once, 1 to 64. One answers a request soonest; as many as cores answer most per second.
            threads: Size of the process's one thread pool, as for `rexit.open`; 0: one thread per core.
            cache_bytes: Upper bound of each session's cached prefixes; 0: 32 MiB.

        Raises:
            BundleError: The bundle is missing, damaged, or of another version.
            BackendError: The backend is missing, too old, or failed.
            InputError: There is no such variant, the bundle is of the other kind, or an argument is out of range.
        """
        if isinstance(sessions, bool) or not isinstance(sessions, int) or not 1 <= sessions <= 64:
            raise InputError(f"sessions is {short(sessions)}, expected an integer from 1 to 64")
        self._path, self._process = os.fspath(bundle), os.getpid()
        self._pool = Pool(partial(runtime.open, bundle, variant, threads=threads, cache_bytes=cache_bytes), sessions, _ANY_NUMBER)
        self._sessions = sessions
        self._close = weakref.finalize(self, self._pool.close)  # also at exit: a thread must not be in C++ by then
        try:
            self._check()
        except InputError:
            self.close()
            raise

    @abstractmethod
    def _check(self) -> None:
        """Raises InputError for a bundle of the other kind."""

    @property
    def info(self) -> runtime.Info:
        """What the bundle holds."""
        return self._pool.info

    def close(self) -> None:
        """Lets running requests finish, and releases everything. A second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<rexit.{type(self).__name__} {self._path!r} {self.info.variant}>"

    def _submit(self, job: _J) -> _J:
        if os.getpid() != self._process:
            raise InputError(f"{self!r} was opened before this process was forked: expected it to be opened in each process")
        try:
            self._pool.submit(job)
        except RefusedError:
            if self._close.alive:
                raise RexitError(f"{self!r}: all sessions have ended, which is a defect: the log has more") from None
            raise InputError(f"{self!r} is closed") from None
        return job

    def _answer(self, job: Job) -> Answer:
        return self._pool.result(self._submit(job))


class Reranker(_Ranker):
    """Ranks documents for a query, with the bundle of a reranker. Threads may share it.

    `rank` and `predict` take what sentence-transformers' `CrossEncoder` takes and return what it returns. A score is a
    probability, calibrated if the bundle has a policy.
    """

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        scores: StageScores | None = None,
        floor: bool = False,
        instruction: str | None = None,
        deadline_ms: float | None = None,
        force_exit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Ranks documents for a query. Each stops at its first confident exit.

        Args:
            query: The query.
            documents: The documents, in any number. One that does not fit the model is cut at its end.
            top_k: Only the k best; None: all.
            return_documents: Whether a hit has its document's text.
            scores: First stages' numbers of each document, such as BM25's, by name, if the bundle reads them; None or NaN where
                there is none.
            floor: Whether documents below the policy's floor are left out, which `rexit calibrate --recall` finds. Then there may
                be no hit.
            instruction: In the place of the reranker's own, if it reads one.
            deadline_ms: Milliseconds from here. Documents that are not finished by then answer from the deepest exit they have
                reached.
            force_exit: The exit, from 0, at which every document stops, whatever the policy says.

        Returns:
            Hits, best first: `corpus_id`, the document's place, `score`, `log_odds` before calibration, `exit`, the exit that
            answered, from 0, and `text` with `return_documents`. A hit also has `truncated` if its document was cut, and
            `cut_short` if the deadline stopped it; without an answer by then its `score`, `log_odds` and `exit` are None.

        Raises:
            InputError: An argument is not what was expected, or the query leaves no room for a document.
            DeadlineError: No document reached an exit in time.
            BackendError: The backend failed.
        """
        job = _texts_job(query, documents, top_k, scores, instruction, deadline_ms, force_exit=force_exit, floor=floor)
        return self._ranked(self._submit(job) if job.documents else job, return_documents)

    def rank_many(
        self,
        queries: Iterable[Query],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        floor: bool = False,
        deadline_ms: float | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """Yields the hits of many queries in their order, while the sessions work on the next ones.

        Args:
            queries: Tuples of a query and its documents, or of these and `scores` as for `rank`. They are read as they are
                needed, a few ahead.
            top_k, return_documents, floor: As for `rank`.
            deadline_ms: For each query, from when it is read.

        Raises:
            InputError, DeadlineError, BackendError: As `rank`, for the query whose turn it is.
        """
        waiting: deque[TextsJob | InputError] = deque()
        rest = enumerate(_entries("queries", queries, "tuples of a query and its documents"))
        try:
            while True:
                while len(waiting) <= self._sessions and (entry := next(rest, None)) is not None:
                    try:
                        job = _query_job(*entry, top_k, deadline_ms=deadline_ms, floor=floor)
                        waiting.append(self._submit(job) if job.documents else job)
                    except InputError as exc:  # its turn comes after that of the queries before it
                        waiting.append(exc)
                if not waiting:
                    return
                if isinstance(turn := waiting.popleft(), InputError):
                    raise turn
                yield self._ranked(turn, return_documents)
        finally:
            for unused in waiting:
                if not isinstance(unused, InputError):
                    self._pool.withdraw(unused)

    def predict(
        self,
        pairs: Sequence[Sequence[str]] | Sequence[str],
        *,
        scores: StageScores | None = None,
        deadline_ms: float | None = None,
    ) -> NDArray[np.float32] | np.float32:
        """Returns the probabilities of pairs of a query and a document, float32 [n] in their order; of one pair, its own.

        The documents of one query are scored together, wherever its pairs are: a policy may stop them by their order.

        Args:
            pairs: The pairs, or a single one.
            scores: First stages' numbers of each pair by name, if the bundle reads them.
            deadline_ms: As for `rank`. A pair without an answer by then is NaN.

        Raises:
            InputError, DeadlineError, BackendError: As `rank`.
        """
        pairs, single = _pairs(pairs)
        if not isinstance(scores, Mapping | None):
            raise InputError(f"scores is {short(scores)}, expected numbers of the pairs by name")
        stages = {
            name: list(_entries(f"scores.{name}", numbers, "a number for each pair"))
            for name, numbers in (scores or {}).items()
            if numbers is not None
        }
        for name, numbers in stages.items():
            if len(numbers) != len(pairs):
                raise InputError(f"scores.{name} has {len(numbers)} numbers, expected one for each of the {len(pairs)} pairs")
        places: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(place)
        jobs = [
            _texts_job(
                query,
                [pairs[n][1] for n in own],
                scores=None if scores is None else {name: [numbers[n] for n in own] for name, numbers in stages.items()},
                deadline_ms=deadline_ms,
            )
            for query, own in places.items()
        ]
        probabilities = np.full(len(pairs), np.nan, np.float32)
        try:
            for job in jobs:
                self._submit(job)
            for job, own in zip(jobs, places.values(), strict=True):
                ranked = self._pool.result(job).content.scores
                probabilities[np.array(own)[ranked.index]] = ranked.probability
        finally:
            for job in jobs:
                self._pool.withdraw(job)
        return probabilities[0] if single else probabilities

    def ranking(self, query: str, documents: Iterable[str], top_k: int | None = None, **options: Any) -> Ranking:
        """Returns what `rank` does as arrays, with what it cost. options: those of `rank`; at least one document."""
        ranking: Ranking = self._answer(_texts_job(query, documents, top_k, **options)).content
        return ranking

    def _ranked(self, job: TextsJob, return_documents: bool) -> list[dict[str, Any]]:
        """Waits for the hits of a job, which was submitted if it has documents."""
        if not job.documents:
            return []
        return _hits(self._pool.result(job).content, job.documents if return_documents else None)

    def _check(self) -> None:
        if self.info.has_catalog:
            raise InputError(f"{self._path}: has a catalog of users and items, expected a reranker's bundle: rexit.Recommender")
        self._pool.check_texts()


class Recommender(_Ranker):
    """Ranks items for a user, with the bundle of a catalog. Threads may share it."""

    def recommend(
        self,
        user: Id,
        top_k: int = 10,
        *,
        items: Ids | None = None,
        retrieve: int = 200,
        recent: Recent | None = None,
        as_of: int | None = None,
        inputs: Values | None = None,
        scores: StageScores | None = None,
        floor: bool = False,
        deadline_ms: float | None = None,
    ) -> list[dict[str, Any]]:
        """Ranks items for a user. Each stops at its first confident exit.

        Args:
            user: The user's id.
            top_k: Only the k best; 0: all.
            items: The candidates' ids; None: the catalog's items nearest to the user, without those that the user has met.
            retrieve: So many of them are scored, or all if the catalog has fewer.
            recent, as_of, inputs, scores, floor, deadline_ms: As in `rexit.Request`.

        Returns:
            Hits, best first: `item`, `score`, a probability, `log_odds` before calibration, and `exit`, the exit that answered,
            from 0. A hit also has `cut_short` if the deadline stopped it, and `known`, False, if the catalog does not have the
            user.

        Raises:
            InputError: An argument is not what was expected, an item is not in the catalog, or there is none to retrieve.
            DeadlineError: No item reached an exit in time.
            BackendError: The backend failed.
        """
        fields: dict[str, Any] = {"retrieve": min(_count("retrieve", retrieve, 1), self.info.items)}
        if items is not None:
            fields = {"items": list(_entries("items", items, "a list of ids"))}
            if not fields["items"]:
                return []
        most = fields.get("retrieve") or len(fields["items"])
        fields |= {"recent": recent, "as_of": as_of, "inputs": inputs, "scores": scores, "deadline_ms": deadline_ms}
        fields |= {"floor": True} if floor else {}
        request = Request(user, top_k=min(_count("top_k", top_k, 0) or most, most), **fields)
        deadline_s = None if deadline_ms is None else _deadline_s(deadline_ms)
        answer = self._answer(ScoreJob(body=request.to_json(), deadline_s=deadline_s))
        marks = {} if answer.stats.known_user else {"known": False}
        return [
            {"item": row["item"], **_scored(row["probability"], row["log_odds"], row["exit"], row["cut_short"]), **marks}
            for row in msgspec.json.decode(answer.content)["scores"]
        ]

    def _check(self) -> None:
        if not self.info.has_catalog:
            raise InputError(f"{self._path}: has no catalog of users and items, expected one: rexit.Reranker reads this bundle")


def _hits(ranking: Ranking, documents: Sequence[str] | None) -> list[dict[str, Any]]:
    """The hits of a ranking. documents: None: without their texts."""
    hits = []
    for score, index in zip(ranking.scores, ranking.scores.index.tolist(), strict=True):
        hit = {"corpus_id": index, **_scored(score.probability, score.log_odds, score.exit, score.cut_short)}
        if documents is not None:
            hit["text"] = documents[index]
        if ranking.truncated[index]:
            hit["truncated"] = True
        hits.append(hit)
    return hits


def _scored(probability: float | None, log_odds: float | None, exit_: int | None, cut_short: bool) -> dict[str, Any]:
    marks = {"cut_short": True} if cut_short else {}
    return {"score": probability, "log_odds": log_odds, "exit": exit_, **marks}


def _texts_job(
    query: str,
    documents: Iterable[str],
    top_k: int | None = None,
    scores: StageScores | None = None,
    instruction: str | None = None,
    deadline_ms: float | None = None,
    **options: Any,
) -> TextsJob:
    """Returns the job of checked arguments. options: those of `TextsJob` that the library checks. Raises InputError."""
    listed = enumerate(_entries("documents", documents, "a list of strings"))
    return TextsJob(
        query=_text("query", query),
        documents=[_text(f"documents[{n}]", document) for n, document in listed],
        top_k=None if top_k is None else _count("top_k", top_k, 1),
        scores=scores,
        instruction=None if instruction is None else _text("instruction", instruction),
        deadline_s=None if deadline_ms is None else _deadline_s(deadline_ms),
        **options,
    )


def _entries(name: str, values: Any, expected: str) -> Iterator[Any]:
    if not isinstance(values, str | bytes | Mapping):
        with contextlib.suppress(TypeError):
            return iter(values)
    raise InputError(f"{name} is {short(values)}, expected {expected}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is {short(value)}, expected a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} is {short(value)}: UTF-8 cannot hold it") from None
    return value


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} is {short(value)}, expected an integer from {least} on")
    return int(value)


def _deadline_s(deadline_ms: float) -> float:
    check_deadline(deadline_ms)
    return deadline_ms / 1000


def _query_job(number: int, entry: Any, top_k: int | None, **options: Any) -> TextsJob:
    """Returns the job of an entry of `rank_many`. Raises InputError."""
    if isinstance(entry, str | bytes | Mapping) or not isinstance(entry, Sequence) or len(entry) not in (2, 3):
        raise InputError(f"queries[{number}] is {short(entry)}, expected a query and its documents, with or without scores")
    query, documents, *scores = entry
    try:
        return _texts_job(query, documents, top_k, scores[0] if scores else None, **options)
    except InputError as exc:
        raise InputError(f"queries[{number}]: {exc}") from None


def _pairs(values: Any) -> tuple[list[tuple[str, str]], bool]:
    """Pairs as tuples, and whether they were a single pair."""
    entries = list(_entries("pairs", values, "a list of pairs of a query and a document"))
    single = len(entries) == 2 and all(isinstance(entry, str) for entry in entries)
    pairs = [entries] if single else entries
    for n, pair in enumerate(pairs):
        if isinstance(pair, str | bytes | Mapping) or not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2:
            raise InputError(f"pairs[{n}] is {short(pair)}, expected a query and a document")
        for name, text in zip(("query", "document"), pair, strict=True):
            _text(f"pairs[{n}]: the {name}", text)
    return [(query, document) for query, document in pairs], single
