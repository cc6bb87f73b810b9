"""What a prompt costs: the same slates of the test split, scored from bundles whose templates differ, in turn.

    python benchmarks/speed/prompt_costs.py CATALOG NAME=BUNDLE NAME=BUNDLE … [--variant cpu-int8] [--rounds 40] [--json]

The bundles hold users and items of the catalog, whose test split has the slates (`benchmarks/ranking/prompts.py` trains and keeps
what `rexit export` takes). A round asks every bundle for the same 20 candidates at full depth and under its own policy, with a
cold prefix; every second round in reverse order. Ratios are taken within a round: how many times as long a bundle takes as the
first one at full depth. Times hold retrieval and assembly too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import rexit
from rexit.bundle import Catalog
from rexit.measure.machine import machine
from rexit.scripts import script
from rexit.slates import SIZE, Slate, cut, draw

DEPTHS = ("full", "policy")
SEED = 1


def slates(catalog: Path, count: int) -> list[Slate]:
    """Random whole slates of the test split."""
    whole = [slate for slate in cut(Catalog.open(catalog), "test", SIZE) if len(slate.items) == SIZE]
    return draw(whole, count, SEED)


def measured(sampled_slates: list[Slate], bundles: dict[str, Path], variant: str, threads: int) -> dict[str, dict[str, Any]]:
    """By bundle: tokens of a slate, layers of a candidate and milliseconds of both depths, and the ratios' quartiles."""
    sessions = {name: rexit.open(path, variant, threads=threads) for name, path in bundles.items()}
    times = np.zeros((len(sampled_slates), len(bundles), len(DEPTHS)))
    tokens, layers = np.zeros(times.shape[:2]), np.zeros(times.shape[:2])
    for session in sessions.values():
        session.warm_up()
    for n, slate in enumerate(sampled_slates):
        for b, session in sorted(enumerate(sessions.values()), reverse=bool(n % 2)):
            prefix, candidates = session.prompt(
                slate.user, slate.items, as_of=slate.as_of, context=slate.context, request=slate.request
            )
            tokens[n, b] = len(prefix) + sum(map(len, candidates))
            for d, exit in enumerate((session.info.exits - 1, None)):
                session.clear_cache()
                start = time.perf_counter()
                scores = session.score(
                    slate.user, slate.items, as_of=slate.as_of, context=slate.context, request=slate.request, force_exit=exit
                )
                times[n, b, d] = 1000 * (time.perf_counter() - start)
            layers[n, b] = scores.stats.candidate_layers / SIZE
    ratios = times / times[:, :1, :1]
    return {
        name: {
            "tokens": float(np.median(tokens[:, b])),
            "policy_layers": float(layers[:, b].mean()),
            "milliseconds": dict(zip(DEPTHS, np.median(times[:, b], 0).tolist(), strict=True)),
            "ratio": dict(zip(DEPTHS, np.percentile(ratios[:, b], [50, 25, 75], axis=0).T.tolist(), strict=True)),
        }
        for b, name in enumerate(bundles)
    }


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("bundles", nargs="+", metavar="NAME=BUNDLE", help="the first is the reference for the others")
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundles = {name: Path(path) for name, _, path in (figure.partition("=") for figure in args.bundles)}
    if missing := [figure for figure in args.bundles if "=" not in figure]:
        parser.error(f"{missing[0]}: expected NAME=BUNDLE")
    results = measured(slates(args.catalog, args.rounds), bundles, args.variant, args.threads)
    if args.json:
        json.dump({"bundles": results, "threads": args.threads, "machine": machine()}, sys.stdout, indent=1)
        return
    overview = Table(box=MARKDOWN)
    for column in ("", "tokens a slate", "ms, full depth", "times the first's", "ms, policy", "times the first's", "layers"):
        overview.add_column(column, justify="right" if column else "left")
    for name, figure in results.items():
        cells = []
        for depth in DEPTHS:
            cells += [f"{figure['milliseconds'][depth]:.2f}", "{:.2f} ({:.2f}-{:.2f})".format(*figure["ratio"][depth])]
        overview.add_row(name, f"{figure['tokens']:.0f}", *cells, f"{figure['policy_layers']:.2f}")
    Console(width=150, highlight=False).print(overview)


if __name__ == "__main__":
    main()
