"""`rexit audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.doors.cli.common.arguments import JsonOption, VariantOption, open_bundle
from rexit.doors.cli.common.output import print_json, print_table, stdout

if TYPE_CHECKING:
    from rexit.upkeep.audit import Watch


def audit(
    bundle: Annotated[Path, typer.Argument(help="The bundle that was served.")],
    log: Annotated[Path, typer.Argument(help="Audits, from `rexit serve --audit-log`.")],
    variant: VariantOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what the policy loses in use: whether the mean loss of the audits can be within its limit. Needs no labels and
    runs no model. The exit code does not depend on the result.

    ```
    rexit serve bundle --audit 0.01 --audit-log audit.jsonl
    rexit audit bundle audit.jsonl
    ```
    """
    from rexit.upkeep.audit import Watch

    watch = Watch.of(open_bundle(bundle, variant))
    watch.add_log(log)
    if json:
        print_json(watch.to_json())
    else:
        _print_watch(watch)


def _print_watch(watch: Watch) -> None:
    """Prints the test, and what to do."""
    test, limits = watch.test, watch.limits
    row = {
        "requests": watch.slates,
        "users": test.capital.count,
        "mean loss": "-" if test.mean is None else test.mean,
        "as calibrated": limits.mean,
        "limit": limits.limit,
        "capital": test.capital.value,
    }
    if limits.tail is not None and test.of_tail is not None:
        row |= {f"lose over {limits.tail.loss:g}": test.share, "limit ": limits.tail.share, "capital ": test.of_tail.value}
    row["alarm"] = f"after {test.alarm_at} users" if watch.alarm else f"no, from {test.alarm_capital:g} on"
    print_table(f"Audited: loss of {limits.measure.title} against full depth", [row])
    advice = "Calibrate again, on recent interactions" if watch.alarm else "Keep the policy"
    stdout.print(f"{advice}: {watch.conclusion}.")
