"""What do labels add to a certificate, and could logs take their place? Losses with and without labels, of the same policies.

    rexit calibrate BUNDLE --catalog CATALOG --metric ndcg@10 --top-k 10 --slate 100
    python benchmarks/ranking/few_labels.py CATALOG BUNDLE [--variant cpu-fp32] [--slate 100] [--top-k 10]

Rules
1. Policies are those that `rexit calibrate` tests for NDCG@10 with a drop of 0.01, from the traces it left.
2. Of the certifying users with likes and dislikes: L is what a user loses of NDCG@10 by labels, G by full depth's probabilities.
3. A control variate (prediction-powered inference) with any number of users without labels leaves at least the share
   1 - corr(L, G)^2 of L's variance, and so at least that share of the labelled users.
4. `same first ten`: users of whom a label changes nothing, since the first ten are full depth's, in its order.
5. Users needed are those of `certify.users_needed` for a drop of 0.01: of NDCG@10 by labels, and of expected NDCG@10.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from frontier import recorded
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from rexit.bundle import Bundle, Catalog
from rexit.calibration import certify, decide
from rexit.calibration.candidates import score_of
from rexit.calibration.choose import platt
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.options import CalibrationOptions
from rexit.calibration.record.traces import split_users
from rexit.process.scripts import script
from rexit.ranking import ByGain, probabilities

LABELS, EXPECTED, LIMIT = parse("ndcg@10"), parse("expected-ndcg@10"), 0.01


def rows(catalog: Catalog, bundle: Bundle, slate: int, top_k: int, max_slates: int) -> list[list[str]]:
    """Returns a row of cells for each policy."""
    record, traces = recorded(catalog, bundle, slate, max_slates)
    costs = record.profile.costs(record.prefix_tokens, record.candidate_tokens, bundle.variant.max_tokens)
    depths, goal = bundle.manifest.exits, Goal((LABELS,), LIMIT, 0.95, top_k)
    digest = bundle.variant_sha256
    decision = decide.decide(
        validation=traces["validation"], test=traces["test"], costs=costs, depths=depths, variant_sha256=digest, goal=goal
    )
    certifiers, own = split_users(traces["validation"])[1], decision.choice.own
    evaluation = Evaluation(
        certifiers,
        platt.apply(decision.choice.maps, certifiers.log_odds),
        depths,
        costs,
        goal.metrics,
        platt.apply(own, certifiers.log_odds)[:, -1],
    )
    judge: Judge = evaluation.judge
    by_gain = ByGain(certifiers.users, probabilities(evaluation.full))
    table, full_us = [], evaluation.cost_us(np.full(len(certifiers), len(depths) - 1))
    for candidate in decision.candidates:
        score = score_of(evaluation, candidate.policy)
        by_labels = judge.per_user(LABELS, evaluation.full) - judge.per_user(LABELS, score)
        valued = np.isfinite(by_labels)
        losses, expected = by_labels[valued], 1 - by_gain.ndcg(score, LABELS.k)[valued]
        correlation = float(np.corrcoef(losses, expected)[0, 1])
        needed = [
            certify.users_needed(values, metric.bounds or (0, 1), LIMIT, goal.error)
            for values, metric in ((losses, LABELS), (judge.losses(EXPECTED, score), EXPECTED))
        ]
        table.append(
            [
                f"{candidate.budget:g}",
                f"{1 - evaluation.cost_us(candidate.policy.stops(certifiers.log_odds, certifiers.offsets)) / full_us:.2f}",
                f"{len(losses)}",
                f"{losses.mean():+.4f} ({losses.std():.3f})",
                f"{expected.mean():.4f} ({expected.std():.3f})",
                f"{correlation:.2f}",
                f"{1 - correlation**2:.2f}",
                f"{np.mean(expected <= certify.ROUNDING):.2f}",
                *(f"{float(f'{users:.2g}'):,.0f}" for users in needed),
            ]
        )
    return table


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--slate", type=int, default=100, help="as the calibration had it (100)")
    parser.add_argument("--top-k", type=int, default=10, help="as the calibration had it (10)")
    parser.add_argument("--max-slates", type=int, default=CalibrationOptions.max_slates, help="as the calibration had it (5000)")
    args = parser.parse_args()
    heads = ("expected drop", "saves", "users", "L: mean (sd)", "G: mean (sd)", "corr", "variance left", "same first ten")
    table = Table(*heads, "users needed, labels", "users needed, expected", box=MARKDOWN)
    for row in rows(Catalog.open(args.catalog), Bundle.open(args.bundle, args.variant), args.slate, args.top_k, args.max_slates):
        table.add_row(*row)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
