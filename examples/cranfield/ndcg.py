"""NDCG@10 of a reranker's bundle on a file of slates with grades, at every exit and by its policy.

    python examples/cranfield/ndcg.py BUNDLE OUT/slates.jsonl [--tokenizer MODEL]

Test queries alone. `first` is the order of the candidates in the file (BM25's). A document's gain is 2^grade - 1, and the ideal
is the best order of all judged documents, found by BM25 or not. Intervals are 95 %, over queries, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rexit import runtime
from rexit.bundle import Bundle
from rexit.errors import InputError
from rexit.scripts import script
from rexit.slates_file import SlatesFile
from rexit.texts import bundle_encoder

PLACES, SAMPLES = 10, 2000


def ndcg(scores: NDArray[np.floating], grades: Sequence[int], ideal: Sequence[int]) -> float:
    """NDCG of the first places. ideal: grades of the best order."""
    discounts = 1 / np.log2(np.arange(PLACES) + 2)
    order = np.argsort(-np.asarray(scores), kind="stable")[:PLACES]
    gained, most = (
        2.0 ** np.array(part, float) - 1 for part in ([grades[n] for n in order], sorted(ideal, reverse=True)[:PLACES])
    )
    return float(gained @ discounts[: len(gained)] / (most @ discounts[: len(most)]))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the mean, over queries."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (SAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def judged(path: Path) -> dict[int, tuple[list[int], list[int]]]:
    """Grades of the candidates and of the best order, by group. Raises InputError for a file without grades."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if any("grades" not in row for row in rows):
        raise InputError(f"{path}: has no column `grades`: examples/cranfield/slates.py writes it")
    return {row["group"]: (row["label"], row["grades"]) for row in rows}


@script
def main(bundle: Path, slates: Path, tokenizer: Path | None) -> None:
    opened, grades = Bundle.open(bundle), judged(slates)
    file = SlatesFile.read(slates, partial(bundle_encoder, opened, tokenizer))
    policy = opened.policy() is not None
    rows: list[list[float]] = []
    layers: list[float] = []
    with runtime.open(bundle) as session:
        for slate in file.cut("test"):
            labels, ideal = grades[int(slate.user)]
            if not any(ideal):
                continue
            log_odds = session.trace_tokens(slate.prefix, slate.candidates)
            orders = [-np.arange(len(labels)), *log_odds.T]
            if policy:
                scores = session.score_tokens(slate.prefix, slate.candidates)
                by_place = np.empty(len(labels))
                by_place[np.asarray(scores.items)] = scores.log_odds
                orders.append(by_place)
                layers.append(float(np.mean([opened.manifest.exits[k] for k in scores.exit])))
            rows.append([ndcg(order, labels, ideal) for order in orders])
    names = ["first", *(f"after layer {depth}" for depth in opened.manifest.exits)]
    if policy:
        names.append(f"policy, {np.mean(layers):.1f} layers")
    print(f"{len(rows)} test queries, NDCG@{PLACES}")
    for name, values in zip(names, np.array(rows).T, strict=True):
        low, high = interval(values)
        print(f"{name:24} {values.mean():.4f}  [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("slates", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    args = parser.parse_args()
    main(args.bundle, args.slates, args.tokenizer)
