"""Files of scored pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexit.cli.common.output import stderr, stdout
from rexit.errors import InputError
from rexit.ids import first_few

if TYPE_CHECKING:
    from rexit.batch import Report
    from rexit.batch.work import Plan
    from rexit.times import Timeline

WITHOUT_HISTORY = "scored without any history"


def print_plan(plan: Plan, resumed: int, timeline: Timeline) -> None:
    """Says what a reader of the scores should know of the pairs. resumed: pairs that an earlier run has scored."""
    if resumed:
        stderr.print(f"rexit: an earlier run scored {resumed} of {plan.rows} pairs; this run continues", soft_wrap=True)
    if plan.unknown:
        stderr.print(
            f"rexit: {len(plan.unknown)} of {plan.users} users are not in the catalog and are {WITHOUT_HISTORY}: "
            f"{first_few(plan.unknown)}",
            soft_wrap=True,
        )
    for count, where, means in (
        (plan.early, f"not after the catalog's first interaction, {timeline.text(timeline.first)}", "none is visible to them"),
        (plan.late, f"after the catalog's last interaction, {timeline.text(timeline.last)}", "all are visible to them"),
    ):
        if count:
            stderr.print(f"rexit: {count} of {plan.rows} pairs are as of a time {where}: {means}", soft_wrap=True)


def print_stored(folder: Path, pairs: int) -> None:
    """Says what an interrupted run keeps."""
    stderr.print(f"rexit: {folder} has the {pairs} pairs scored so far; the same command continues from there", soft_wrap=True)


def print_report(report: Report, out: Path) -> None:
    """Prints what became of the pairs."""
    if not report.rows:
        return
    stdout.print(
        f"Scored {report.slates - len(report.too_long)} of {report.slates} slates ({report.pairs} pairs) "
        f"in {report.seconds:.1f} s: {report.mean_layers:.2f} layers on average. "
        f"Wrote {report.rows} rows to {out}",
        soft_wrap=True,
    )


def report_to_json(report: Report, variant: str, out: Path) -> dict[str, Any]:
    """Returns what became of the pairs, for --json."""
    too_long = [{"user": slate.user, "as_of": slate.as_of, "reason": slate.reason} for slate in report.too_long]
    return {**report.__dict__, "too_long": too_long, "variant": variant, "out": str(out) if report.rows else None}


def check_answers(report: Report, out: Path) -> None:
    """Raises InputError for slates without an answer: one line for all."""
    if not report.too_long:
        return
    names = first_few(
        report.too_long,
        lambda slate: f"user {slate.user!r}{'' if slate.as_of is None else f' at {slate.as_of}'}: {slate.reason}",
        3,
    )
    rest = f"{out} has the others" if report.rows else "nothing was written"
    raise InputError(f"{len(report.too_long)} of {report.slates} slates have no answer, {rest}: {names}")
