"""What the rules for whole slates are worth: the cheapest policy with thresholds alone, with a quorum, with top-k, with both.

    python benchmarks/speed/slate_rules.py BUNDLE CATALOG [--top-k 5] [--slate 20] [--json]

On the traces and costs that the last `rexit calibrate` kept, on the users that choose: the share of full depth's cost that the
cheapest policy takes whose metrics are expected to drop by no more than a budget, and its mean layers. By the cost model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rexit.bundle import Bundle, Catalog
from rexit.calibration import metrics
from rexit.calibration.choose import platt
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.choose.search import QUORUMS, Search, Space
from rexit.calibration.decide import Goal, top_k_rules
from rexit.calibration.record.recording import FILE, Recording
from rexit.calibration.record.traces import join, split_users
from rexit.scripts import script
from rexit.slates import SIZE, cut

BUDGETS = (0.0025, 0.005, 0.01)


def measure(bundle: Bundle, catalog: Catalog, slate: int, top_k: int) -> list[dict[str, Any]]:
    slates = {name: cut(catalog, name, slate) for name in ("validation", "test")}
    pairs = {name: sum(len(entry.items) for entry in part) for name, part in slates.items()}
    exits = bundle.manifest.exits
    made_of = {"variant_sha256": bundle.variant_sha256, "slate": slate}
    recorded = Recording.read(bundle.folder / FILE, len(exits), made_of, pairs)
    costs = recorded.profile.costs(recorded.prefix_tokens, recorded.candidate_tokens, bundle.variant.max_tokens)
    chooses, _ = split_users(join(slates["validation"], recorded.log_odds["validation"], "validation"))
    c = platt.cross_fit(chooses.log_odds, chooses.liked, chooses.users)
    useful = [entry.useful for entry in platt.fit_all(chooses.log_odds, chooses.liked)]
    rows = []
    for names in (("ndcg@10", "user-auc"), (f"ndcg@{top_k}", f"top-k-overlap@{top_k}")):
        goal = Goal(tuple(map(metrics.parse, names)), top_k=top_k)
        evaluation = Evaluation(chooses, c, exits, costs, goal.metrics)
        tops = top_k_rules(c, chooses, goal)
        for rules, space in {
            "thresholds": Space(c, useful, quorums=(0.0,)),
            "and quorum": Space(c, useful, quorums=QUORUMS),
            "and top-k": Space(c, useful, tops, (0.0,)),
            "and both": Space(c, useful, tops, QUORUMS),
        }.items():
            search = Search(evaluation, space)
            search.explore()
            for budget, policies in search.trade_off(BUDGETS).items():
                cost = policies.outcome.cost_us / search.full.outcome.cost_us
                rows.append(
                    {"metrics": names, "rules": rules, "budget": budget, "cost": cost, "layers": policies.outcome.mean_layers}
                )
    return rows


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--slate", type=int, default=SIZE)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(Bundle.open(args.bundle, args.variant), Catalog.open(args.catalog), args.slate, args.top_k)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="Cost of full depth = 1, and mean layers", title_justify="left")
    for column in ("metrics", "rules", *(f"drop {budget:g}" for budget in BUDGETS)):
        table.add_column(column)
    for n in range(0, len(rows), len(BUDGETS)):
        cells = [f"{row['cost']:.3f}, {row['layers']:.1f}" for row in rows[n : n + len(BUDGETS)]]
        table.add_row(", ".join(rows[n]["metrics"]), rows[n]["rules"], *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
