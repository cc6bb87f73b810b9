"""`rexit audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.options import JsonOption, VariantOption, open_bundle
from rexit.cli.common.output import print_json, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.audit.state import Watch


def audit(
    bundle: Annotated[Path, typer.Argument(help="The bundle that was served.")],
    log: Annotated[Path, typer.Argument(help="Audited slates, from `rexit serve --audit-log`.")],
    variant: VariantOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what the policy loses in use: whether the mean loss of the audited slates can be within its limit. Needs no labels and
    runs no model. The exit code does not depend on the result.

    ```
    rexit serve bundle --audit 0.01 --audit-log audit.jsonl
    rexit audit bundle audit.jsonl
    ```
    """
    from rexit.audit import Watch, read_limits, read_log

    watch = Watch(read_limits(open_bundle(bundle, variant)))
    slates = [slate for slate in read_log(log) if slate.policy_sha256 == watch.limits.sha256]
    if not slates:
        raise InputError(f"{log}: has no slate that the bundle's policy answered, expected the log of this bundle's service")
    watch.add_all(slates)
    if json:
        print_json(watch.to_json())
    else:
        _print_watch(watch)


def _print_watch(watch: Watch) -> None:
    """Prints the test, and what to do."""
    print_table(
        f"Audited: loss of {watch.limits.loss.title} against full depth",
        [
            {
                "slates": watch.slates,
                "users": watch.test.capital.count,
                "mean loss": "-" if watch.test.mean is None else watch.test.mean,
                "as calibrated": watch.limits.mean,
                "limit": watch.limits.limit,
                "capital": watch.test.capital.value,
                "alarm": f"after {watch.test.capital.alarm_at} users" if watch.alarm else "no",
            }
        ],
    )
    if watch.alarm:
        stdout.print(
            "Calibrate again, on recent interactions: the mean loss is above its limit, unless a chance of 5 % came true."
        )
    else:
        stdout.print(f"Keep the policy: {watch.conclusion}.")
