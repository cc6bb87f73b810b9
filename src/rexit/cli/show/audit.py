"""Audited slates, and what users did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.audit.state import Watch
    from rexit.calibration.outcomes import Labelled


def print_audit(watch: Watch) -> None:
    """Prints a table of the rules that have answered, and what to do."""
    rules = zip(watch.limits.rules, watch.tests, strict=True)
    print_table(
        f"Audited: loss of {watch.limits.loss.title} against full depth",
        ["policy", "slates", "users", "mean loss", "as calibrated", "limit", "capital", "alarm"],
        [
            [
                "policy" if n == 0 else f"more careful {n}",
                test.slates,
                test.capital.count,
                "-" if test.mean is None else test.mean,
                rule.mean,
                rule.limit,
                test.capital.value,
                "no" if test.capital.alarm_at is None else f"after {test.capital.alarm_at} users",
            ]
            for n, (rule, test) in enumerate(rules)
            if n == 0 or test.slates
        ],
    )
    if watch.alarm:
        stdout.print(
            "Calibrate again, on recent interactions: the mean loss is above its limit, unless a chance of 5 % came true."
        )
    else:
        stdout.print(f"Keep the policy: {watch.conclusion}.", soft_wrap=True, markup=False)


def print_labelled(labelled: Labelled) -> None:
    """Prints what outcomes say of the policy's answers and of full depth's."""
    total, used = labelled.outcomes
    print_table(
        f"By {used:,} of {total:,} outcomes, of {labelled.users:,} users",
        ["metric", "users", "policy", "full depth", "drop", "limit", "capital", "alarm"],
        [
            [
                metric.name,
                metric.users,
                metric.policy,
                metric.full,
                metric.drop,
                "-" if metric.limit is None else metric.limit,
                "-" if metric.capital is None else metric.capital,
                "-" if metric.limit is None else "yes" if metric.alarm else "no",
            ]
            for metric in labelled.metrics
        ],
    )
    print_table(
        f"Probabilities of {labelled.pairs:,} candidates",
        ["answer", "log loss", "calibration error", "predicted / observed"],
        [
            [
                answer.name,
                answer.log_loss,
                answer.reliability.ece[0],
                "-" if (ratio := answer.reliability.ratio) is None else ratio[0],
            ]
            for answer in labelled.probabilities
        ],
    )
    if any(metric.alarm for metric in labelled.metrics):
        stdout.print("Calibrate again: the certified limit no longer holds for these users.")
