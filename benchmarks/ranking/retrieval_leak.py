"""Does the retriever know the answer? Ways to train LightGCN and a model on the same history, by what the model is worth on test.

    python benchmarks/ranking/retrieval_leak.py CATALOG [--seeds 3] [--only share] [--work build/leak]

The model is gradient boosting on counts and rates as of each pair's slate, with the retrieved features of a way to train: `dot`
(user and item), `lists` (verdicts of similar users, of this user's nearest items), or `both`. Rounds are chosen on validation.

| way | the graph knows | the model is fitted on |
|---|---|---|
| none | - | all training rows |
| stored | all training likes | all training rows |
| share S | each user's first S of the training interactions | the rest |
| share S, all likes in use | the same; in use its weights are propagated over all training likes | the rest |
| folds K | K graphs, each without one fold of the training slates | all training rows, each with the graph without its slate |
| user folds K | K graphs, each without one fold of the users, who are folded in | all rows; in use the graph of all users |
| snapshots K | K graphs of each user's first 1/K, 2/K, ... | each row with the latest graph before it; the first 1/K without |
| left out | all training likes, but propagated without the user's likes from the slate's moment on | all training rows |

The user is `stored` (its embedding in that graph) or `folded in` (from the likes visible at the moment). Every prompt takes all
from one graph, and neither cosines nor neighbours change when a space is rotated, so folds need no alignment here.

Graphs and scores are kept under --work and not made again. A catalog whose labels were drawn at random shows the leak itself: the
dot product of a training row must not predict them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from as_of import Features, Interactions, Pairs, Vectors, cut
from boosting import boosted
from judgement import Judgement, mean
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.sparse import coo_array, csr_array
from torch_geometric.nn import LightGCN

from rexit.bundle import Catalog, Split
from rexit.bundle.catalog import SPLITS
from rexit.exporter.options import LightGCNOptions
from rexit.exporter.retriever import lightgcn
from rexit.ranking import auc
from rexit.scripts import script

TRAIN_SLATE, SLATE = 8, 20
SETS = ("dot", "lists", "both")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Graph:
    """A trained LightGCN: unit vectors as lightgcn.Retriever has them, and its weights float32 [U + I, D]."""

    users: Vectors
    items: Vectors
    fold_in: Vectors
    weights: Vectors


@dataclass(frozen=True)
class Rows:
    """Pairs and what was retrieved for them; nan where there was no graph to ask."""

    pairs: Pairs
    dot: Features
    lists: Features


Way = tuple[Rows, Rows, Rows]
"""What the model is fitted on, validation, test."""


class Study:
    """One catalog and one seed: graphs, and the rows that a way to train gives."""

    def __init__(self, catalog: Catalog, work: Path, seed: int) -> None:
        self.seed, self._work = seed, work
        self.counts = catalog.info["counts"]
        self.train, validation, test = (catalog.split(name) for name in SPLITS)
        self.validation, self.test = cut(validation, SLATE), cut(test, SLATE)
        self._found = validation.users[validation.liked], validation.items[validation.liked]
        self.interactions = Interactions(catalog)
        starts = np.flatnonzero(np.r_[True, self.train.users[1:] != self.train.users[:-1]])
        lengths = np.diff(np.r_[starts, len(self.train)])
        place = np.arange(len(self.train)) - np.repeat(starts, lengths)
        self.place: NDArray[np.float64] = place / np.repeat(lengths, lengths)
        """Of each training row in its user's: 0 is the first."""

    @cached_property
    def all_rows(self) -> Pairs:
        return self.rows(np.ones(len(self.train), np.bool_))

    def rows(self, mask: Mask) -> Pairs:
        t = self.train
        texts = tuple(numbers[mask] for numbers in t.texts), t.text_tokens
        return cut(Split(t.users[mask], t.items[mask], t.times[mask], t.liked[mask], t.contexts[mask], *texts), TRAIN_SLATE)

    def graph(self, mask: Mask) -> Graph:
        """Trained on the likes among these training rows."""
        mask = mask & self.train.liked
        key = hashlib.sha256(mask.tobytes()).hexdigest()[:16]
        path = self._work / f"graph-{key}-{self.seed}.npz"
        if not path.exists():
            t, n = self.train, self.counts
            likes = lightgcn.Likes(
                graph=(t.users[mask], t.items[mask]),
                history=(t.users[t.liked], t.items[t.liked]),
                excluded=(t.users, t.items),
                targets=self._found,
                users=n["users"],
                items=n["items"],
            )
            retriever = lightgcn.train(likes, LightGCNOptions(seed=self.seed))
            weights = _Kept.last.embedding.weight.detach().numpy()
            _save(path, users=retriever.users, items=retriever.items, fold_in=retriever.fold_in, weights=weights)
        with np.load(path) as archive:
            return Graph(**{name: archive[name] for name in ("users", "items", "fold_in", "weights")})

    def propagated(self, graph: Graph, mask: Mask) -> Graph:
        """The same weights over the likes among other training rows."""
        mask = mask & self.train.liked
        return Propagation(self, graph, mask).without(0, np.empty(0, np.int64))

    def ask(self, pairs: Pairs, graph: Graph, user: str) -> Rows:
        vectors = graph.users[pairs.users] if user == "stored" else self.interactions.folded_in(pairs, graph)
        return Rows(pairs, *self.interactions.retrieved(pairs, graph, vectors))

    def held_out(self, graph: Graph, user: str) -> tuple[Rows, Rows]:
        return self.ask(self.validation, graph, user), self.ask(self.test, graph, user)


class _Kept(LightGCN):  # type: ignore[misc] # torch-geometric is not typed
    """The LightGCN that was made last: training gives away its embeddings, not its weights."""

    last: LightGCN

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        _Kept.last = self


lightgcn.LightGCN = _Kept  # type: ignore[attr-defined]


class Propagation:
    """LightGCN's layers over the likes of a mask, less some of one user's."""

    def __init__(self, study: Study, graph: Graph, mask: Mask, layers: int = 3) -> None:
        t, n = study.train, study.counts
        self._users, self._layers = n["users"], layers
        size = n["users"] + n["items"]
        u, i = t.users[mask], n["users"] + t.items[mask]
        ones = np.ones(2 * len(u), np.float32)
        self._edges = csr_array(coo_array((ones, (np.r_[u, i], np.r_[i, u])), shape=(size, size)))
        self._degree = np.bincount(np.r_[u, i], minlength=size).astype(np.float32)
        self._weights = graph.weights

    def without(self, user: int, items: NDArray[np.int64]) -> Graph:
        """Embeddings when `user` has not liked `items` (rows)."""
        nodes, users = self._users + items, self._users
        degree = self._degree.copy()
        degree[nodes] -= 1
        degree[user] -= len(items)
        scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)[:, None]
        layer, alpha = self._weights, np.float32(1 / (self._layers + 1))
        total, carried = layer * alpha, np.zeros_like(layer[users:])
        for _ in range(self._layers):
            carried += layer[users:] * alpha
            spread = layer * scale
            layer = self._edges @ spread
            layer[user] -= spread[nodes].sum(0)
            layer[nodes] -= spread[user]
            layer *= scale
            total = total + layer * alpha
        fold_in = carried * scale[users:]
        unit = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
        return Graph(unit[:users] * (degree[:users] > 0)[:, None], unit[users:], fold_in, self._weights)


def none(study: Study, _: str) -> Way:
    def empty(pairs: Pairs) -> Rows:
        return Rows(pairs, np.full((len(pairs), 1), np.nan, np.float32), np.full((len(pairs), 6), np.nan, np.float32))

    return empty(study.all_rows), empty(study.validation), empty(study.test)


def stored(study: Study, user: str) -> Way:
    graph = study.graph(study.place >= 0)
    return study.ask(study.all_rows, graph, user), *study.held_out(graph, user)


def share(study: Study, user: str, part: float) -> Way:
    graph = study.graph(study.place < part)
    return study.ask(study.rows(study.place >= part), graph, user), *study.held_out(graph, user)


def share_all_in_use(study: Study, user: str, part: float) -> Way:
    graph = study.graph(study.place < part)
    in_use = study.propagated(graph, study.place >= 0)
    return study.ask(study.rows(study.place >= part), graph, user), *study.held_out(in_use, user)


def parts(study: Study, pairs: Pairs, of: NDArray[np.int64], graphs: dict[int, tuple[Graph, str]]) -> Rows:
    """Each pair asked of the graph of its part, if that has one."""
    dot, lists = np.full((len(pairs), 1), np.nan, np.float32), np.full((len(pairs), 6), np.nan, np.float32)
    for part, (graph, user) in graphs.items():
        mask = of == part
        chosen = Pairs(*(values[mask] for values in (pairs.users, pairs.items, pairs.as_of, pairs.liked, pairs.slate)))
        rows = study.ask(replace(chosen, slate=np.unique(chosen.slate, return_inverse=True)[1]), graph, user)
        dot[mask], lists[mask] = rows.dot, rows.lists
    return Rows(pairs, dot, lists)


def folds(study: Study, user: str, count: int) -> Way:
    pairs = study.all_rows
    of = np.random.default_rng(study.seed).integers(0, count, pairs.slate[-1] + 1)[pairs.slate]
    return parts(study, pairs, of, {k: (study.graph(of != k), user) for k in range(count)}), *study.held_out(
        study.graph(study.place >= 0), user
    )


def user_folds(study: Study, _: str, count: int) -> Way:
    pairs = study.all_rows
    of = np.random.default_rng(study.seed).integers(0, count, study.counts["users"])
    rows = parts(study, pairs, of[pairs.users], {k: (study.graph(of[pairs.users] != k), "folded in") for k in range(count)})
    return rows, *study.held_out(study.graph(study.place >= 0), "folded in")


def snapshots(study: Study, user: str, count: int) -> Way:
    # A slate belongs to the part of its first row: none of its rows is in that part's graph.
    pairs = study.all_rows
    first = np.floor(study.place[pairs.first] * count + 1e-9).astype(np.int64)
    graphs = {k: (study.graph(study.place < k / count), user) for k in range(1, count)}
    return parts(study, pairs, first[pairs.slate], graphs), *study.held_out(study.graph(study.place >= 0), user)


def left_out(study: Study, user: str) -> Way:
    graph, pairs = study.graph(study.place >= 0), study.all_rows
    propagation = Propagation(study, graph, study.train.liked)
    dot, lists = np.empty((len(pairs), 1), np.float32), np.empty((len(pairs), 6), np.float32)
    t = study.train
    user_ends = np.searchsorted(t.users, pairs.users, "right")
    for a, b in zip(pairs.first, np.r_[pairs.first[1:], len(pairs)], strict=True):
        row = slice(a, user_ends[a])  # all_rows are the training rows in their order
        later = t.items[row][t.liked[row] & (t.times[row] >= pairs.as_of[a])]
        chosen = Pairs(pairs.users[a:b], pairs.items[a:b], pairs.as_of[a:b], pairs.liked[a:b], np.zeros(b - a, np.int64))
        rows = study.ask(chosen, propagation.without(int(pairs.users[a]), later), user)
        dot[a:b], lists[a:b] = rows.dot, rows.lists
    return Rows(pairs, dot, lists), *study.held_out(graph, user)


def ways() -> Iterator[tuple[str, str, Callable[[Study, str], Way]]]:
    """Name, user's embedding, function."""

    def both(name: str, way: Callable[..., Way], *arguments: float) -> Iterator[tuple[str, str, Callable[[Study, str], Way]]]:
        for user in ("stored", "folded in"):
            yield name, user, lambda study, user: way(study, user, *arguments)

    yield "none", "-", none
    yield from both("stored", stored)
    for part in (0.4, 0.5, 0.6, 0.7, 0.8):
        yield from both(f"share {part}", share, part)
    for part in (0.4, 0.5, 0.6, 0.7, 0.8):
        yield from both(f"share {part}, all likes in use", share_all_in_use, part)
    for count in (5, 3):
        yield from both(f"snapshots {count}", snapshots, count)
    for count in (5, 3, 2):
        yield f"user folds {count}", "folded in", partial(user_folds, count=count)
    for count in (5, 4, 3, 2):
        yield from both(f"folds {count}", folds, count)
    yield from both("left out", left_out)


def judge(study: Study, way: Way) -> dict[str, NDArray[np.float64]]:
    """Test scores by set of features, and the dot product's AUC on the rows fitted on and on test."""
    counts = [study.interactions.counts(rows.pairs) for rows in way]
    fitted, _, test = way
    has_scores = bool(np.isfinite(test.dot).all())
    sets: dict[str, list[list[NDArray[np.float32]]]] = {"counts": [[], [], []]}
    if has_scores:
        sets |= {
            "dot": [[rows.dot] for rows in way],
            "lists": [[rows.lists] for rows in way],
            "both": [[rows.dot, rows.lists] for rows in way],
        }
    scores = {}
    for name, added in sets.items():
        inputs = [np.concatenate([c, *more], 1) for c, more in zip(counts, added, strict=True)]
        labels = [rows.pairs.liked for rows in way]
        _, scores[name] = boosted((inputs[0], labels[0]), (inputs[1], labels[1]), inputs[2], leaves=(8,), seed=study.seed)
    if has_scores:
        there = np.isfinite(fitted.dot[:, 0])
        scores["dot AUC, fitted on"] = np.array(auc(fitted.dot[there, 0], fitted.pairs.liked[there]))
        scores["dot AUC, test"] = np.array(auc(test.dot[:, 0], test.pairs.liked))
    return scores


def _save(path: Path, **arrays: NDArray[np.floating]) -> None:
    half = path.with_name(f"partial-{path.name}")
    np.savez(half, **arrays)  # type: ignore[arg-type] # its stubs take the arrays for flags
    half.rename(path)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="ways whose name begins so")
    parser.add_argument("--work", type=Path, default=Path("build/leak"))
    parser.add_argument("--show", action="store_true", help="what is there already, whatever the seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    catalog = Catalog.open(args.catalog)
    work = args.work / catalog.sha256[:12]
    work.mkdir(parents=True, exist_ok=True)
    studies = [Study(catalog, work, seed) for seed in range(args.seeds)]
    console = Console(highlight=False)
    results: dict[tuple[str, str], list[dict[str, NDArray[np.float64]]]] = {}
    for study in studies:
        for name, user, way in ways():
            if name != "none" and not name.startswith(args.only):
                continue
            path = work / f"scores-{name}-{user}-{study.seed}.npz".replace(" ", "_")
            if not path.exists():
                if args.show:
                    continue
                _save(path, **judge(study, way(study, user)))
            with np.load(path) as archive:
                results.setdefault((name, user), []).append(dict(archive))
    test = studies[0].test
    judgement = Judgement(test.users, test.liked)
    reference = mean([judgement.of(seed["counts"]) for seed in results["none", "-"]])
    title = f"{args.catalog}: AUC / user AUC on test; below, the difference from no retrieval with its 95 % interval over users"
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in ("way", "user", "seeds", "counts", *SETS, "dot alone: fitted on, test"):
        table.add_column(column)
    for (name, user), seeds in results.items():
        cells = []
        for features in ("counts", *SETS):
            if features not in seeds[0]:
                cells.append("")
                continue
            measured = mean([judgement.of(seed[features]) for seed in seeds])
            values, gains = measured.interval(), measured.minus(reference).interval()
            lines = [f"{values['auc'][0]:.4f} / {values['user_auc'][0]:.4f}"]
            if (name, features) != ("none", "counts"):
                lines += ["{:+.4f} ({:+.4f} to {:+.4f})".format(*gains[metric]) for metric in ("auc", "user_auc")]
            cells.append("\n".join(lines))
        alone = ", ".join(
            f"{np.mean([seed[f'dot AUC, {w}'] for seed in seeds]):.3f}" for w in ("fitted on", "test") if name != "none"
        )
        table.add_row(name, user, str(len(seeds)), *cells, alone)
    console.width = 190
    console.print(table)


if __name__ == "__main__":
    main()
