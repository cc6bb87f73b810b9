"""`rexit.open(bundle)`: a session that scores and traces slates, over NumPy arrays."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Counters, TopK
from rexit.deadlines import check_deadline
from rexit.errors import InputError
from rexit.runtime import _native
from rexit.runtime._library import onnxruntime_library

Id = int | str
Recent = Iterable[Id | tuple[Id, bool]]


@dataclass(frozen=True)
class Info:
    """What an opened bundle holds: numbers of users, items, exits and layers; limits in tokens; whether ids are strings; whether
    the variant has a policy, and that policy's rules of the whole slate: `top_k` (0: no such rule) with `ordered`, and `quorum`.
    """

    users: int
    items: int
    exits: int
    layers: int
    max_tokens: int
    max_positions: int
    string_user_ids: bool
    string_item_ids: bool
    calibrated: bool
    variant: str
    top_k: int
    ordered: bool
    quorum: float


@dataclass(frozen=True)
class ExitInfo:
    """One exit: its depth in layers and its policy. c = a z + b with z the raw log-odds; it stops at c >= upper or c <= -lower
    (inf: never), once `patience` heads in a row agree on the sign of c. `rise` and `fall` are the top-k rule's (0: none)."""

    layers: int
    a: float
    b: float
    upper: float
    lower: float
    patience: int
    rise: float
    fall: float


@dataclass(frozen=True)
class StopRule:
    """What replaces the bundle's rules for one request: thresholds on c, one pair per exit, and a patience; a quorum and a top-k
    rule, as in `rexit.bundle.Policy`. The bundle's Platt maps stay."""

    upper: Sequence[float]
    lower: Sequence[float]
    patience: int = 1
    quorum: float = 0.0
    top_k: TopK | None = None


@dataclass(frozen=True)
class SegmentStats:
    """What one segment did in a request: prefix tokens computed (those not in the cache), candidates that went through it and
    their tokens, and the time of its passes alone."""

    prefix_tokens: int
    candidates: int
    candidate_tokens: int
    prefix_us: float
    slate_us: float


@dataclass(frozen=True)
class Stats:
    """What a request cost. `candidate_layers` is summed over candidates; `retrieval_us` includes assembling the prompt;
    `known_user`: whether the catalog has the user, False for a new or a mistyped one; `segments` has one entry per segment."""

    prefix_tokens: int
    prefix_tokens_reused: int
    candidate_tokens: int
    candidate_layers: int
    prefix_layers: int
    retrieval_us: float
    prefix_us: float
    slate_us: float
    total_us: float
    known_user: bool = True
    segments: tuple[SegmentStats, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Bytes held: by the session's cached prefixes (what `cache_bytes` bounds) and its other buffers; by ONNX Runtime for all
    sessions of the process, on the host: `working`, what segments need while they run, and `weights`, without those it maps from
    their files (older versions count them as `working`). TensorRT does not report either: 0. `pinned`: the start that all
    prefixes of the bundle share, once for all its sessions, on top of their `cache_bytes`."""

    prefixes: int
    buffers: int
    working: int
    weights: int
    pinned: int


@dataclass(frozen=True)
class Scores:
    """One entry per answer, in the order of the request or, with `top_k`, best first.

    `items` are the ids as given, `index` their places in the request, `exit` the exit that answered (from 0), `log_odds` the raw
    logit(yes) - logit(no) there, `probability` the calibrated one; `cut_short` marks candidates stopped by the deadline. Those
    stopped before their first exit have no answer: exit -1, NaN for both numbers; with `top_k` they come last.
    """

    items: NDArray[Any]
    index: NDArray[np.int64]
    probability: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    exit: NDArray[np.int64]
    cut_short: NDArray[np.bool_]
    stats: Stats

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Trace:
    """Every exit's raw log-odds, float32 [items, exits], and what it cost to compute them."""

    log_odds: NDArray[np.float32]
    stats: Stats


def verify(bundle: str | os.PathLike[str], variant: str | None = None) -> None:
    """Checks what opening leaves for later, as `rexit_bundle_verify` does: every row of the catalog, and all digests.

    variant: None checks all. Opens no backend. Raises BundleError for the first thing that is wrong.
    """
    _native.verify(os.fspath(bundle), variant or "")


def open(
    path: str | os.PathLike[str],
    variant: str | None = None,
    *,
    threads: int = 0,
    cache_bytes: int = 0,
    slate_bytes: int = 0,
    library: str | os.PathLike[str] | None = None,
    device: str | None = None,
    device_id: int = 0,
) -> Session:
    """Opens a bundle's variant (None: the first one): checks its structure, maps the catalog, loads the segments.

    `threads` sets the size of the process's one thread pool, created by the first bundle opened; 0: one per core. `cache_bytes`
    bounds the cached prefixes: users' former ones go first, then the least recently used; 0: 32 MiB. `slate_bytes` bounds
    the hidden states of one slate; 0: 256 MiB. A larger one runs in parts, or is refused where the policy has a top-k rule or a
    quorum, which need the whole slate. `library` is the path of ONNX Runtime's shared library; None: the `onnxruntime` wheel's,
    else the system's.

    `device`: `cpu` (any variant), `cuda` (any variant) or `tensorrt` (engines of a tensorrt variant); None: the variant's own
    target. `device_id`: which GPU. The library, with ONNX Runtime, logs to the logger `rexit`, from any of its threads: a policy
    that was calibrated under other conditions, for instance. Raises BundleError, BackendError, InputError.
    """
    return Session(
        path,
        variant,
        threads=threads,
        cache_bytes=cache_bytes,
        slate_bytes=slate_bytes,
        library=library,
        device=device,
        device_id=device_id,
    )


class Session:
    """An opened bundle with buffers and the cached prefixes of the last users. Threads may share it; one works at a time.
    `memory`, `counters` and `reset_counters` do not wait for a thread that does.

    `info` and `exits` describe the bundle. Arguments and errors: see `open`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        variant: str | None = None,
        *,
        threads: int = 0,
        cache_bytes: int = 0,
        slate_bytes: int = 0,
        library: str | os.PathLike[str] | None = None,
        device: str | None = None,
        device_id: int = 0,
    ) -> None:
        for name, value in (("variant", variant), ("device", device)):
            if value == "":
                raise InputError(f"{name} is an empty string, expected a name or None")
        chosen = onnxruntime_library() if library is None else os.fspath(library)
        self._native: _native.Session | None = _native.Session(
            os.fspath(path),
            variant or "",
            chosen,
            _integer("threads", threads, 31),
            _size("cache_bytes", cache_bytes),
            _size("slate_bytes", slate_bytes),
            device or "",
            _integer("device_id", device_id, 31),
        )
        self.info = Info(*self._native.info())
        self.exits = tuple(ExitInfo(*exit) for exit in self._native.exits())

    def another(self) -> Session:
        """A second session over the same opened bundle: it shares the weights and the catalog, but neither the buffers nor
        the cached prefixes. Sessions of one bundle can score at the same time, each in its own thread."""
        made = object.__new__(Session)
        made._native, made.info, made.exits = self._open.another(), self.info, self.exits
        return made

    def reloaded(self) -> Session | None:
        """A session over what the bundle's folder holds now, after `rexit refresh` or `rexit calibrate`; None if nothing has
        changed since this one was opened, which takes well under a millisecond to tell. It shares the loaded weights. This
        session stays as it is, for the requests that have it, and both may be used at the same time; the new one has no cached
        prefixes, and its counters are at 0.

        Raises BundleError, and leaves this session usable, for files that are not right, or for other segments than those loaded
        (status `REXIT_MISMATCH`): then open the bundle again."""
        if (native := self._open.reloaded()) is None:
            return None
        made = object.__new__(Session)
        made._native = native
        made.info, made.exits = Info(*native.info()), tuple(ExitInfo(*exit) for exit in native.exits())
        return made

    def score(
        self,
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        *,
        recent: Recent | None = None,
        as_of: int | None = None,
        top_k: int = 0,
        deadline_ms: float | None = None,
        force_exit: int | None = None,
        policy: StopRule | None = None,
    ) -> Scores:
        """Scores a slate for one user, stopping each candidate at its first confident exit.

        `recent`: interactions newer than the catalog's, oldest first: item ids (liked) or (item id, liked) pairs. `as_of`: only
        the catalog's interactions with time < as_of reach the prompt. `top_k`: return only the best, 0 all; replaces the k of the
        policy's top-k rule, if it has one. `deadline_ms`: no segment starts later; candidates answer from the deepest exit they
        reached, and are marked (see Scores). `force_exit`: every candidate stops there. `policy` replaces the bundle's.

        Raises InputError for an unknown item or a bad option, DeadlineError if no candidate reached an exit in time,
        CancelledError after `cancel`.
        """
        given, ids = _ids("items", items)
        if deadline_ms is not None:
            check_deadline(deadline_ms)
        index, exit, probability, log_odds, cut_short, stats = self._open.score(
            _id("user", user),
            ids,
            *_recent(recent),
            None if as_of is None else _integer("as_of", as_of),
            _integer("top_k", top_k, 31),
            0 if deadline_ms is None else max(1, round(deadline_ms * 1000)),
            None if force_exit is None else _integer("force_exit", force_exit, 31),
            None if policy is None else _rules(policy, self.info.exits),
        )
        return Scores(given[index], index, probability, log_odds, exit, cut_short.astype(np.bool_), _stats(stats))

    def trace(
        self, user: Id, items: Sequence[Id] | NDArray[Any], *, recent: Recent | None = None, as_of: int | None = None
    ) -> NDArray[np.float32]:
        """Every exit's raw log-odds, ignoring the policy: float32 [items, exits]."""
        return self.trace_with_stats(user, items, recent=recent, as_of=as_of).log_odds

    def trace_with_stats(
        self, user: Id, items: Sequence[Id] | NDArray[Any], *, recent: Recent | None = None, as_of: int | None = None
    ) -> Trace:
        """`trace`, with what it cost."""
        time = None if as_of is None else _integer("as_of", as_of)
        log_odds, stats = self._open.trace(_id("user", user), _ids("items", items)[1], *_recent(recent), time)
        return Trace(log_odds, _stats(stats))

    def prompt(
        self, user: Id, items: Sequence[Id] | NDArray[Any], *, recent: Recent | None = None, as_of: int | None = None
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        """The token ids a request is scored from: the prefix's, int32 [P], and each candidate's, int32 [T]. Ids from the
        tokenizer's vocabulary size on stand for vectors (`rexit.bundle.VectorIds`)."""
        time = None if as_of is None else _integer("as_of", as_of)
        tokens, offsets = self._open.prompt(_id("user", user), _ids("items", items)[1], *_recent(recent), time)
        parts = np.split(np.array(tokens, np.int32), offsets[1:-1])
        return parts[0], parts[1:]

    def warm_up(self) -> None:
        """Runs every segment once on a made-up slate, so that the first request does not pay for allocations."""
        self._open.warm_up()

    def clear_cache(self) -> None:
        """Drops the cached prefixes."""
        self._open.clear_cache()

    def save_cache(self, path: str | os.PathLike[str]) -> None:
        """Writes the cached prefixes to a file, for `load_cache` after a restart. The file appears complete or not at all, and
        only its owner may read it: it holds what the model made of users' histories. Raises BundleError if it cannot be
        written."""
        self._open.save_cache(_path(path))

    def load_cache(self, path: str | os.PathLike[str]) -> None:
        """Replaces the cached prefixes by those that `save_cache` wrote: the most recently used, as many as `cache_bytes` holds.
        Scores are those from before the save, to the bit on the same machine. `warm_up` drops the cached prefixes, so call it
        first.

        Raises BundleError, and leaves the session as it was, if the file is missing or damaged, or was saved from another bundle
        or variant."""
        self._open.load_cache(_path(path))

    def trim(self) -> None:
        """Gives memory back: the cached prefixes, the session's buffers, and unused working memory of the backend."""
        self._open.trim()

    def cancel(self) -> None:
        """From another thread: the running call soon raises CancelledError, or returns if it is nearly done. Does nothing if no
        call is running; later calls, including those waiting for their turn, are served."""
        self._open.cancel()

    def counters(self) -> Counters:
        """What candidates did at each exit, over all slates it scored; traces, warm-ups and forced exits do not count."""
        table = self._open.counters()
        return Counters(table[:, 0], table[:, 1], table[:, 2], table[:, 3:])

    def reset_counters(self) -> None:
        """Sets `counters` to 0."""
        self._open.reset_counters()

    @property
    def memory(self) -> Memory:
        """Bytes held by this session and its backend."""
        return Memory(*self._open.memory())

    def close(self) -> None:
        """Releases everything; a second call does nothing."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def _open(self) -> _native.Session:
        if self._native is None:
            raise InputError("the session is closed")
        return self._native


def _stats(row: _native._Stats) -> Stats:
    return Stats(*row[:-1], tuple(SegmentStats(*segment) for segment in row[-1]))


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if "\0" in text:
        raise InputError(f"path is {text!r}: it must not hold a NUL character")
    return text


def _integer(name: str, value: Any, bits: int = 63) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):  # True is 1 to Python, and would be user 1
        raise InputError(f"{name} is {value!r}, expected an integer")
    if not -(1 << bits) <= number < 1 << bits or (bits == 31 and number < 0):
        raise InputError(f"{name} is {number}, out of range")
    return number


def _size(name: str, value: Any) -> int:
    number = _integer(name, value)
    if number < 0:
        raise InputError(f"{name} is {number}, expected 0 or more")
    return number


def _id(name: str, value: Any) -> Id:
    if isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{name} is {value!r}: an id must not hold a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} is {value!r}: UTF-8 cannot hold it") from None
        return str(value)
    return _integer(name, value)


def _ids(name: str, values: Any) -> tuple[NDArray[Any], list[Id]]:
    """Ids as an array, for the answer, and as plain Python values."""
    plain = [_id(f"{name}[{n}]", value) for n, value in enumerate(_sequence(name, values, "ids"))]
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values, plain
    if all(isinstance(value, int) for value in plain):
        return np.array(plain, np.int64), plain
    given = np.empty(len(plain), object)
    given[:] = plain
    return given, plain


def _sequence(name: str, values: Any, of: str) -> Iterable[Any]:
    if isinstance(values, str | bytes):
        raise InputError(f"{name} is a string, expected a sequence of {of}")
    try:
        iter(values)
    except TypeError:
        raise InputError(f"{name} is {values!r}, expected a sequence of {of}") from None
    return cast(Iterable[Any], values)


def _recent(recent: Recent | None) -> tuple[list[Id], list[int]]:
    ids: list[Id] = []
    liked: list[int] = []
    for n, one in enumerate(() if recent is None else _sequence("recent", recent, "interactions")):
        if isinstance(one, tuple) and len(one) != 2:
            raise InputError(f"recent[{n}] is {one!r}, expected an item id or a pair of an item id and whether it was liked")
        item, verdict = one if isinstance(one, tuple) else (one, True)
        ids.append(_id(f"recent[{n}]", item))
        liked.append(int(bool(verdict)))
    return ids, liked


def _rules(policy: StopRule, exits: int) -> _native._Rules:
    upper, lower = [float(v) for v in policy.upper], [float(v) for v in policy.lower]
    if len(upper) != exits or len(lower) != exits:
        raise InputError(f"policy has {len(upper)} upper and {len(lower)} lower thresholds, the bundle has {exits} exits")
    top_k: _native._TopK | None = None
    if (rule := policy.top_k) is not None:
        rise, fall = [float(v) for v in rule.rise], [float(v) for v in rule.fall]
        if len(rise) != exits - 1 or len(fall) != exits - 1:
            raise InputError(f"policy.top_k has {len(rise)} rises and {len(fall)} falls, expected {exits - 1} of each")
        top_k = _integer("policy.top_k.k", rule.k, 31), bool(rule.ordered), rise, fall
    return upper, lower, _integer("policy.patience", policy.patience, 31), float(policy.quorum), top_k
