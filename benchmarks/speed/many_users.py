"""Small slates of several users: `Session.score_many` against a call for each.

    python benchmarks/speed/many_users.py BUNDLE [--variant cpu-int8] [--users 1 4 16] [--items 5] [--rounds 15] [--threads 1]

With one thread, processor time is work. A round draws users and items and takes both ways, every second round
in reverse order, each way in a session of its own: `cold` without cached prefixes, `warm` with all of them. At full depth, and
under the bundle's policy if it has one. Times are user seconds of the process; medians with quartiles, ratios are taken within a
round.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import rexit
from rexit.bundle import Catalog
from rexit.runtime import Request, Scores, Session
from rexit.scripts import script


def separate(session: Session, slates: Sequence[Request]) -> list[Scores]:
    return [session.score(slate.user, slate.items, force_exit=slate.force_exit) for slate in slates]


def together(session: Session, slates: Sequence[Request]) -> list[Scores]:
    results = session.score_many(slates)
    for result in results:
        if not isinstance(result, Scores):
            raise result
    return [result for result in results if isinstance(result, Scores)]


WAYS = {"separate": separate, "together": together}


def timed(way: str, session: Session, slates: Sequence[Request]) -> tuple[float, float, list[Scores]]:
    """User seconds, seconds, and the scores."""
    wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    scores = WAYS[way](session, slates)
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - used, time.perf_counter() - wall, scores


def measure(sessions: dict[str, Session], draw: Callable[[], list[Request]], warm: bool, rounds: int) -> dict[str, Any]:
    """User milliseconds of both ways, the ratio together / separate, and how far log-odds are apart at most."""
    user: dict[str, list[float]] = {way: [] for way in WAYS}
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    apart, exits = 0.0, 0
    for n in range(rounds + 1):
        slates, scores = draw(), {}
        for way in WAYS if n % 2 else reversed(WAYS):
            session = sessions[way]
            session.clear_cache()
            if warm:
                separate(session, slates)
            seconds, elapsed, scores[way] = timed(way, session, slates)
            user[way].append(1000 * seconds)
            wall[way].append(1000 * elapsed)
        for a, b in zip(scores["separate"], scores["together"], strict=True):
            same = a.exit == b.exit
            exits += int((~same).sum())
            apart = max(apart, float(np.abs(a.log_odds - b.log_odds)[same].max(initial=0)))
    ratio = np.array(user["together"][1:]) / np.array(user["separate"][1:])  # the first round warms up
    return {
        **{f"{way}_user_ms": np.percentile(user[way][1:], (50, 25, 75)).tolist() for way in WAYS},
        **{f"{way}_ms": np.percentile(wall[way][1:], (50, 25, 75)).tolist() for way in WAYS},
        "ratio": np.percentile(ratio, (50, 25, 75)).tolist(),
        "log_odds_apart": apart,
        "other_exits": exits,
    }


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--items", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    catalog, random = Catalog.open(args.bundle / "catalog"), np.random.default_rng(0)
    users, items = ([table.id(row) for row in range(len(table))] for table in (catalog.users, catalog.items))
    first = rexit.open(args.bundle, args.variant, threads=args.threads, own_threads=True, cache_bytes=1 << 30)
    sessions = {"separate": first, "together": first.another()}
    depths: dict[str, int | None] = {"full depth": len(first.exits) - 1, **({"policy": None} if first.info.calibrated else {})}
    results: dict[str, Any] = {}
    for depth, force_exit in depths.items():
        for warm in (False, True):
            for count in args.users:

                def draw(count: int = count, force_exit: int | None = force_exit) -> list[Request]:
                    return [
                        Request(
                            users[user], [items[i] for i in random.permutation(len(items))[: args.items]], force_exit=force_exit
                        )
                        for user in random.permutation(len(users))[:count]
                    ]

                name = f"{depth}, {'warm' if warm else 'cold'}, {count} users of {args.items}"
                results[name] = measure(sessions, draw, warm, args.rounds)
    if args.json:
        print(json.dumps(results, indent=1))
        return
    for name, row in results.items():
        alone, shared, ratio = (row[key] for key in ("separate_user_ms", "together_user_ms", "ratio"))
        Console(highlight=False, width=200).print(
            f"{name:36} separate {alone[0]:8.1f} ms, together {shared[0]:8.1f} ms, ratio {ratio[0]:.3f} ({ratio[1]:.3f} to"
            f" {ratio[2]:.3f}), log-odds apart {row['log_odds_apart']:.1e}, other exits {row['other_exits']}"
        )


if __name__ == "__main__":
    main()
