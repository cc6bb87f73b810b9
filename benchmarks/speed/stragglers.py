"""What stragglers cost: a policy's time beside that of a fixed depth of as many layers, and without the rules for whole slates.

    python benchmarks/speed/stragglers.py BUNDLE --catalog CATALOG [--slates 12] [--json]     its policy, on the test split
    python benchmarks/speed/stragglers.py BUNDLE [--slates 16] [--json]                       random tokens, long prefixes

With --catalog, slates of as many real candidates as the policy was calibrated on. Without, 20 candidates of 12 random tokens
behind 200, and thresholds that stop half of what is left at every exit. All ways score a slate in turn, cold, on one thread;
figures are means of processor milliseconds. A fixed depth's time between two exits is interpolated.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import rexit
from rexit.bundle import Bundle, Catalog
from rexit.runtime import Scores, Session, StopRule
from rexit.scripts import script
from rexit.slates import cut

VARIANT = "cpu-int8"
PREFIX, CANDIDATES, CANDIDATE, QUORUMS = 200, 20, 12, (0.0, 0.1, 0.2, 0.3)
Score = Callable[..., Scores]
"""Scores one slate; takes `force_exit` and `policy` of a session's methods."""


def rules_of(bundle: Bundle) -> tuple[int, dict[str, StopRule]]:
    """The slate size that the bundle's policy was made for, and its rules: all, and without those for whole slates."""
    policy = bundle.policy()
    if policy is None or policy.made_on is None:
        raise SystemExit(f"stragglers.py: {bundle.folder} has no policy of a known slate; rexit calibrate writes one")
    upper, lower = ([getattr(entry, name) for entry in policy.exits] for name in ("upper", "lower"))
    every = StopRule(upper, lower, policy.patience, policy.quorum, policy.top_k)
    return int(policy.made_on["slate"]), {
        "policy": every,
        "without quorum": replace(every, quorum=0.0),
        "without top-k": replace(every, top_k=None),
        "thresholds alone": replace(every, quorum=0.0, top_k=None),
    }


def real_slates(session: Session, catalog: Catalog, size: int, count: int) -> list[Score]:
    slates = [slate for slate in cut(catalog, "test", size) if len(slate.items) == size]
    chosen = np.random.default_rng(1).permutation(len(slates))[:count]

    def scorer(index: int) -> Score:
        slate = slates[index]
        return lambda **how: session.score(slate.user, slate.items, as_of=slate.as_of, **how)

    return [scorer(int(index)) for index in chosen]


def random_slates(session: Session, vocabulary: int, count: int) -> tuple[list[Score], dict[str, StopRule]]:
    random = np.random.default_rng(1)
    sizes = (PREFIX, (CANDIDATES, CANDIDATE))
    draws = [[random.integers(vocabulary, size=size).tolist() for size in sizes] for _ in range(count + 5)]
    left = np.concatenate([session.trace_tokens(*draw) for draw in draws[count:]])
    upper, lower = [], []
    for k in range(left.shape[1]):
        low, high = np.quantile(left[:, k], [0.25, 0.75]).tolist()
        upper.append(high)
        lower.append(-low)
        if k + 1 < left.shape[1]:
            left = left[(left[:, k] > low) & (left[:, k] < high)]

    def scorer(draw: Sequence[Any]) -> Score:
        return lambda **how: session.score_tokens(*draw, **how)

    return [scorer(draw) for draw in draws[:count]], {
        f"quorum {quorum:g}": StopRule(upper, lower, 1, quorum) for quorum in QUORUMS
    }


def measure(
    session: Session, exits: Sequence[int], slates: Sequence[Score], rules: Mapping[str, StopRule]
) -> list[dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {f"{layers} layers": {"force_exit": k} for k, layers in enumerate(exits)}
    ways |= {name: {"policy": rule} for name, rule in rules.items()}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    slates[0](force_exit=len(exits) - 1)  # warms up
    for n, score in enumerate(slates):
        for name, how in list(ways.items()) if n % 2 else list(ways.items())[::-1]:
            session.clear_cache()
            before = resource.getrusage(resource.RUSAGE_SELF)
            scores = score(**how)
            after = resource.getrusage(resource.RUSAGE_SELF)
            stats = scores.stats
            rows[name].append(
                (
                    1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
                    stats.candidate_layers / len(scores),
                    stats.prefix_us / (stats.prefix_us + stats.slate_us),
                )
            )
    means = {name: np.mean(values, 0).tolist() for name, values in rows.items()}
    fixed = [means[f"{layers} layers"][0] for layers in exits]
    return [
        {
            "way": name,
            "ms": ms,
            "layers": layers,
            "of_fixed_depth": ms / float(np.interp(layers, exits, fixed)),
            "prefix_share": share,
        }
        for name, (ms, layers, share) in means.items()
    ]


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--slates", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle, VARIANT)
    with rexit.open(args.bundle, VARIANT, threads=1) as session:
        if args.catalog:
            size, rules = rules_of(bundle)
            slates = real_slates(session, Catalog.open(args.catalog), size, args.slates)
        else:
            slates, rules = random_slates(session, bundle.manifest.model.vocab_size, args.slates)
        rows = measure(session, bundle.manifest.exits, slates, rules)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title=f"{len(slates)} slates, one thread", title_justify="left")
    for column in ("", "processor ms", "layers", "of a fixed depth's time", "prefix's share"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["way"], f"{row['ms']:.1f}", f"{row['layers']:.2f}", f"{row['of_fixed_depth']:.3f}", f"{row['prefix_share']:.2f}"
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
