"""What the split itself costs: six chained segments compared with one unsplit graph of the same model, in one process.

    python benchmarks/speed/chain.py --catalog build/demo/catalog [--requests 20] [--json]

The model has SmolLM2-135M's shape (30 layers, 576 wide) and random weights; the prompts are the catalog's own. Both bundles
are exported once into --work and reused. Both score every request at full depth, in turn, each with a cold prefix. The chain
also runs the five extra heads. Exits are left out, since their gain comes from the model and not from the split.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from workload import SIX_EXITS, checkpoint

import rexit
from rexit.bundle import Catalog
from rexit.scripts import script

EXITS = {"chain": list(SIX_EXITS), "unsplit": [30]}


def bundles(work: Path, catalog: Path) -> dict[str, Path]:
    """One bundle per way of splitting, exported unless it exists."""
    paths = {name: work / name for name in EXITS}
    for name, path in paths.items():
        if not (path / "manifest.json").exists():
            from rexit.exporter.export import export_bundle
            from rexit.exporter.options import ExportOptions

            print(f"exporting {path}", file=sys.stderr)
            export_bundle(
                checkpoint(work / "checkpoint"), catalog, path, ExportOptions(exits=EXITS[name], head="shared", golden_slates=1)
            )
    return paths


def measure(paths: dict[str, Path], catalog: Catalog, slate: int, requests: int) -> dict[str, object]:
    """Milliseconds per request for both, and their ratio request by request."""
    random = np.random.default_rng(0)
    users = [catalog.users.id(int(row)) for row in random.integers(len(catalog.users), size=requests + 1)]
    slates = [[catalog.items.id(int(r)) for r in random.choice(len(catalog.items), slate, replace=False)] for _ in users]
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(rexit.open(path)) for name, path in paths.items()}
        microseconds = {name: np.zeros(requests + 1) for name in sessions}
        retrieval = np.zeros(requests + 1)
        for n, (user, items) in enumerate(zip(users, slates, strict=True)):
            for name, session in sorted(sessions.items(), reverse=bool(n % 2)):
                session.clear_cache()
                stats = session.score(user, items, force_exit=len(EXITS[name]) - 1).stats
                microseconds[name][n] = stats.total_us / 1000
                retrieval[n] = stats.retrieval_us / stats.total_us
    ratio = microseconds["chain"][1:] / microseconds["unsplit"][1:]  # the first request warms up
    return {
        "slate": slate,
        "requests": requests,
        "chain_ms": float(np.median(microseconds["chain"][1:])),
        "unsplit_ms": float(np.median(microseconds["unsplit"][1:])),
        "ratios": {"chain_vs_unsplit": float(np.median(ratio))},
        "ratio_quartiles": np.percentile(ratio, [25, 75]).tolist(),
        "retrieval_share": float(np.median(retrieval[1:])),
    }


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, default=Path("build/demo/catalog"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/chain"))
    parser.add_argument("--slate", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(bundles(args.work, args.catalog), Catalog.open(args.catalog), args.slate, args.requests)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        Console(highlight=False).print("\n".join(f"{key:16} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
