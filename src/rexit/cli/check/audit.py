"""`rexit audit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.named import parse_columns
from rexit.cli.common.options import JsonOption, VariantOption, open_bundle
from rexit.cli.common.output import print_json, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import BundleError, InputError

if TYPE_CHECKING:
    from rexit.audit.betting import Tail
    from rexit.audit.log import AuditedSlate
    from rexit.audit.state import Watch
    from rexit.bundle import Bundle, Id
    from rexit.calibration.metrics import Metric
    from rexit.calibration.outcomes import Labelled, LabelledMetric

_TRUE, _FALSE = ("1", "true"), ("0", "false")


def audit(
    bundle: Annotated[Path, typer.Argument(help="The bundle that was served.")],
    log: Annotated[Path, typer.Argument(help="Audited slates, from `rexit serve --audit-log`.")],
    outcomes: Annotated[
        Path | None, typer.Option(help="What users did: a .csv, .tsv or .parquet file with a row for each user and item.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column's name, as ROLE=NAME: user (user_id), item (item_id), or liked: 1 or 0. Default: every row "
            "is a like, and the other candidates of its user are not."
        ),
    ] = None,
    variant: VariantOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what the policy loses in use.

    Without labels: whether the mean loss of the audited slates can be within its limit. With --outcomes, labels that arrived
    later: NDCG, AUC and calibration of the policy's answers beside full depth's, and the test of the certified limit. Runs no
    model. The exit code does not depend on the result.

    ```
    rexit serve bundle --audit 0.01 --audit-log audit.jsonl
    rexit audit bundle audit.jsonl --outcomes clicks.parquet
    ```

    Outcomes of slates that were not audited are counted and left out. An outcome of an unknown user, or two of the same user and
    item, are refused.
    """
    from rexit.audit import Watch, read_limits, read_log

    opened = open_bundle(bundle, variant)
    watch = Watch(read_limits(opened))
    slates = [slate for slate in read_log(log) if slate.policy_sha256 == watch.limits.sha256]
    if not slates:
        raise InputError(f"{log}: has no slate that the bundle's policy answered, expected the log of this bundle's service")
    watch.add_all(slates)
    labelled: Labelled | None = None
    if outcomes is not None:
        named = {"user": "user_id", "item": "item_id", **parse_columns(column, ("user", "item", "liked"))}
        labelled = _label(opened, slates, outcomes, (named["user"], named["item"], named.get("liked")))
    if json:
        print_json({**watch.to_json(), "outcomes": None if labelled is None else labelled.to_json()})
        return
    _print_watch(watch)
    if labelled is not None:
        _print_labelled(labelled)


def _label(bundle: Bundle, slates: Sequence[AuditedSlate], path: Path, columns: tuple[str, str, str | None]) -> Labelled:
    from rexit.calibration.outcomes import label

    metrics, limits, tail = _metrics(bundle)
    table = _read_outcomes(bundle, slates, path, columns)
    try:
        policy = bundle.policy()
        shift = 0.0 if policy is None else policy.prior_shift
        return label(slates, table, columns[2] is None, metrics, limits, shift, tail)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc


def _metrics(bundle: Bundle) -> tuple[list[Metric], dict[str, float], Tail | None]:
    """The metrics of the table, and the limits and the tail that were certified."""
    from rexit.audit.betting import Tail
    from rexit.audit.limits import REPORT_FILE
    from rexit.bundle.files import read_json
    from rexit.calibration.metrics import parse

    path = bundle.folder / REPORT_FILE
    settings: Any = read_json(path).get("settings")
    try:
        certified = [str(name) for name in settings["metrics"]]
        limit = float(settings["max_drop"])
        tail = None if settings.get("tail") is None else Tail.parse(settings["tail"])
        metrics = [parse(name) for name in dict.fromkeys([*certified, "ndcg@10", "user-auc", "auc"])]
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BundleError(f"{path}: its `settings` name no metrics and max_drop: calibrate again") from exc
    return metrics, dict.fromkeys(certified, limit), tail


def _read_outcomes(
    bundle: Bundle, slates: Sequence[AuditedSlate], path: Path, columns: tuple[str, str, str | None]
) -> dict[tuple[Id, Id], bool]:
    from rexit.batch.pairs import ColumnNames, PairFiles, user_or_item

    if not bundle.has_catalog:
        raise InputError(f"{path}: the bundle has no catalog, so audited slates have no users to join outcomes to")
    user_column, item_column, liked_column = columns
    files = PairFiles.find(path, ColumnNames(user_column, item_column), ())
    if liked_column is not None and liked_column not in files.header:
        raise InputError(f"{path}: no column {liked_column!r} (--column liked=NAME), it has: {', '.join(files.header)}")
    catalog = bundle.catalog
    kinds = catalog.info["ids"]
    known = {slate.user for slate in slates}
    of_user, of_item = user_or_item(kinds["user"], "user"), user_or_item(kinds["item"], "item")
    outcomes: dict[tuple[Id, Id], bool] = {}
    for batch in files.batches():
        users, items = batch.read(user_column, of_user), batch.read(item_column, of_item)
        verdicts = [True] * len(users) if liked_column is None else batch.read(liked_column, _verdict)
        for n, (user, item, verdict) in enumerate(zip(users, items, verdicts, strict=True), batch.before + 1):
            if user not in known and catalog.users.row(user) is None:
                raise InputError(f"{batch.path}: row {n}: user {user!r} is unknown, expected one of the catalog or of the log")
            if (user, item) in outcomes:
                raise InputError(
                    f"{batch.path}: row {n}: user {user!r} and item {item!r} appear twice, expected one outcome each"
                )
            outcomes[user, item] = verdict
    return outcomes


def _verdict(value: Any) -> bool:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise InputError(f"liked is {value!r}, expected 1 or 0")
    return text in _TRUE


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


def _tail(metric: LabelledMetric) -> dict[str, object]:
    share, capital = metric.tail or (None, None)
    return {
        "lose too much": "-" if share is None else f"{100 * share:.1f} %",
        "capital of that": "-" if capital is None else capital,
    }


def _print_labelled(labelled: Labelled) -> None:
    """Prints what outcomes say of the policy's answers and of full depth's."""
    total, used = labelled.outcomes
    print_table(
        f"By {used:,} of {total:,} outcomes, of {labelled.users:,} users",
        [
            {
                "metric": metric.name,
                "users": metric.users,
                "policy": metric.policy,
                "full depth": metric.full,
                "drop": metric.drop,
                "limit": "-" if metric.limit is None else metric.limit,
                "capital": "-" if metric.capital is None else metric.capital,
                **(_tail(metric) if any(other.tail for other in labelled.metrics) else {}),
                "alarm": "-" if metric.limit is None else "yes" if metric.alarm else "no",
            }
            for metric in labelled.metrics
        ],
    )
    print_table(
        f"Probabilities of {labelled.pairs:,} candidates",
        [
            {
                "answer": answer.name,
                "log loss": answer.log_loss,
                "calibration error": answer.reliability.ece[0],
                "predicted / observed": "-" if (ratio := answer.reliability.ratio) is None else ratio[0],
            }
            for answer in labelled.probabilities
        ],
    )
    if any(metric.alarm for metric in labelled.metrics):
        stdout.print("Calibrate again: the certified limit no longer holds for these users.")
