"""Makes zero.onnx of a catalog.

1. The pairs are those of short training slates, evenly spread, as of each slate's moment: its retriever is older than it. Slates
   before a user's first snapshot are left out, except those without a history: a served retriever knows what users liked.
2. A fifth of the training users judge, by log loss, boosting on the others' slates. The fewest leaves in all are chosen, over
   trees of up to 16, whose loss is within TOLERANCE of the least.
3. The chosen number of trees is fitted on all pairs.

Validation and test users neither fit nor choose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import roles
from rexit.bundle.catalog import ZERO, Catalog
from rexit.errors import InputError
from rexit.exporter.prompt.builder import Numbers, PromptBuilder
from rexit.exporter.zero.graph import Graph
from rexit.progress import Progress, silent
from rexit.slates import runs, spread

MAX_PAIRS = 200_000
SIZE = 5
"""Pairs of a slate. Of long slates, a short history would have only the first, which knows nothing."""
LEAVES = (4, 8, 16)
"""Of a tree."""
MAX_TREES = 100
TOLERANCE = 0.002
"""Of the least log loss, that fewer leaves may lose."""
MIN_USERS = 10
"""With fewer training users the judges are too few, and the smallest trees are taken."""
_RATE = 0.1


def write_zero(folder: Path, catalog: Catalog, own: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Writes zero.onnx into a catalog's folder.

    Args:
        folder: The folder.
        catalog: The catalog there, with splits and snapshots.
        own: A graph to copy instead of fitting one.
        progress: Called with "exit zero", the slates read and in all.

    Returns:
        How it was made, for catalog.json.

    Raises:
        InputError: `own` is no such graph, or training has one label only.
    """
    numbers, users, liked = _pairs(catalog, progress)
    if own is not None:
        graph = Graph(own, numbers.shape[1])
        for rows in (numbers[:1], numbers):
            graph.log_odds(rows)
        (folder / ZERO).write_bytes(own.read_bytes())
        return {"file": own.name}
    from rexit.exporter.zero.trees import tree_graph

    if liked.all() or not liked.any():
        raise InputError(f"exit zero needs likes and dislikes, the {len(liked)} training pairs have one of them only")
    trees, leaves, loss = _choose(numbers, users, liked)
    model = _boosted(trees, leaves, numbers, liked)
    (folder / ZERO).write_bytes(tree_graph(model))
    return {"pairs": len(liked), "trees": trees, "leaves": leaves, "log_loss": loss}


def _pairs(catalog: Catalog, progress: Progress) -> tuple[Numbers, NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers, users' rows and labels of training pairs."""
    split, parts = runs(catalog, "train", SIZE)
    begins = np.array([part.start for part in parts])
    user, time = split.users[begins], split.times[begins]
    served = time >= catalog.snapshots["begins"][user, 0]
    served |= time == split.times[np.searchsorted(split.users, user)]  # the user's first
    if served.mean() >= 0.5:  # not with embeddings made after most of training
        parts = [parts[n] for n in np.flatnonzero(served)]
    parts = spread(parts, MAX_PAIRS // SIZE)
    builder, numbers = PromptBuilder.of(catalog, "train"), []
    for done, part in enumerate(parts):
        progress("exit zero", done, len(parts))
        numbers.append(builder.number_rows(int(split.users[part.start]), split.items[part], int(split.times[part.start])))
    progress("exit zero", len(parts), len(parts))
    rows = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    return np.concatenate(numbers), split.users[rows], split.liked[rows]


def _choose(numbers: Numbers, users: NDArray[np.int64], liked: NDArray[np.bool_]) -> tuple[int, int, float | None]:
    """Trees, leaves of each, and the log loss of the users who judge; None if they are too few."""
    distinct = np.unique(users)
    judges = np.isin(users, distinct[[roles.place(f"zero {user}") < 0.2 for user in distinct.tolist()]])
    both = [0 < labels.sum() < len(labels) for labels in (liked[judges], liked[~judges])]
    if len(distinct) < MIN_USERS or not all(both):
        return MAX_TREES // 4, LEAVES[0], None
    losses: dict[tuple[int, int], float] = {}
    for leaves in LEAVES:
        model = _boosted(MAX_TREES, leaves, numbers[~judges], liked[~judges])
        for trees, log_odds in enumerate(model.staged_decision_function(numbers[judges]), 1):
            losses[trees, leaves] = float(np.logaddexp(0, np.where(liked[judges], -log_odds, log_odds)).mean())
    least = min(losses.values())
    (trees, leaves), loss = min(
        ((size, loss) for size, loss in losses.items() if loss <= least * (1 + TOLERANCE)), key=lambda entry: np.prod(entry[0])
    )
    return trees, leaves, loss


def _boosted(trees: int, leaves: int, numbers: Numbers, liked: NDArray[np.bool_]) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    boosting = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, learning_rate=_RATE, early_stopping=False, random_state=0
    )
    missing = np.isnan(numbers).all(0)  # a number that no pair has breaks the binning
    with threadpool_limits(1):  # sums do not depend on the machine, and threads do not wait for each other on a busy one
        return boosting.fit(np.where(missing, np.float32(0), numbers), liked)
