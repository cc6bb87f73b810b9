"""What labels are worth to `rexit build`: the same reranker made a bundle by labels, by its own answers alone, and by both.

    python benchmarks/ranking/from_logs.py MODEL SLATES OUT [--precision int8] [--max-drop 0.05] [--every 5]

MODEL is a cross-encoder, SLATES a labelled file of slates. Each way has a copy of it: `labels` as it is, `answers` without
labels, `both` with those of every fifth query. Test queries are then judged by their labels, whatever the way knew: NDCG@10 of
the model in float32, of each way's exits and policy, and what is lost against the model, with a 95 % interval over queries.
OUT/WAY has the file, the bundle and the page that `build` printed; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import runtime
from rexit.data.ranking import ByUser, mean_by_user
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import script
from rexit.format.bundle import Bundle

WAYS, PLACES, MODEL = ("answers", "labels", "both"), 10, "the model"


def known(way: str, rows: list[dict[str, Any]], every: int) -> Iterator[dict[str, Any]]:
    """Yields the rows with the labels that a way knows."""
    for number, row in enumerate(rows):
        hidden = way == "answers" or (way == "both" and number % every)
        yield {name: value for name, value in row.items() if not (hidden and name == "label")}


def built(model: Path, folder: Path, rows: Iterator[dict[str, Any]], options: list[str]) -> Bundle:
    """Returns the calibrated variant that `rexit build` makes of the rows."""
    bundle, slates, page = folder / "bundle", folder / "slates.jsonl", folder / "page.txt"
    if not page.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        slates.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        rexit = str(Path(sys.executable).with_name("rexit"))
        command = [rexit, "build", str(model), "--slates", str(slates), "--out", str(bundle), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"from_logs: {' '.join(command)} failed with exit code {done.returncode}")
        page.write_text(done.stdout, encoding="utf-8")
    return Bundle.open(bundle)


def rankings(way: str, bundle: Bundle, slates: SlatesFile) -> dict[str, NDArray[np.float32]]:
    """Returns the scores of all test candidates by depth and by policy, and of the model in float32."""
    test = slates.cut("test")
    scores = {}
    if way == "answers":  # whose last exit is the model's own; labels may end at an earlier layer
        with runtime.open(bundle.path, "cpu-fp32") as exact:
            scores[MODEL] = np.concatenate([exact.trace(slate.request) for slate in test])[:, -1]
    with runtime.open(bundle.path, bundle.variant.name) as session:
        log_odds = np.concatenate([session.trace(slate.request) for slate in test])
    for exit_, depth in enumerate(bundle.exits):
        scores[f"{way}: {depth} layers alone"] = log_odds[:, exit_]
    if (policy := bundle.policy()) is not None:
        offsets = np.cumsum([0, *(len(slate.items) for slate in test)])
        c, stops = policy.calibrated(log_odds), policy.stops(log_odds, offsets)
        layers = np.array(bundle.exits)[stops].mean()
        scores[f"{way}: full depth"] = c[:, -1]
        scores[f"{way}: policy, {layers:.1f} layers"] = np.take_along_axis(c, stops[:, None], 1)[:, 0]
    return scores


@script
def main(model: Path, slates: Path, out: Path, every: int, options: list[str]) -> None:
    rows = [json.loads(line) for line in slates.read_text(encoding="utf-8").splitlines()]
    scores: dict[str, NDArray[np.float32]] = {}
    for way in WAYS:
        bundle = built(model, out / way, known(way, rows, every), options)
        labelled = SlatesFile.read(slates, partial(bundle_encoder, bundle))
        scores |= rankings(way, bundle, labelled)
    test = labelled.cut("test")
    queries = np.repeat(np.arange(len(test)), [len(slate.items) for slate in test])
    judge = ByUser(queries, np.concatenate([slate.liked for slate in test]))
    values = {name: judge.ndcg(score, PLACES) for name, score in scores.items()}
    judged = np.isfinite(values[MODEL])
    print(f"\n{judged.sum()} of {len(test)} test queries have a relevant candidate; NDCG@{PLACES} by labels\n")
    print("| | NDCG@10 | less the model in float32 |\n|---|---|---|")
    for name, of_queries in values.items():
        lost = of_queries - values[MODEL]
        mean, low, high = mean_by_user(lost[judged], np.arange(judged.sum()))
        print(f"| {name} | {np.nanmean(of_queries):.4f} | {mean:+.4f} ({low:+.4f} to {high:+.4f}) |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("slates", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", help="of build; the machine's by default")
    parser.add_argument("--max-drop", help="of build; what the log can confirm by default")
    parser.add_argument("--every", type=int, default=5, help="`both` knows one query in so many (5)")
    args = parser.parse_args()
    named = {"--precision": args.precision, "--max-drop": args.max_drop}
    main(args.model, args.slates, args.out, args.every, [word for key, value in named.items() if value for word in (key, value)])
