"""Rankings that a model has to beat, which are shown next to it.

1. Likes: each item's share of likes in training (`rexit.data.ranking.item_biases`).
2. LightGCN: the catalog's own embeddings. A user is folded in from the likes before the slate's moment, as in serving.
3. Exit zero, if the catalog has one: what a model can add to.
4. The first stages' scores in a file of slates, a missing one last. Without any, the order of the candidates: the first stage's,
   if the file keeps it. A file that has every relevant candidate of a slate first is sorted by label, which is no ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rexit.data.ranking import MIN_USERS, ByUser, bootstrap, item_biases
from rexit.data.slates import AnySlate, OwnSlates, Slate, TokenSlate
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SCORE

LIKES, LIGHTGCN, ZERO, FILE_ORDER = "items' shares of likes", "LightGCN", "exit zero", "order of the file"

Scores = Mapping[str, NDArray[np.float64]]
"""Each baseline's score of each pair, float64 [pairs], by name."""


def baselines(
    source: Catalog | OwnSlates,
    slates: Sequence[AnySlate],
    zero: Sequence[NDArray[np.float32]] = (),
) -> Scores:
    """Returns the scores of the baselines that the source has.

    Args:
        source: The catalog or the file that the slates are of.
        slates: Slates of one split, in its order.
        zero: Exit zero's log-odds of the pairs, in order; empty: there is no exit zero.
    """
    of_zero = {ZERO: np.concatenate(zero).astype(np.float64)} if zero else {}
    if not isinstance(source, Catalog):
        return of_zero | _stages(slates) or _file_order([slate for slate in slates if isinstance(slate, TokenSlate)])
    own = [slate for slate in slates if isinstance(slate, Slate)]
    items = np.concatenate([source.items.rows(slate.items) for slate in own]).astype(np.int64)
    train = source.split("train")
    scores = {LIKES: item_biases(items, train.items, train.liked)}
    if "lightgcn" in source.info:
        scores[LIGHTGCN] = _lightgcn(source, own, items)
    return scores | of_zero


def doubt_without_labels(score: NDArray[np.float32], scores: Scores, users: NDArray[np.int64], noun: str = "users") -> str | None:
    """Returns why a ranking without labels may be worth nothing, in a sentence; None if there is no reason.

    There is none if exit zero, LightGCN or a first stage, which learned from labels before or rank already, agrees with it, or if
    there is none of these.

    One agrees if it tells the upper half of a user's candidates, by the score, from the lower one: 0.5 is below the 95 % interval
    of the mean AUC over users. A model that ranks by chance agrees with nothing that ranks.

    Args:
        score: the last exit's, float32 [n].
        scores: those of `baselines`. Items' shares of likes are not asked: a ranking may be right and differ by user alone.
        users: int64 [n], any numbers.
        noun: see `rexit.data.ranking.noun_of`.
    """
    numbers, sizes = np.unique(users, return_inverse=True, return_counts=True)[1:]
    place = np.arange(len(score)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    upper = np.zeros(len(score), np.bool_)
    upper[np.lexsort((-score, numbers))] = 2 * place < np.repeat(sizes, sizes)
    by_user, figures = ByUser(users, upper), []
    if (count := int(by_user.both.sum())) < MIN_USERS:
        return None
    for name in (name for name in scores if name in (ZERO, LIGHTGCN) or name.startswith(SCORE)):
        values = by_user.auc(scores[name])[by_user.both]
        low, high = np.percentile(bootstrap(values, np.ones(count)), [2.5, 97.5])
        if low > 0.5:
            return None
        figures.append(f"{name} finds the upper half of its order with an AUC of {values.mean():.3f} ({low:.3f} to {high:.3f})")
    if not figures:
        return None
    return f"This model is not shown to rank: {' and '.join(figures)}, 95 % interval over {count:,} {noun}, where chance is 0.5."


def _stages(slates: Sequence[AnySlate]) -> dict[str, NDArray[np.float64]]:
    stages = {}
    for name in slates[0].scores:
        numbers = np.concatenate([slate.scores[name] for slate in slates]).astype(np.float64)
        known = numbers[~np.isnan(numbers)]
        stages[SCORE + name] = np.nan_to_num(numbers, nan=known.min(initial=0) - 1)
    return stages


def _file_order(slates: Sequence[TokenSlate]) -> Scores:
    places, last = [], None
    by_label = True
    for slate in slates:
        # Parts of a slate that was cut share its prefix; their places continue.
        begin = places[-1][-1] + 1 if last is not None and slate.prefix is last.prefix else 0
        places.append(np.arange(begin, begin + len(slate.liked)))
        by_label &= not (slate.liked[1:] & ~slate.liked[:-1]).any()
        last = slate
    return {} if by_label else {FILE_ORDER: -np.concatenate(places).astype(np.float64)}


def _lightgcn(catalog: Catalog, slates: Sequence[Slate], items: NDArray[np.int64]) -> NDArray[np.float64]:
    users, table = catalog.user_table, catalog.item_table
    offsets, times = users["history_offsets"], users["history_times"]
    vectors = np.zeros((len(slates), table["fold_in"].shape[1]))
    for n, (slate, user) in enumerate(zip(slates, catalog.users.rows([slate.user for slate in slates], "user"), strict=True)):
        begin, end = int(offsets[user]), int(offsets[user + 1])
        if slate.as_of is not None:
            end = begin + int(np.searchsorted(times[begin:end], slate.as_of))
        liked = users["history_items"][begin:end][users["history_liked"][begin:end] > 0]
        vectors[n] = table["fold_in"][liked].astype(np.float64).sum(0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    slate_of = np.repeat(np.arange(len(slates)), [len(slate.items) for slate in slates])
    return np.asarray((vectors[slate_of] * table["embeddings"][items].astype(np.float64)).sum(1))
