"""Does a slate cost what its ten places cost? The same likes among 100, 300 and 1,000 candidates.

    python benchmarks/ranking/growth.py CATALOG BUNDLE [--variant cpu-int8] [--slates 200] [--rounds 15] [--threads 2]

1. A slate is a test user's first one of up to a hundred, filled up with items that the user has in no split, drawn by how often
   they are in the splits, and taken as not liked. A larger slate holds the smaller.
2. The policy is the bundle's, certified on its own slates. What it does to --slates of each size follows from traces; differences
   are from full depth as deployed, with 95 % intervals over users.
3. --rounds slates are timed cold, each in all sizes and ways in turn: medians, and how many times the smallest size's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from judgement import Judgement
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import rexit
from rexit.bundle import Bundle, Catalog, Policy
from rexit.calibration.evaluation import at_exit
from rexit.calibration.traces import collect, join
from rexit.errors import script
from rexit.runtime import Session
from rexit.slates import Slate, cut, spread

SIZES = (100, 300, 1000)


def filled(catalog: Catalog, count: int) -> list[Slate]:
    """Returns at most `count` slates of the largest size, of users with a like and a dislike (rule 1)."""
    random, splits = np.random.default_rng(0), [catalog.split(name) for name in ("train", "validation", "test")]
    users, items = (np.concatenate([getattr(split, name) for split in splits]) for name in ("users", "items"))
    frequency = np.bincount(items, minlength=len(catalog.items)).astype(float)
    first = {slate.user: slate for slate in reversed(cut(catalog, "test", SIZES[0])) if 0 < slate.liked.sum() < len(slate.liked)}
    slates = []
    for slate in (first[user] for user in sorted(first, key=str)):
        weights = frequency.copy()
        weights[items[users == catalog.users.rows([slate.user])[0]]] = 0
        more = SIZES[-1] - len(slate.items)
        if np.count_nonzero(weights) >= more:
            rows = random.choice(len(weights), more, replace=False, p=weights / weights.sum())
            liked = np.concatenate([slate.liked, np.zeros(more, np.bool_)])
            slates.append(replace(slate, items=slate.items + tuple(catalog.items.take(rows)), liked=liked))
    return spread(slates, count)


def ranked(session: Session, policy: Policy, slates: Sequence[Slate], log_odds: NDArray[np.float32]) -> dict[str, list[str]]:
    """Returns for each way its mean layers, share of candidates that enter the first layer, and NDCG@10.

    log_odds: raw, float32 [slates, n, exits].
    """
    traces = join(slates, log_odds.reshape(-1, log_odds.shape[-1]))
    c, judgement, last = policy.calibrated(traces.log_odds), Judgement(traces.users, traces.liked), len(policy.exits) - 1
    full, own = judgement.of(c[:, -1]), judgement.of(traces.log_odds[:, -1])
    rows = {}
    for name, stops in [
        ("policy", policy.stops(traces.log_odds, traces.offsets)),
        *((f"{info.layers} layers" if k else "exit zero", np.full(len(c), k)) for k, info in enumerate(session.exits)),
    ]:
        measured = judgement.of(at_exit(c, stops))
        change = "{:+.4f} ({:+.4f} to {:+.4f})".format(*measured.minus(full).interval()["ndcg@10"])
        layers = np.array([info.layers for info in session.exits])[stops].mean()
        rows[name] = [f"{layers:.3f}", f"{(stops > 0).mean():.3f}", f"{measured.interval()['ndcg@10'][0]:.4f}", change]
    rows["last head alone"] = [*rows[f"{session.exits[last].layers} layers"][:2], f"{own.interval()['ndcg@10'][0]:.4f}", ""]
    return rows


def timed(session: Session, slates: Sequence[Slate]) -> dict[str, list[str]]:
    """Returns for each way and size the median milliseconds, and the median of how many times the smallest size's."""
    ways: dict[str, dict[str, Any]] = {
        "policy": {},
        "exit zero": {"force_exit": 0},
        "full depth": {"force_exit": len(session.exits) - 1},
    }
    times = np.zeros((len(slates), len(ways), len(SIZES)))
    session.warm_up()
    for n, slate in enumerate([slates[0], *slates]):  # the first warms up
        for way, how in enumerate(ways.values()):
            for size, count in enumerate(SIZES):
                session.clear_cache()
                times[n - 1, way, size] = session.score(slate.first(count).request, **how).stats.total_us / 1000
    medians, ratios = np.median(times, 0), np.median(times / times[:, :, :1], 0)
    return {name: [f"{ms:.2f} ({x:.2f})" for ms, x in zip(medians[w], ratios[w], strict=True)] for w, name in enumerate(ways)}


def table(columns: Sequence[str], rows: dict[str, list[str]]) -> Table:
    markdown = Table("", *columns, box=MARKDOWN)
    for name, cells in rows.items():
        markdown.add_row(name, *cells)
    return markdown


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--slates", type=int, default=200, help="to rank (200); 0: none")
    parser.add_argument("--rounds", type=int, default=15, help="slates to time (15); 0: none")
    parser.add_argument("--threads", type=int, default=2, help="of the session (2)")
    args = parser.parse_args()
    policy, console = Bundle.open(args.bundle, args.variant).policy(), Console(width=160)
    slates = filled(Catalog.open(args.catalog), max(args.slates, args.rounds))
    with rexit.open(args.bundle, args.variant, threads=args.threads) as session:
        if args.slates and policy:
            log_odds = collect(session, slates).reshape(len(slates), SIZES[-1], -1)  # a candidate's does not depend on the others
            for size in SIZES:
                rows = ranked(session, policy, [slate.first(size) for slate in slates], log_odds[:, :size])
                console.print(table([f"{size}: layers", "enter layer 1", "NDCG@10", "less full depth"], rows))
        if args.rounds:
            columns = [f"{size}: ms (times {SIZES[0]})" for size in SIZES]
            console.print(table(columns, timed(session, spread(slates, args.rounds))))


if __name__ == "__main__":
    main()
