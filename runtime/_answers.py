"""What a session says: about its bundle, about a request, about its memory.

The compiled module has a struct for most of these classes, with the same names of fields; `read` copies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Id

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read(kind: type[T], struct: object, **rest: Any) -> T:
    """Returns an object with the fields of a struct of the compiled module. rest: fields that the struct does not have."""
    return kind(**{part.name: getattr(struct, part.name) for part in fields(kind) if part.name not in rest}, **rest)


@dataclass(frozen=True)
class Info:
    """What an opened bundle holds.

    Attributes:
        users: Users in the catalog.
        items: Items in the catalog.
        exits: Exits of the model, with exit zero if the bundle has it.
        layers: Layers of the model.
        max_tokens: Most candidate tokens in one pass.
        max_positions: Most tokens of a prefix and one candidate.
        string_user_ids: Whether user ids are strings; else they are integers.
        string_item_ids: The same for items.
        calibrated: Whether the variant has a policy.
        variant: Name of the variant.
        top_k: k of the policy's top-k rule; 0: no such rule.
        ordered: Whether that rule settles the order of the first k as well.
        quorum: So many candidates of a slate, or fewer, the policy stops together; 0: no such rule.
        vocabulary: Token ids of a request are below this.
        has_catalog: Whether requests may name users and items; else they are token ids.
        prior_shift: probability = sigmoid(c + prior_shift): where negatives were sampled, it is that in the population.
        policy_sha256: Digest of the variant's policy.json; empty without a policy.
        segments: Segments of the model: as many as exits, or one less with exit zero.
        scores: Whether requests must have `scores`, which exit zero reads: by ids or, without a catalog, by token ids.
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
    quorum: int
    vocabulary: int
    has_catalog: bool
    prior_shift: float
    policy_sha256: str
    segments: int
    scores: bool


@dataclass(frozen=True)
class ExitInfo:
    """One exit and its policy. c = a z + b, with z the raw log-odds, plus what earlier heads add; a candidate stops at c >= upper
    or c <= -lower.

    Attributes:
        layers: Depth of the exit; 0: exit zero.
        a: Slope of the Platt map.
        b: Intercept of the Platt map.
        upper: Threshold on c; inf: never.
        lower: Threshold on -c; inf: never.
        patience: How many heads in a row must agree on the sign of c before a candidate stops.
        rise: How far c may still rise, for the top-k rule; 0: no such rule.
        fall: How far c may still fall, for the top-k rule; 0: no such rule.
        keep: How many candidates of a slate go on after this exit at most; 0: no limit.
        earlier: Weights in c of the log-odds at the exits before this one; empty: they add nothing.
    """

    layers: int
    a: float
    b: float
    upper: float
    lower: float
    patience: int
    rise: float
    fall: float
    keep: int = 0
    earlier: tuple[float, ...] = ()


@dataclass(frozen=True)
class SegmentStats:
    """What one segment did in a request.

    Attributes:
        prefix_tokens: Prefix tokens computed, without those in the cache.
        candidates: Candidates that went through it.
        candidate_tokens: Tokens of those candidates.
        prefix_us: Microseconds of its passes over the prefix.
        slate_us: Microseconds of its passes over candidates.
    """

    prefix_tokens: int
    candidates: int
    candidate_tokens: int
    prefix_us: float
    slate_us: float


@dataclass(frozen=True)
class Stats:
    """What a request cost.

    Attributes:
        prefix_tokens: Tokens of the prefix.
        prefix_tokens_reused: Prefix tokens that were in the cache.
        candidates: Candidates of the request.
        cut_short: Candidates that the deadline stopped.
        candidate_tokens: Tokens of all candidates that enter the first segment.
        candidate_layers: Layers run, summed over candidates.
        prefix_layers: Layers that the prefix went through.
        retrieval_us: Microseconds of retrieval, of exit zero and of assembling the prompt.
        prefix_us: Microseconds of the prefix.
        slate_us: Microseconds of the candidates.
        total_us: Microseconds of the whole request.
        known_user: Whether the catalog has the user. False for a new user, or a mistyped id.
        segments: One entry per segment.
    """

    prefix_tokens: int
    prefix_tokens_reused: int
    candidates: int
    cut_short: int
    candidate_tokens: int
    candidate_layers: int
    prefix_layers: int
    retrieval_us: float
    prefix_us: float
    slate_us: float
    total_us: float
    known_user: bool = True
    segments: tuple[SegmentStats, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns tokens, layers and microseconds of the whole request, as plain JSON values."""
        names = [part.name for part in fields(self) if part.name not in _NOT_IN_JSON]
        return {name: getattr(self, name) for name in names}


_NOT_IN_JSON = ("candidates", "cut_short", "known_user", "segments")
"""Fields of Stats that are elsewhere in an answer, or for services alone."""


@dataclass(frozen=True)
class Memory:
    """Bytes in use.

    Attributes:
        prefixes: The session's cached prefixes, which `cache_bytes` bounds.
        buffers: The session's other buffers.
        working: What segments need while they run, on the host, for all sessions of the process. 0 with TensorRT, which does not
            report it.
        weights: ONNX Runtime's weights, without those it maps from files. Older versions count them as `working`. 0 with
            TensorRT.
        pinned: The start that all prefixes of the bundle share. Held once for all its sessions, in addition to their
            `cache_bytes`.
        gpu: With TensorRT, GPU memory for this session's passes; compiled, not run. Its prefixes and hidden states are in GPU
            memory, too. 0 with ONNX Runtime.
    """

    prefixes: int
    buffers: int
    working: int
    weights: int
    pinned: int
    gpu: int


class Score(NamedTuple):
    """One candidate's score.

    Attributes:
        item: The item's id.
        probability: Calibrated probability of a like; None without an answer.
        log_odds: Raw logit(yes) - logit(no) at the exit that answered; None without an answer.
        exit: The exit that answered, from 0; None without an answer.
        layers: Depth of that exit; 0 without an answer.
        cut_short: Whether the deadline stopped the candidate. If it did so before the first exit, there is no answer.
    """

    item: Id
    probability: float | None
    log_odds: float | None
    exit: int | None
    layers: int
    cut_short: bool


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a slate, in the order of the request or, with `top_k`, best first. A sequence of `Score`; the attributes hold
    the same as arrays of n entries.

    Candidates that the deadline stopped before their first exit have no answer: exit -1, NaN for probability and log-odds. With
    `top_k` they come last.

    Two are equal if their answers are, whatever they cost.

    Attributes:
        items: The ids, [n].
        index: Their places in the request, int64 [n].
        probability: Calibrated probabilities of a like, float32 [n].
        log_odds: Raw logit(yes) - logit(no) at the exit that answered, float32 [n].
        exit: The exits that answered, from 0, int64 [n].
        layers: Depths of those exits, int64 [n]; 0 without an answer.
        cut_short: Which candidates the deadline stopped, bool [n].
        stats: What the request cost.
    """

    items: NDArray[Any]
    index: NDArray[np.int64]
    probability: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    exit: NDArray[np.int64]
    layers: NDArray[np.int64]
    cut_short: NDArray[np.bool_]
    stats: Stats

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Score]:
        return (self[n] for n in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> Score: ...

    @overload
    def __getitem__(self, place: slice) -> Scores: ...

    def __getitem__(self, place: int | slice) -> Score | Scores:
        """The score at a place, or the scores of several places."""
        if isinstance(place, slice):
            return replace(self, **{name: getattr(self, name)[place] for name in _ARRAYS})
        item, answered = self.items[place], self.exit[place] >= 0
        return Score(
            item.item() if isinstance(item, np.generic) else item,
            float(self.probability[place]) if answered else None,
            float(self.log_odds[place]) if answered else None,
            int(self.exit[place]) if answered else None,
            int(self.layers[place]),
            bool(self.cut_short[place]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return self.index.tolist() == other.index.tolist() and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: whether the user is `known`, the `scores` as objects, and the `stats`."""
        return {
            "known": self.stats.known_user,
            "scores": [score._asdict() for score in self],
            "stats": self.stats.to_dict(),
        }


_ARRAYS = tuple(part.name for part in fields(Scores) if part.name != "stats")


@dataclass(frozen=True)
class GoldenCheck:
    """A golden sample against what is computed here.

    Attributes:
        slates: Golden samples of the variant.
        tolerance: The largest difference of log-odds that the variant allows.
        worst: The largest one of this sample; inf if log-odds are not finite.
        prompt: Where its prompt first differs from the recorded one, as a line; empty: nowhere.
        log_odds: Where the largest difference of log-odds is, as a line; empty: within the tolerance.
        trace: The log-odds here, as `Session.trace` returns them.
    """

    slates: int
    tolerance: float
    worst: float
    prompt: str
    log_odds: str
    trace: NDArray[np.float32]


@dataclass(frozen=True)
class JsonAnswer:
    """An answer in JSON.

    Attributes:
        text: One line without a newline, UTF-8; `docs/format/request.md` lists its fields.
        stats: What the request cost.
    """

    text: bytes
    stats: Stats


@dataclass(frozen=True)
class Trace:
    """Every exit's raw log-odds.

    Attributes:
        log_odds: float32 [items, exits].
        stats: What it cost to compute them.
    """

    log_odds: NDArray[np.float32]
    stats: Stats
