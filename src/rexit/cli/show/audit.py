"""What audited slates say, as `rexit audit` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.audit.state import Watch


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
        stdout.print("Keep the policy: nothing speaks against a mean loss within its limit.")
