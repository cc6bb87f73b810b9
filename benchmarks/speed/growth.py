"""How a slate's cost grows with candidates and depth: one variant, 1 to 500 candidates, each of the six exits forced.

    python benchmarks/speed/growth.py [--plot PICTURE] [--json]

The bundle of benchmarks/speed/slate.py: prefix 200, candidates of 12 tokens, cold. Every round times each number of candidates at
each depth once; medians over rounds. For each depth a line `fixed + each * candidates` is fitted by least squares on relative
errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from slate import LENGTHS, bundle_of
from workload import CANDIDATE, SIX_EXITS

import rexit
from rexit.measure.machine import machine
from rexit.scripts import script

CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def measure(bundle: Path, variant: str, rounds: int, threads: int) -> NDArray[np.float64]:
    """Milliseconds, float64 [numbers of candidates, exits]: medians over rounds."""
    random = np.random.default_rng(2)
    users = range(0, LENGTHS.users, len(LENGTHS.prefixes))
    microseconds = np.zeros((rounds, len(CANDIDATES), len(SIX_EXITS)))
    with rexit.open(bundle, variant, threads=threads) as session:
        session.warm_up()
        for r in range(rounds):
            print(f"round {r + 1} of {rounds}", file=sys.stderr)
            for i in random.permutation(len(CANDIDATES)):
                items = random.choice(LENGTHS.items, CANDIDATES[i], replace=False).tolist()
                for k in random.permutation(len(SIX_EXITS)):
                    session.clear_cache()
                    stats = session.score(int(random.choice(users)), items, force_exit=int(k)).stats
                    microseconds[r, i, k] = stats.total_us / 1000
    return np.median(microseconds, axis=0)


def lines(milliseconds: NDArray[np.float64], candidates: Sequence[int]) -> list[dict[str, float]]:
    """For each exit: milliseconds of a slate apart from its candidates, of each candidate, and the largest relative distance of a
    measurement from that line."""
    fits = []
    for column in milliseconds.T:
        system = np.stack([np.ones(len(candidates)), np.array(candidates, float)], axis=1) / column[:, None]
        fixed, per_candidate = np.linalg.lstsq(system, np.ones(len(candidates)), rcond=None)[0].tolist()
        error = float(np.abs((fixed + per_candidate * np.array(candidates)) / column - 1).max())
        fits.append({"fixed_ms": fixed, "candidate_ms": per_candidate, "max_error": error})
    return fits


def plot(milliseconds: NDArray[np.float64], fitted: Sequence[dict[str, float]], variant: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_count, by_depth) = pyplot.subplots(1, 2, figsize=(9, 3.6), dpi=90, layout="constrained")
    colours = pyplot.get_cmap("viridis")(np.linspace(0, 0.85, len(SIX_EXITS)))
    for k, depth in enumerate(SIX_EXITS):
        by_count.plot(CANDIDATES, milliseconds[:, k], "o", markersize=4, color=colours[k], label=f"{depth} layers")
        line = fitted[k]["fixed_ms"] + fitted[k]["candidate_ms"] * np.array(CANDIDATES)
        by_count.plot(CANDIDATES, line, "-", linewidth=1, color=colours[k])
    by_count.set(
        xlabel="candidates", ylabel="ms per slate", title=f"{variant}: growth with candidates", xscale="log", yscale="log"
    )
    by_count.legend(fontsize=7)
    shown = (1, 20, 100, 500)
    for colour, count in zip(pyplot.get_cmap("plasma")(np.linspace(0, 0.8, len(shown))), shown, strict=True):
        row = milliseconds[CANDIDATES.index(count)]
        by_depth.plot(SIX_EXITS, row / row[-1], "o-", markersize=4, linewidth=1, color=colour, label=f"{count} candidates")
    by_depth.plot([0, SIX_EXITS[-1]], [0, 1], ":", color="grey", linewidth=1, label="proportional")
    by_depth.set(xlabel="layers run", ylabel="share of full depth", title="growth with depth", xlim=(0, 31), ylim=(0, 1.05))
    by_depth.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/slate"))
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    milliseconds = measure(bundle_of(args.peers / "model", args.work), args.variant, args.rounds, args.threads)
    fitted = lines(milliseconds, CANDIDATES)
    if args.plot:
        plot(milliseconds, fitted, args.variant, args.plot)
    result: dict[str, Any] = {
        "variant": args.variant,
        "rounds": args.rounds,
        "threads": args.threads,
        "candidate_tokens": CANDIDATE,
        "exits": list(SIX_EXITS),
        "candidates": list(CANDIDATES),
        "milliseconds": milliseconds.tolist(),
        "lines": fitted,
        "machine": machine(),
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    table = Table(box=MARKDOWN, title=f"{args.variant}: ms per slate, prefix 200, cold", title_justify="left")
    for column in ("candidates", *(f"{depth} layers" for depth in SIX_EXITS)):
        table.add_column(column, justify="right")
    for count, row in zip(CANDIDATES, milliseconds, strict=True):
        table.add_row(str(count), *(f"{value:.1f}" for value in row))
    for key, digits in (("fixed_ms", 1), ("candidate_ms", 2), ("max_error", 2)):
        table.add_row(key, *(f"{line[key]:.{digits}f}" for line in fitted))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
