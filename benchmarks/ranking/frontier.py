"""Does a dynamic policy rank better than every fixed depth of its cost? Policies from careful to cheap, on the test split.

    rexit calibrate BUNDLE --catalog CATALOG --metric ndcg@10 --top-k 10 --slate 100
    python benchmarks/ranking/frontier.py CATALOG BUNDLE … [--variant cpu-fp32] [--slate 100] [--top-k 10]

Rules
1. A policy is the cheapest that is expected to lose no more than one of DROPS, chosen on a third of the validation split's users
   from the traces that `rexit calibrate` left. It need not be certified.
2. The test split judges all of them; no policy is chosen by it.
3. A policy's rival is the fixed depth that is hardest to beat: of those that cost no more, the best on test.
4. Several bundles are seeds of one training: a row is the mean over them, for one expected drop.
5. Differences are paired, with 95 % intervals over users. Costs are the cost model's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from judgement import Judgement, Measured, mean
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from rexit.calibration import maps, metrics
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.goal import CalibrationOptions, Goal
from rexit.calibration.policies import explored, policy_of
from rexit.calibration.traces import TRACES_FILE, Recording, Traces, join, split_users
from rexit.data.slates import AnySlate, cut, spread_users
from rexit.data.slates_file import SlatesFile
from rexit.errors import script
from rexit.format.bundle import Bundle, Catalog
from rexit.upkeep.measure import depth_name

DROPS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02)
METRIC = "ndcg@10"
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Point:
    """A way to stop: mean layers of the test pairs, share of full depth's cost, and the judged ranking."""

    layers: float
    cost: float
    judged: Measured


@dataclass(frozen=True)
class Seed:
    """Ways to stop, of one seed. fixed: by depth in layers, without the last; policies: by allowed expected drop."""

    full: Point
    fixed: dict[int, Point]
    policies: dict[float, Point]


def recorded(source: Catalog | SlatesFile, bundle: Bundle, slate: int, max_slates: int) -> tuple[Recording, dict[str, Traces]]:
    """Returns what the last `rexit calibrate` recorded of the bundle's variant, and the traces of each split."""
    slates: dict[str, list[AnySlate]] = {name: spread_users(cut(source, name, slate), max_slates) for name in SPLITS}
    made_of = {
        "variant_sha256": bundle.variant_sha256,
        "slates_sha256" if isinstance(source, SlatesFile) else "catalog_sha256": source.sha256,
        "slate": slate,
        "max_slates": max_slates,
    }
    pairs = {name: sum(len(entry.items) for entry in part) for name, part in slates.items()}
    record = Recording.read(bundle.folder / TRACES_FILE, len(bundle.exits), made_of, pairs)
    return record, {name: join(part, record.log_odds[name], name) for name, part in slates.items()}


def seed(catalog: Catalog, bundle: Bundle, slate: int, top_k: int | None, max_slates: int) -> Seed:
    """Returns the ways to stop of one bundle."""
    record, traces = recorded(catalog, bundle, slate, max_slates)
    depths = bundle.exits
    costs = record.profile.costs(record.prefix_tokens, record.candidate_tokens, bundle.variant.max_tokens)
    test = traces["test"]
    goal = Goal((metrics.parse(METRIC),), max(DROPS), top_k=top_k)
    choosers = split_users(traces["validation"])[0]
    choice = maps.choose(maps.OWN, choosers, goal.metrics)
    search = explored(Evaluation(choosers, choice.c, depths, costs, goal.metrics), choice.maps, goal)
    rules = {drop: trial.rule for drop, trial in search.trade_off(DROPS).items()}
    chosen = {drop: policy_of(choice.maps, bundle.variant_sha256, rule) for drop, rule in rules.items()}
    evaluation = Evaluation(test, maps.apply(choice.maps, test.log_odds), depths, costs, goal.metrics)
    judgement = Judgement(test.users, test.liked)
    full_us = evaluation.cost_us(np.full(len(test), len(depths) - 1))

    def point(stops: NDArray[np.int64]) -> Point:
        return Point(evaluation.mean_layers(stops), evaluation.cost_us(stops) / full_us, judgement.of(evaluation.score(stops)))

    policies = {drop: point(policy.stops(test.log_odds, test.offsets)) for drop, policy in chosen.items()}
    fixed = {layers: point(np.full(len(test), k)) for k, layers in enumerate(depths)}
    return Seed(fixed.pop(depths[-1]), fixed, policies)


def average(points: Sequence[Point]) -> Point:
    return Point(
        float(np.mean([p.layers for p in points])), float(np.mean([p.cost for p in points])), mean([p.judged for p in points])
    )


def over_seeds(seeds: Sequence[Seed]) -> Seed:
    """Returns the mean over seeds, for the expected drops that every seed has a policy for."""
    budgets = [b for b in seeds[0].policies if all(b in run.policies for run in seeds)]
    return Seed(
        average([run.full for run in seeds]),
        {layers: average([run.fixed[layers] for run in seeds]) for layers in seeds[0].fixed},
        {b: average([run.policies[b] for run in seeds]) for b in budgets},
    )


def rival(policy: Point, fixed: dict[int, Point]) -> int | None:
    """Returns the depth of rule 3; None if none is as cheap."""
    values = {layers: point.judged.interval()[METRIC][0] for layers, point in fixed.items() if point.cost <= policy.cost}
    return max(values, key=values.__getitem__, default=None)


def table(seeds: Seed) -> Table:
    """Returns the table of the mean over seeds."""
    markdown = Table("", "layers", "cost", "NDCG@10", "best fixed depth of no more cost: layers", "less that", box=MARKDOWN)

    def row(name: str, point: Point, value: str, rival_layers: str = "", gain: str = "") -> None:
        markdown.add_row(name, f"{point.layers:.1f}", f"{point.cost:.3f}", value, rival_layers, gain)

    def change(point: Point, other: Point) -> str:
        return "{:+.4f} ({:+.4f} to {:+.4f})".format(*point.judged.minus(other.judged).interval()[METRIC])

    full, fixed = seeds.full, seeds.fixed
    row("full depth", full, "{:.4f} ({:.4f} to {:.4f})".format(*full.judged.interval()[METRIC]))
    for layers, point in reversed(fixed.items()):
        row(f"{depth_name(layers)} for all", point, change(point, full))
    for budget, point in seeds.policies.items():
        best = rival(point, fixed)
        gain = "" if best is None else change(point, fixed[best])
        row(f"policy, {budget:g} expected", point, change(point, full), str(best or ""), gain)
    return markdown


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--slate", type=int, default=100, help="as the calibration had it (100)")
    parser.add_argument("--top-k", type=int, default=10, help="as the calibration had it (10)")
    parser.add_argument("--max-slates", type=int, default=CalibrationOptions.max_slates, help="as the calibration had it (5000)")
    args = parser.parse_args()
    catalog = Catalog.open(args.catalog)
    seeds = [seed(catalog, Bundle.open(path, args.variant), args.slate, args.top_k, args.max_slates) for path in args.bundles]
    Console(width=160).print(table(over_seeds(seeds)))


if __name__ == "__main__":
    main()
