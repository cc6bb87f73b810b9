"""Graded NDCG@10 of a calibrated reranker on a file of slates with grades, by exit, by policy and of the first stage.

    rexit calibrate BUNDLE --slates OUT/slates.jsonl …
    python examples/reranker/ndcg.py BUNDLE OUT/slates.jsonl [--variant cpu-int8]

Only test queries, by the log-odds that the calibration recorded: no model runs. `first` is the order of the candidates in the
file (BM25's). Here a document's gain is 2^grade - 1, and the ideal is the best order of all judged documents, whether BM25 found
them or not. `alone` is an exit's own answer, `calibrated` what the policy makes of it and of the exits before. The NDCG@10 of
`rexit calibrate` is another figure: its gain is 0 or 1, its ideal the best order of the candidates. Intervals are 95 %, over
queries, by bootstrap; differences are paired.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.traces import TRACES_FILE, Recording
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import InputError, script
from rexit.format.bundle import Bundle

PLACES, SAMPLES = 10, 2000


def ndcg(scores: NDArray[np.floating], grades: Sequence[int], ideal: Sequence[int]) -> float:
    """Returns the graded NDCG of the first places. ideal: grades of the best order."""
    order = np.argsort(-np.asarray(scores), kind="stable")[:PLACES]
    return _gain([grades[n] for n in order]) / _gain(sorted(ideal, reverse=True)[:PLACES])


def _gain(grades: Sequence[int]) -> float:
    """The discounted gain of grades, in their order."""
    return float((2.0 ** np.array(grades, float) - 1) @ (1 / np.log2(np.arange(len(grades)) + 2)))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the mean's 95 % interval over queries."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (SAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def judged(path: Path) -> dict[int, tuple[list[int], list[int]]]:
    """Returns grades of the candidates and of the best order, by group. Raises InputError for a file without grades."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if any("grades" not in row for row in rows):
        raise InputError(f"{path}: has no column `grades`: examples/reranker/cranfield.py and scifact.py write it")
    return {row["group"]: (row["label"], row["grades"]) for row in rows}


def recorded_log_odds(bundle: Bundle, file: SlatesFile) -> NDArray[np.float32]:
    """Returns every exit's log-odds of the test candidates, float32 [n, E]. Raises BundleError if calibration read other
    slates."""
    pairs = {name: sum(len(slate.items) for slate in file.cut(name)) for name in ("validation", "test")}
    made_of = {"variant_sha256": bundle.variant_sha256, "slates_sha256": file.sha256, "slate": file.largest}
    return Recording.read(bundle.folder / TRACES_FILE, len(bundle.exits), made_of, pairs).log_odds["test"]


@script
def main(path: Path, slates: Path, variant: str | None) -> None:
    bundle, grades = Bundle.open(path, variant), judged(slates)
    file = SlatesFile.read(slates, partial(bundle_encoder, bundle))
    policy = bundle.policy()
    if policy is None:
        raise InputError(f"{path}: has no policy: run `rexit calibrate {path} --slates {slates}` first")
    test = file.cut("test")
    offsets = np.cumsum([0, *(len(slate.items) for slate in test)])
    log_odds = recorded_log_odds(bundle, file)
    stops = policy.stops(log_odds, offsets)
    calibrated = policy.calibrated(log_odds)
    by_policy = np.take_along_axis(calibrated, stops[:, None], 1)[:, 0]
    depths = np.array(bundle.exits)
    rows, layers, cost = [], [], np.zeros(2)
    for slate, start, end in zip(test, offsets, offsets[1:], strict=False):
        lengths = np.array([len(tokens) for tokens in slate.candidates])
        cost += lengths @ depths[stops[start:end]], lengths.sum() * depths[-1]
        labels, ideal = grades[int(slate.user)]
        if any(ideal):
            orders = [-np.arange(end - start), *log_odds[start:end].T, by_policy[start:end], *calibrated[start:end].T]
            rows.append([ndcg(order, labels, ideal) for order in orders])
            layers.append(depths[stops[start:end]].mean())
    values = np.array(rows).T
    exits = [f"layer {depth}" if depth else "exit zero" for depth in depths]
    names = ["first", *(f"{name}, alone" for name in exits), f"policy, {np.mean(layers):.1f} layers"]
    names += [f"{name}, calibrated" for name in exits]
    print(f"the policy's layers x tokens: {cost[0] / cost[1]:.3f} of full depth's")
    print(f"{len(rows)} test queries, graded NDCG@{PLACES} (ideal: all judged documents),")
    print("less that of the first order, and less that of the last exit, calibrated")
    for name, of_queries in zip(names, values, strict=True):
        print(f"{name:22} {shown(of_queries, '.4f')}  {shown(of_queries - values[0])}  {shown(of_queries - values[-1])}")


def shown(values: NDArray[np.float64], form: str = "+.4f") -> str:
    """The mean over queries and its interval."""
    low, high = interval(values)
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("slates", type=Path)
    parser.add_argument("--variant")
    args = parser.parse_args()
    main(args.bundle, args.slates, args.variant)
