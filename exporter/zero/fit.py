"""Makes zero.onnx of a catalog.

1. The pairs are those of short training slates as of each slate's moment, in the last part of the user's training
   (`rexit.exporter.retriever.snapshots`): the slates most like a request's. Fitted on all parts, trees ranked below the product
   that they read. Each user's first slate is among them, for users without a history.
2. A fifth of the training users judge their last part by log loss, after a fit on the part before it of the others. The simplest
   model is chosen whose loss is within TOLERANCE of the least: a logistic one, or else the fewest leaves in all, over trees of
   up to 16. With fewer than MIN_USERS, or judges of one label, it is the logistic one.
3. The chosen model is fitted on all users' pairs.

Validation's and test's interactions neither fit nor choose; the same users' earlier ones, in the train split, may.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import roles
from rexit.bundle.catalog import ZERO, Catalog
from rexit.exporter.prompt.builder import Numbers, PromptBuilder
from rexit.exporter.zero.graph import Graph
from rexit.progress import Progress, silent, tracked
from rexit.slates import runs, spread

MAX_PAIRS = 200_000
SIZE = 5
"""Pairs of a slate. Of long slates, a short history would have only the first, which knows nothing."""
LEAVES = (4, 8, 16)
"""Of a tree."""
MAX_TREES = 100
TOLERANCE = 0.002
"""Of the least log loss, that a simpler model may lose."""
MIN_USERS = 50
"""With fewer training users the judges are too few. On MovieLens, trees then ranked below a logistic model."""
_RATE = 0.2


def write_zero(folder: Path, catalog: Catalog, own: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Writes zero.onnx into a catalog's folder.

    Args:
        folder: The folder.
        catalog: The catalog there, with splits and snapshots.
        own: A graph to copy instead of fitting one.
        progress: Called with "exit zero", the slates read and in all.

    Returns:
        How it was made, for catalog.json; `none`: why there is no graph: training pairs are of one label.

    Raises:
        InputError: `own` is no such graph.
    """
    pairs = _pairs(catalog, progress)
    if own is not None:
        graph = Graph(own, pairs.numbers.shape[1])
        for rows in (pairs.numbers[:1], pairs.numbers):
            graph.log_odds(rows)
        (folder / ZERO).write_bytes(own.read_bytes())
        return {"file": own.name}
    from rexit.exporter.zero.models import Logistic, logistic_graph, tree_graph

    liked = pairs.liked[pairs.fits]
    if liked.all() or not liked.any():
        return {"none": f"{len(liked)} training pairs of one label only"}
    numbers, counts = pairs.numbers[pairs.fits], np.array([op["op"].endswith("_count") for op in catalog.numbers])
    trees, leaves, loss = _choose(pairs, counts)
    made = {"pairs": len(liked), "log_loss": loss}
    if not trees:
        (folder / ZERO).write_bytes(logistic_graph(Logistic.fit(numbers, liked, counts)))
        return {**made, "logistic": True}
    (folder / ZERO).write_bytes(tree_graph(_boosted(trees, leaves, numbers, liked)))
    return {**made, "trees": trees, "leaves": leaves}


@dataclass(frozen=True)
class _Pairs:
    """Training pairs. users: rows. fits: those to fit on. before: those to fit on before the judges' part. judged: that part."""

    numbers: Numbers
    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    fits: NDArray[np.bool_]
    before: NDArray[np.bool_]
    judged: NDArray[np.bool_]


def _pairs(catalog: Catalog, progress: Progress) -> _Pairs:
    split, parts = runs(catalog, "train", SIZE)
    starts = np.array([part.start for part in parts])
    user, time, begins = split.users[starts], split.times[starts], catalog.snapshots["begins"]
    part = (begins[user] <= time[:, None]).sum(1)
    first = time == split.times[np.searchsorted(split.users, user)]
    last = part == begins.shape[1]
    if not last.any():  # embeddings made after training
        last[:] = True
    before = part == begins.shape[1] - 1 if begins.shape[1] > 1 else last
    chosen = spread(np.flatnonzero(last | before | first).tolist(), MAX_PAIRS // SIZE)
    builder, numbers = PromptBuilder.of(catalog, "train"), []
    for n in tracked(chosen, "exit zero", progress):
        scores = None if split.scores is None else split.scores[parts[n]]
        numbers.append(builder.number_rows(int(user[n]), split.items[parts[n]], int(time[n]), scores=scores))
    rows = np.concatenate([np.arange(parts[n].start, parts[n].stop) for n in chosen])
    slates = np.repeat(chosen, [len(table) for table in numbers])
    users, liked = split.users[rows], split.liked[rows]
    return _Pairs(np.concatenate(numbers), users, liked, *(kind[slates] for kind in (last | first, before | first, last)))


def _choose(pairs: _Pairs, counts: NDArray[np.bool_]) -> tuple[int, int, float | None]:
    """Trees, leaves of each, both 0 for a logistic model, and the log loss of the users who judge; None if they are too few.
    counts: bool [F], the numbers that are counts."""
    from rexit.exporter.zero.models import Logistic

    distinct = np.unique(pairs.users)
    judges = np.isin(pairs.users, distinct[[roles.place(f"zero {user}") < 0.2 for user in distinct.tolist()]])
    fits, judged = pairs.before & ~judges, pairs.judged & judges
    labels = pairs.liked[judged]
    one_label = any(rows.all() or not rows.any() for rows in (pairs.liked[fits], labels))
    if one_label or len(distinct) < MIN_USERS:
        return 0, 0, None

    def loss(log_odds: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, np.where(labels, -log_odds, log_odds)).mean())

    logistic = Logistic.fit(pairs.numbers[fits], pairs.liked[fits], counts)
    losses = {(0, 0): loss(logistic.log_odds(pairs.numbers[judged]))}
    for leaves in LEAVES:
        model = _boosted(MAX_TREES, leaves, pairs.numbers[fits], pairs.liked[fits])
        for trees, log_odds in enumerate(model.staged_decision_function(pairs.numbers[judged]), 1):
            losses[trees, leaves] = loss(log_odds)
    most = min(losses.values()) * (1 + TOLERANCE)
    trees, leaves = min((size for size, value in losses.items() if value <= most), key=math.prod)
    return trees, leaves, losses[trees, leaves]


def _boosted(trees: int, leaves: int, numbers: Numbers, liked: NDArray[np.bool_]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    boosting = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, learning_rate=_RATE, early_stopping=False, random_state=0
    )
    missing = np.isnan(numbers).all(0)  # a number that no pair has breaks the binning
    with threadpool_limits(1):  # sums do not depend on the machine, and threads do not wait for each other on a busy one
        return boosting.fit(np.where(missing, np.float32(0), numbers), liked)
