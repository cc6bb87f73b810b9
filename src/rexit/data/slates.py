"""Slates: candidates that are scored together, with their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, cast, overload, runtime_checkable

from rexit.errors import InputError
from rexit.format.request import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rexit.format.bundle.catalog import Catalog, Split
    from rexit.format.bundle.inputs import Value
    from rexit.format.candidates import Candidates
    from rexit.format.ids import Id
    from rexit.format.request import Recent

    ScoreArrays = Mapping[str, NDArray[np.float32]]

# NumPy is imported where it is used: the command line reads SIZE for its help and must load nothing heavy.

SIZE = 20
"""Default number of candidates in a slate."""


def part_of(scores: ScoreArrays, part: slice) -> ScoreArrays:
    """Returns the scores of some candidates."""
    return {name: numbers[part] for name, numbers in scores.items()}


@dataclass(frozen=True)
class Slate:
    """Items scored together for one user.

    Attributes:
        user: The user's id.
        items: The items' ids.
        as_of: Only interactions before this time reach the prompt, in the catalog's unit; None: all.
        liked: The ground truth, bool [n].
        inputs: Values of the prompt's inputs, by name; texts as token ids.
        labelled: Whether there is a ground truth. If not, `liked` is False.
        recent: As a request's.
        scores: The first stages', float32 [n], NaN where missing, by name; empty: exit zero does not read them.
    """

    user: Id
    items: tuple[Id, ...]
    as_of: int | None
    liked: NDArray[np.bool_]
    inputs: Mapping[str, Value] = field(default_factory=dict)
    labelled: bool = True
    recent: Recent | None = None
    scores: ScoreArrays = field(default_factory=dict)

    @property
    def request(self) -> Request:
        """What a session is asked."""
        recent, inputs = self.recent, self.inputs or None
        return Request(self.user, self.items, recent=recent, as_of=self.as_of, inputs=inputs, scores=self.scores or None)

    def first(self, count: int) -> Slate:
        """Returns the slate of the first candidates."""
        return self.part(slice(0, count))

    def part(self, part: slice) -> Slate:
        """Returns the slate of some candidates."""
        return replace(self, items=self.items[part], liked=self.liked[part], scores=part_of(self.scores, part))


@dataclass(frozen=True)
class TokenSlate:
    """Candidates scored together behind one prefix, as token ids.

    Attributes:
        user: The group: a user or a query. It is the unit of intervals and guarantees.
        prefix: Token ids, int32 [P]; may be empty.
        candidates: Token ids of each candidate, int32 [T], T > 0.
        liked: The ground truth, bool [n].
        scores: The first stages', which exit zero reads, float32 [n], NaN where missing, by name; empty: there are none.
        labelled: Whether there is a ground truth. If not, `liked` is False.
    """

    user: Id
    prefix: NDArray[np.int32]
    candidates: tuple[NDArray[np.int32], ...]
    liked: NDArray[np.bool_]
    scores: ScoreArrays = field(default_factory=dict)
    labelled: bool = True

    @property
    def items(self) -> tuple[int, ...]:
        """The candidates' numbers."""
        return tuple(range(len(self.candidates)))

    @property
    def request(self) -> Request:
        """What a session is asked."""
        return Request.tokens(self.prefix, self.candidates, self.scores or None)

    def first(self, count: int) -> TokenSlate:
        """Returns the slate of the first candidates."""
        return self.part(slice(0, count))

    def part(self, part: slice) -> TokenSlate:
        """Returns the slate of some candidates."""
        return replace(self, candidates=self.candidates[part], liked=self.liked[part], scores=part_of(self.scores, part))

    def named_parts(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Yields the prefix and each candidate, with its name for messages."""
        yield "prefix", self.prefix
        for n, tokens in enumerate(self.candidates):
            yield f"candidates[{n}]", tokens


@runtime_checkable
class OwnSlates(Protocol):
    """Slates that are not a catalog's: those of `rexit.data.slates_file`."""

    def cut(self, split: str, size: int | None = None) -> Sequence[AnySlate]:
        """Returns a split's slates of at most `size` candidates; None: whole ones."""


AnySlate = Slate | TokenSlate
SlateT = TypeVar("SlateT", bound=AnySlate)
T = TypeVar("T")


@overload
def cut(source: Catalog, split: str, size: int | None = None) -> list[Slate]: ...
@overload
def cut(source: Catalog | OwnSlates, split: str, size: int | None = None) -> Sequence[AnySlate]: ...
def cut(source: Catalog | OwnSlates, split: str, size: int | None = None) -> Sequence[AnySlate]:
    """Returns a split's slates: those of a file, or a catalog's interactions, cut into slates.

    Of a catalog:

    1. Users come in row order. A user's interactions come by time, ties by item row: the split's own order.
    2. A slate's `as_of` is the time of its first interaction. So its prompt holds no label of the slate, nor of anything later.
       Retrieved candidates of another moment are another slate. In training, and where a slate is cut into parts, those without
       a like are left out: they tell nothing about ranking.
    3. A slate has one set of inputs, as a request has: it ends where an interaction's differ from the one before.
    4. A user's second slate sees the outcome of the first where that is earlier, as a recommender would.

    Args:
        source: A catalog with splits, as `rexit index` writes it, or a file of slates.
        split: `train`, `validation` or `test`.
        size: Most candidates of a slate; None: SIZE, in a file or of retrieved candidates as many as the slate has.

    Raises:
        InputError: The size is below 1, or the split is empty.
        BundleError: The catalog has no splits, or they are damaged.
    """
    if isinstance(source, OwnSlates):
        return source.cut(split, size)
    catalog = source
    rows, parts = runs(catalog, split, slate_size(catalog) if size is None else size)
    users, items = catalog.users.take(rows.users[[part.start for part in parts]]), catalog.items.take(rows.items)
    slates = []
    for user, part in zip(users, parts, strict=True):
        at = part.start
        inputs = catalog.inputs.decode(rows.codes_of(at))
        scores = part_of(rows.scores, part)
        slates.append(Slate(user, tuple(items[part]), int(rows.times[at]), rows.liked[part], inputs, scores=scores))
    return slates


def drawn(
    catalog: Catalog,
    split: str,
    candidates: Candidates,
    users: int = 0,
    seed: int = 0,
    retrieve: Callable[[Request], Iterable[Id]] | None = None,
) -> list[Slate]:
    """Returns slates of a catalog's likes with other candidates than its own: one of each user, as of the first like.

    Args:
        catalog: A catalog with splits.
        split: `validation` or `test`.
        candidates: `uniform` or `popularity`, by the number of training likes, beside the likes; `retrieved` have those likes
            that were retrieved.
        users: Most users, evenly spaced; 0: all.
        seed: Of the draw.
        retrieve: Returns the items that a request retrieves; without any, the user has no slate.

    Raises:
        InputError: Other candidates, or a user has too few unmet items.
    """
    import numpy as np

    from rexit.format.candidates import Met, draw_unmet, unmet_counts

    if not candidates.drawn and (retrieve is None or not candidates.retrieved):
        raise InputError(f"candidates {candidates}, expected other ones than the catalog's own")
    rows, train, items = catalog.split(split, missed=True), catalog.split("train", missed=True), len(catalog.items)
    weights = np.ones(items)
    if candidates.kind == "popularity":
        weights = np.bincount(train.items[train.liked], minlength=items).astype(np.float64)
    liked = [at for at in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows.users)) + 1) if rows.liked[at].any()]
    likes = [at[rows.liked[at]] for at in spread(liked, users)]
    if retrieve is not None and candidates.retrieved:
        slates = []
        for at in likes:
            user, inputs = catalog.users.id(int(rows.users[at[0]])), catalog.inputs.decode(rows.codes_of(int(at[0])))
            moment, liked_ids = int(rows.times[at].min()), catalog.items.take(rows.items[at])
            if not (ids := tuple(retrieve(Request(user, retrieve=candidates.count, as_of=moment, inputs=inputs or None)))):
                continue
            slates.append(Slate(user, ids, moment, np.isin(np.array(ids), np.array(liked_ids)), inputs))
        return slates
    owners = np.repeat(np.arange(len(likes)), [len(at) for at in likes])
    history, met = catalog.user_table, []
    for at in likes:
        begin, end = history["history_offsets"][rows.users[at[0]] : rows.users[at[0]] + 2]
        known = history["history_times"][begin:end] <= rows.times[at].max()
        met.append(np.union1d(history["history_items"][begin:end][known], rows.items[at]))
    of_all = Met.of(np.repeat(np.arange(len(met)), list(map(len, met))), np.concatenate(met).astype(np.int64), items)
    if (fewest := int(unmet_counts(of_all, len(met), weights).min())) < candidates.count:
        raise InputError(f"candidates {candidates}: a user has not met {fewest} items that may be drawn, expected as many")
    chosen = draw_unmet(owners, of_all, weights, candidates.count, seed)
    slates = []
    for n, at in enumerate(likes):
        negatives = np.setdiff1d(chosen[owners == n], rows.items[at])
        slate_items = np.r_[np.unique(rows.items[at]), negatives]
        labels = np.arange(len(slate_items)) < len(slate_items) - len(negatives)
        user, inputs = catalog.users.id(int(rows.users[at[0]])), catalog.inputs.decode(rows.codes_of(int(at[0])))
        slates.append(Slate(user, tuple(catalog.items.take(slate_items)), int(rows.times[at].min()), labels, inputs))
    return slates


def slate_size(catalog: Catalog) -> int:
    """Returns the default size of a catalog's slates."""
    return catalog.candidates.count if catalog.candidates.retrieved else SIZE


def runs(catalog: Catalog, split: str, size: int, one_request: bool = True) -> tuple[Split, list[slice]]:
    """Returns a split, and the rows of each slate that `cut` makes of it.

    Args:
        catalog: A catalog with splits.
        split: `train`, `validation` or `test`.
        size: Most candidates of a slate.
        one_request: Whether a slate's candidates have all inputs in common; False: those in the prefix.

    Raises:
        InputError: As `cut`.
        BundleError: As `cut`.
    """
    if size < 1:
        raise InputError(f"slate size {size}, expected at least 1")
    import numpy as np

    rows = catalog.split(split)
    if len(rows) == 0:
        raise InputError(f"{catalog.path}: the {split} split is empty, expected at least one interaction")
    prefix = {op["name"] for op in catalog.info["prompt"]["prefix"] if op["op"] == "input"}
    same = rows.inputs[:, [n for n, name in enumerate(catalog.inputs.names) if one_request or name in prefix]]
    border = (rows.users[1:] != rows.users[:-1]) | (same[1:] != same[:-1]).any(1)
    if catalog.candidates.retrieved:
        border |= rows.times[1:] != rows.times[:-1]
    starts = np.flatnonzero(np.r_[True, border])
    ends = np.r_[starts[1:], len(rows)]
    edges = zip(starts.tolist(), ends.tolist(), strict=True)
    slices = [slice(at, min(at + size, end)) for begin, end in edges for at in range(begin, end, size)]
    if catalog.candidates.retrieved and (split == "train" or size < catalog.candidates.count):
        slices = [part for part in slices if rows.liked[part].any()]
    return rows, slices


def parts(slate: SlateT, size: int | None) -> Iterator[SlateT]:
    """Yields slates of at most `size` candidates; None: the slate itself."""
    step = size or len(slate.liked)
    for at in range(0, len(slate.liked), step):
        yield cast(SlateT, slate.part(slice(at, at + step)))


def without_labels(slate: SlateT) -> SlateT:
    """Returns the slate without its ground truth."""
    return replace(slate, liked=slate.liked & False, labelled=False)


def draw(slates: Sequence[SlateT], count: int, seed: int = 0) -> list[SlateT]:
    """Samples at most `count` slates without replacement, in their order. The same seed gives the same slates."""
    import numpy as np

    sample = np.random.default_rng(seed).choice(len(slates), min(count, len(slates)), replace=False)
    return [slates[n] for n in np.sort(sample)]


def spread_users(slates: Sequence[SlateT], count: int) -> list[SlateT]:
    """Returns all slates of users evenly spaced, as many users as have at most `count` slates together, but at least one; 0: all.

    Slates evenly spaced would include a user in proportion to its slates, and their users' mean would not be the users' mean.
    """
    if count <= 0 or len(slates) <= count:
        return list(slates)
    sizes = Counter(slate.user for slate in slates)
    users = list(sizes)
    number = max(1, count * len(users) // len(slates))
    while (sample := set(spread(users, number))) and number > 1 and sum(sizes[user] for user in sample) > count:
        number -= 1
    return [slate for slate in slates if slate.user in sample]


def spread(slates: Sequence[T], count: int) -> list[T]:
    """Returns at most `count` values, evenly spaced; 0: all. Not for a sample of users: see `spread_users`."""
    if count <= 0 or len(slates) <= count:
        return list(slates)
    import numpy as np

    return [slates[i] for i in np.linspace(0, len(slates) - 1, count).round().astype(int)]
