"""Rankings of test slates side by side: baselines, exit zero, models by depth, and policies, on three kinds of candidates.

    python examples/scientific/table.py CATALOG DATA --numbers NUMBERS --model SmolLM2=BUNDLE \
        --pairs MiniLM=BUNDLE [--users 800] [--draws retrieved:100,popularity:99,uniform:99] [--json FILE]

CATALOG is of `rexit index`, with an exit zero that reads text; NUMBERS the same without text. DATA is
the folder of prepare.py with items.parquet. `--model` is a bundle of CATALOG, `--pairs` one of pairs.py's slates. Test users are
those with the like in their slate, the same for all rankings of a draw. Each ranking has its NDCG@10 and user AUC, the
difference of NDCG@10 to exit zero with its 95 % interval over users (paired bootstrap), and NDCG@10 by the number of training
likes of the liked product. A model's last answer is `alone`; `with exit zero`, a logistic regression on both, fitted on these
candidates of the other users (five folds); with `all`, its last exit's map, which reads exit zero and earlier exits and was
fitted on the calibration's candidates; `policy` is what the bundle's policy answers, with its cost by the calibration's report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pairs import Texts, scores_of, slates_of
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from rexit import runtime
from rexit.data.baselines import LIGHTGCN, baselines
from rexit.data.ranking import ByUser, bootstrap
from rexit.data.slates import Slate, spread
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import script
from rexit.exporter.zero import zero_log_odds
from rexit.format.bundle import Bundle, Catalog
from rexit.format.candidates import Candidates

Scores = NDArray[np.floating[Any]]
Rankings = dict[str, Scores]
LATEST = 8
GROUPS = ((0, 0), (1, 4), (5, 19), (20, 10**9))


def looked_up(catalog: Catalog, slates: Sequence[Slate], texts: Texts, vectors: NDArray[np.float32]) -> Rankings:
    """Returns the rankings that need no training but LightGCN's. vectors: of the items' texts, float32 [I, D]."""
    train, items = catalog.split("train", missed=True), len(catalog.items)
    user, item = train.users[train.liked], train.items[train.liked]
    counts = np.bincount(item, minlength=items)
    likes = csr_array((np.ones(len(item)), (user, item)), shape=(len(catalog.users), items))
    lengths = np.sqrt(np.maximum(np.bincount(likes.indices, likes.data**2, items), 1))
    unit = likes.multiply(1 / lengths[None, :]).tocsr()
    cosines = (unit.T @ unit).toarray()
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    rankings: dict[str, list[Scores]] = {"popularity": [], "item-item cosine": [], "text cosine": []}
    for slate in slates:
        rows, history = catalog.items.rows(slate.items), texts.history(slate)
        rankings["popularity"].append(counts[rows].astype(np.float64))
        rankings["item-item cosine"].append(cosines[np.ix_(np.array(history, np.int64), rows)].sum(0))
        rankings["text cosine"].append((directions[history[-LATEST:]] @ directions[rows].T).max(0))
    return {name: np.concatenate(parts) for name, parts in rankings.items()} | {LIGHTGCN: baselines(catalog, slates)[LIGHTGCN]}


def of_bundle(name: str, path: Path, traced: Callable[[Any], list[NDArray[np.float32]]], sizes: Sequence[int]) -> Rankings:
    """Returns a bundle's rankings by depth and policy. traced: every exit's log-odds of each slate, by a session."""
    bundle = Bundle.open(path)
    with runtime.open(path) as session:
        log_odds = np.concatenate(traced(session)).astype(np.float32)
    rankings: Rankings = {f"{name} alone": log_odds[:, -1]}
    if (policy := bundle.policy()) is None:
        return rankings
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    c, report = policy.calibrated(log_odds), json.loads((bundle.folder / "report.json").read_text())
    stops, rows = policy.stops(log_odds, offsets), {row["policy"]: row for row in report["table"]}
    cost = rows["policy"]["cost_us"] / rows["full depth"]["cost_us"]
    for exit_, depth in list(enumerate(bundle.manifest.exits))[:-1]:
        if depth:
            rankings[f"{name}, {depth} layers and all before"] = c[:, exit_]
    rankings[f"{name}, full depth with all"] = c[:, -1]
    rankings[f"{name}, policy ({cost:.2f} of the cost)"] = np.take_along_axis(c, stops[:, None], 1)[:, 0]
    return rankings


def with_exit_zero(zero: Scores, alone: Scores, slates: Sequence[Slate]) -> Scores:
    """Returns the log-odds of a logistic regression on two rankings, of each user by the others."""
    both, liked = np.column_stack([zero, alone]), np.concatenate([slate.liked for slate in slates])
    users = np.repeat(np.arange(len(slates)), [len(slate.items) for slate in slates])
    folds = GroupKFold(5)
    together: Scores = cross_val_predict(LogisticRegression(), both, liked, groups=users, cv=folds, method="decision_function")
    return together


def traces(session: Any, slates: Sequence[Slate]) -> list[NDArray[np.float32]]:
    """Returns every exit's log-odds of slates of a catalog."""
    return [session.trace(slate.request) for slate in slates]


def traces_of_pairs(session: Any, bundle: Path, rows: Sequence[dict[str, Any]]) -> list[NDArray[np.float32]]:
    """Returns every exit's log-odds of rows of pairs.py."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slates.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        read = SlatesFile.read(path, partial(bundle_encoder, Bundle.open(bundle)), labels=False)
        return [session.trace(slate.request) for slate in read.cut("test")]


def table(rankings: Rankings, slates: Sequence[Slate], popularity: NDArray[np.int64], base: str) -> list[dict[str, Any]]:
    """Returns a row for each ranking. popularity: training likes of each slate's liked product, the least of several."""
    users = np.repeat(np.arange(len(slates)), [len(slate.items) for slate in slates])
    judge = ByUser(users, np.concatenate([slate.liked for slate in slates]))
    values = {name: judge.ndcg(scores.astype(np.float32), 10) for name, scores in rankings.items()}
    rows = []
    for name, scores in rankings.items():
        gain = values[name] - values[base]
        low, high = np.percentile(bootstrap(gain, np.ones(len(gain))), [2.5, 97.5])
        by_group = {}
        for first, last in GROUPS:
            chosen = (popularity >= first) & (popularity <= last)
            label = f"{first}" if first == last else f"{first}+" if last == GROUPS[-1][1] else f"{first}-{last}"
            by_group[f"{label} ({chosen.sum()})"] = float(values[name][chosen].mean()) if chosen.any() else None
        auc = float(np.nanmean(judge.auc(scores.astype(np.float32))))
        gained = {"gain": float(gain.mean()), "low": float(low), "high": float(high)}
        rows.append({"ranking": name, "ndcg@10": float(values[name].mean()), "user auc": auc, **gained, "by likes": by_group})
    return rows


def printed(candidates: Candidates, users: int, rows: Sequence[dict[str, Any]]) -> None:
    groups = list(rows[0]["by likes"])
    print(f"\n{candidates}, {users:,} test users; by training likes of the product (users)\n")
    print("| ranking | NDCG@10 | user AUC | NDCG@10 less exit zero | " + " | ".join(groups) + " |")
    print("|---" * (4 + len(groups)) + "|")
    for row in rows:
        parts = ["-" if value is None else f"{value:.3f}" for value in row["by likes"].values()]
        gain = f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        print("| " + " | ".join([row["ranking"], f"{row['ndcg@10']:.4f}", f"{row['user auc']:.4f}", gain, *parts]) + " |")


@script
def main(args: argparse.Namespace) -> None:
    catalog, numbers = Catalog.open(args.catalog), Catalog.open(args.numbers)
    texts = Texts(catalog, args.data / "items.csv")
    column = pl.read_parquet(args.data / "items.parquet").sort("item_id")["text_vector"]
    vectors = np.array(column.to_list(), np.float32)
    train = catalog.split("train", missed=True)
    likes = np.bincount(train.items[train.liked], minlength=len(catalog.items))
    written: dict[str, Any] = {}
    for candidates in map(Candidates.parse, args.draws.split(",")):
        slates = slates_of(catalog, "test", candidates)
        slates = spread([slate for slate in slates if slate.liked.any()], args.users)
        sizes = [len(slate.items) for slate in slates]
        rankings = looked_up(catalog, slates, texts, vectors)
        rankings["exit zero by numbers"] = np.concatenate(zero_log_odds(numbers, slates))
        rankings["exit zero"] = np.concatenate(zero_log_odds(catalog, slates))
        for name, path in args.models:
            rankings |= of_bundle(name, path, partial(traces, slates=slates), sizes)
        if args.pairs:
            rows = list(texts.rows(slates, "test", scores_of(catalog, slates, "test")))
            for name, path in args.pairs:
                rankings |= of_bundle(name, path, partial(traces_of_pairs, bundle=path, rows=rows), sizes)
        for name, _ in (*args.models, *args.pairs):
            both = with_exit_zero(rankings["exit zero"], rankings[f"{name} alone"], slates)
            rankings[f"{name} with exit zero"] = both
        popularity = np.array([likes[catalog.items.rows(slate.items)][slate.liked].min() for slate in slates])
        rows = table(rankings, slates, popularity, "exit zero")
        printed(candidates, len(slates), rows)
        written[str(candidates)] = {"users": len(slates), "rows": rows}
    if args.json is not None:
        args.json.write_text(json.dumps(written, indent=1))


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--numbers", type=Path, required=True, help="the catalog whose exit zero reads no text")
    parser.add_argument("--model", type=_named, action="append", default=[], dest="models", metavar="NAME=BUNDLE")
    parser.add_argument("--pairs", type=_named, action="append", default=[], metavar="NAME=BUNDLE")
    parser.add_argument("--users", type=int, default=800, help="most test users of each kind of candidates (800; 0: all)")
    parser.add_argument("--draws", default="retrieved:100,popularity:99,uniform:99")
    parser.add_argument("--json", type=Path)
    main(parser.parse_args())
