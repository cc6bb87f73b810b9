"""What a session's cached prefixes save: a start shared with another prefix, a history that has grown, a restart.

    python benchmarks/speed/prefixes.py --bundle build/demo/bundle --interactions 8 [--rounds 40] [--json]
    python benchmarks/speed/prefixes.py --checkpoint build/peers/model/checkpoint [--rounds 9] [--json]

With --checkpoint, a Hugging Face folder with a byte-level BPE, a float32 bundle is exported once into --work and reused: six
exits, a history of up to 64 titles of 12 tokens and nothing else in the prefix. An unknown user's interactions are told with the
request, slates have 20 candidates, and all run to the last exit. A round times every way once, every second round in reverse
order, on interactions and candidates of its own. Times are milliseconds without retrieval, ratios are taken within a round; both
are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from workload import CANDIDATE, SIX_EXITS, Words

import rexit
from rexit.bundle import Catalog
from rexit.runtime import Session, Stats
from rexit.scripts import script

STRANGER, SLATE = -1, 20
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)


def export(checkpoint: Path, work: Path) -> Path:
    """The bundle, exported unless it exists."""
    bundle = work / "bundle"
    if (bundle / "manifest.json").exists():
        return bundle
    from rexit.exporter.export import export_bundle
    from rexit.exporter.index import build_catalog
    from rexit.exporter.options import ExportOptions, IndexOptions, LightGCNOptions

    print(f"exporting {bundle}", file=sys.stderr)
    work.mkdir(parents=True, exist_ok=True)
    words, random = Words.of_checkpoint(checkpoint), np.random.default_rng(0)
    rows = [
        f"{user},{item},{random.integers(1, 6)},{n}" for user in range(40) for n, item in enumerate(random.permutation(200)[:20])
    ]
    titles = [f"{item},{words.joint.join(random.choice(list(words.words), CANDIDATE))}" for item in range(200)]
    (work / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    (work / "items.csv").write_text("\n".join(["item_id,title", *titles]))
    (work / "prompt.toml").write_text(
        'prompt = "{history.recent:64} {item.title}"\nentry = " {item.title}"\n'
        f'[labels]\nyes = "{words.yes}"\nno = "{words.no}"\n'
    )
    options = IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=1))
    build_catalog(
        work / "interactions.csv", work / "items.csv", words.tokenizer, work / "prompt.toml", work / "catalog", options=options
    )
    export_bundle(checkpoint, work / "catalog", bundle, ExportOptions(exits=list(SIX_EXITS), head="shared", golden_slates=1))
    return bundle


def spent(stats: Stats) -> float:
    """Milliseconds of a request, without retrieval."""
    return (stats.total_us - stats.retrieval_us) / 1000


class Bench:
    """Ways to come to a prefix, in one session."""

    def __init__(self, session: Session, items: list[Any], interactions: int) -> None:
        self.session, self.items, self.interactions = session, items, interactions
        self.random = np.random.default_rng(0)

    def ask(self, recent: list[Any], slate: list[Any]) -> Stats:
        return self.session.score(STRANGER, slate, recent=recent, force_exit=len(self.session.exits) - 1).stats

    def rounds(self, count: int, ways: Callable[[list[Any], list[Any]], Mapping[str, Callable[[], float]]]) -> dict[str, Any]:
        """Milliseconds of each way, and their ratios to the first. `ways` gets what histories are drawn from, and the slate."""
        microseconds: dict[str, list[float]] = {}
        for n in range(count + 1):
            sample = [self.items[i] for i in self.random.permutation(len(self.items))]
            calls = ways(sample[SLATE:], sample[:SLATE])
            for name in sorted(calls, key=list(calls).index, reverse=bool(n % 2)):
                self.session.clear_cache()
                microseconds.setdefault(name, []).append(calls[name]())
        times = {name: np.array(values[1:]) for name, values in microseconds.items()}  # the first round warms up
        first = next(iter(calls))
        return {
            name: {"ms": float(np.median(times[name])), "ratio": float(np.median(times[name] / times[first]))} for name in calls
        }

    def share(self, share: float, rounds: int) -> dict[str, Any]:
        """Computing a prefix of which so much is the start of a cached one, or none. Without the slate behind it."""
        n = self.interactions
        same = max(1, round(n * share))
        reused: list[float] = []

        def ways(sample: list[Any], slate: list[Any]) -> Mapping[str, Callable[[], float]]:
            other, recent = sample[:n], sample[:same] + sample[n : 2 * n - same]

            def behind() -> float:
                self.ask(other, slate[:1])
                stats = self.ask(recent, slate[:1])
                reused.append(stats.prefix_tokens_reused / stats.prefix_tokens)
                return stats.prefix_us / 1000

            return {"anew": lambda: self.ask(recent, slate[:1]).prefix_us / 1000, "reused": behind}

        return {**self.rounds(rounds, ways), "tokens reused": float(np.median(reused))}

    def grown(self, rounds: int) -> dict[str, Any]:
        """A user's slate: the first, one after a new interaction, and one after none."""
        n = self.interactions

        def ways(sample: list[Any], slate: list[Any]) -> Mapping[str, Callable[[], float]]:
            def after(recent: list[Any]) -> float:
                if recent:
                    self.ask(recent, slate)
                return spent(self.ask(sample[: n + 1], slate))

            return {"cold": lambda: after([]), "grown": lambda: after(sample[:n]), "unchanged": lambda: after(sample[: n + 1])}

        return self.rounds(rounds, ways)

    def restarted(self, rounds: int) -> dict[str, Any]:
        """The first slate of one of five users, cold, and behind prefixes loaded from a file; and what loading itself takes."""
        n = self.interactions
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache"
            sizes: list[int] = []
            load: list[float] = []

            def ways(sample: list[Any], slate: list[Any]) -> Mapping[str, Callable[[], float]]:
                histories = [[*sample[user * 3 :], *sample[: user * 3]][:n] for user in range(5)]
                for recent in histories:
                    self.ask(recent, slate)
                self.session.save_cache(path)
                sizes.append(path.stat().st_size)

                def loaded() -> float:
                    start = time.perf_counter()
                    self.session.load_cache(path)
                    load.append((time.perf_counter() - start) * 1000)
                    return spent(self.ask(histories[0], slate))

                return {"cold": lambda: spent(self.ask(histories[0], slate)), "loaded": loaded}

            result = self.rounds(rounds, ways)
        return {**result, "load_ms": float(np.median(load[1:])), "file_megabytes": float(np.median(sizes)) / 1e6}


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--bundle", type=Path)
    which.add_argument("--checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/bench/prefixes"))
    parser.add_argument("--variant")
    parser.add_argument("--interactions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    path = args.bundle or export(args.checkpoint, args.work)
    catalog = Catalog.open(path / "catalog")
    items = [catalog.items.id(row) for row in range(len(catalog.items))]
    with rexit.open(path, args.variant, cache_bytes=1 << 30) as session:
        bench = Bench(session, items, args.interactions)
        result: dict[str, Any] = {f"a share of {share:.4g}": bench.share(share, args.rounds) for share in SHARES}
        result |= {"the next slate": bench.grown(args.rounds), "after a restart": bench.restarted(args.rounds)}
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for name, rows in result.items():
        parts = [
            f"{way} {value['ms']:.2f} ms ({value['ratio']:.3f})" if isinstance(value, dict) else f"{way} {value:.3g}"
            for way, value in rows.items()
        ]
        Console(highlight=False, width=200).print(f"{name:18}", ", ".join(parts))


if __name__ == "__main__":
    main()
