"""`rexit score`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.as_of import AsOfOption, parse_as_of
from rexit.cli.common.named import ContextOption, RequestOption, parse_columns, parse_context, parse_request
from rexit.cli.common.options import JsonOption, RayWorkersOption, ThreadsOption, VariantOption
from rexit.cli.common.output import print_json, progress, shown, stderr, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError
from rexit.ids import first_few, parse_id, parse_ids, parse_recent

if TYPE_CHECKING:
    from rexit.batch import BatchOptions, Report
    from rexit.batch.work import Plan
    from rexit.bundle import Bundle
    from rexit.bundle.context import Value
    from rexit.bundle.request_text import Text
    from rexit.runtime import Scores
    from rexit.times import Timeline

WITHOUT_HISTORY = "scored without any history"

_slate = partial(typer.Option, rich_help_panel="One slate")
_files = partial(typer.Option, rich_help_panel="Files of pairs")


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, _slate(help="User id; an unknown user is placed by --recent.")] = None,
    items: Annotated[str | None, _slate(help="Item ids, separated by commas.")] = None,
    recent: Annotated[str, _slate(help="Newer interactions, oldest first: ITEM or ITEM:1 liked, ITEM:0 not.")] = "",
    pairs: Annotated[Path | None, _files(help="A .csv, .tsv or .parquet file, or a folder of one kind.")] = None,
    out: Annotated[Path | None, _files(help="The scored pairs: a .csv or .parquet file.")] = None,
    column: Annotated[
        list[str] | None,
        _files(help="ROLE=NAME: user, item, as_of, context.NAME, request.NAME."),
    ] = None,
    ray_workers: RayWorkersOption = None,
    as_of: AsOfOption = None,
    context: ContextOption = None,
    request: RequestOption = None,
    top_k: Annotated[int, typer.Option(help="Only the k best, best first. 0: all, as they come.")] = 0,
    variant: VariantOption = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Score candidates for one user, or files of pairs.

    ```
    rexit score bundle --user 196 --items 242,302,377
    rexit score bundle --pairs pairs.parquet --out scores.parquet
    ```

    OUT has all rows in their order, with `probability`, `log_odds` and `exit`; after a kill the same command continues.
    """
    from rexit.bundle import Bundle

    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; it cannot be combined with --user, --items or --recent")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        opened = Bundle.open(bundle, variant)
        values, texts = _said(opened, context, request)
        options = _batch_options(opened, pairs, out, column, parse_as_of(as_of, opened.catalog), values, texts, top_k)
        _score_pairs(opened, options, ray_workers, threads, json)
    elif user is not None and items is not None:
        for_pairs = {"--out": out, "--column": column or None, "--ray-workers": ray_workers}
        if ignored := [option for option, value in for_pairs.items() if value is not None]:
            raise InputError(f"{' and '.join(ignored)}: only for --pairs; one slate is scored here, and printed")
        opened = Bundle.open(bundle, variant)
        values, texts = _said(opened, context, request)
        time = parse_as_of(as_of, opened.catalog, warn=True)
        _score_user(opened, user, items, recent, time, values, texts, top_k, threads, json)
    else:
        raise InputError("expected --user and --items, or --pairs and --out")


def _said(bundle: Bundle, context: list[str] | None, request: list[str] | None) -> tuple[dict[str, Value], dict[str, Text]]:
    """The values of --context and of --request."""
    catalog = bundle.catalog
    return parse_context(context, catalog.contexts), parse_request(request, catalog.request_texts)


def _batch_options(
    bundle: Bundle,
    pairs: Path,
    out: Path,
    column: list[str] | None,
    as_of: int | None,
    context: Mapping[str, Value],
    request: Mapping[str, Text],
    top_k: int,
) -> BatchOptions:
    from rexit.batch import BatchOptions, ColumnNames

    contexts, texts = bundle.catalog.contexts.names, bundle.catalog.request_texts.names
    roles = ("user", "item", "as_of", *(f"context.{name}" for name in contexts), *(f"request.{name}" for name in texts))
    named = parse_columns(column, roles)
    columns = ColumnNames(
        **{role: named[role] for role in ("user", "item", "as_of") if role in named},
        context={name: named[f"context.{name}"] for name in contexts if f"context.{name}" in named},
        request={name: named[f"request.{name}"] for name in texts if f"request.{name}" in named},
    )
    return BatchOptions(pairs, out, columns, as_of, top_k, context, request)


def _score_user(
    bundle: Bundle,
    user: str,
    items: str,
    recent: str,
    as_of: int | None,
    context: Mapping[str, Value],
    request: Mapping[str, Text],
    top_k: int,
    threads: int,
    json: bool,
) -> None:
    """Scores one slate and prints it."""
    from rexit import runtime

    catalog, variant = bundle.catalog, bundle.variant
    kinds = catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    interactions = parse_recent(recent, kinds["item"])
    catalog.items.rows([*item_ids, *(item for item, _ in interactions)])
    with contextlib.closing(runtime.open(bundle.path, variant.name, threads=threads)) as session:
        scores = session.score(
            user_id, item_ids, recent=interactions or None, as_of=as_of, context=context, request=request, top_k=top_k
        )
    stats = scores.stats
    if not stats.known_user:
        means = "placed by --recent alone" if interactions else WITHOUT_HISTORY
        stderr.print(f"rexit: user {user_id!r} is not in the catalog: {means}", soft_wrap=True)
    if json:
        print_json({"user": user_id, "variant": variant.name, **scores.to_dict()})
        return
    _print_scores(f"User {user_id}, {variant.name}", scores)


def _print_scores(title: str, scores: Scores) -> None:
    stats = scores.stats
    print_table(
        title,
        ["item", "probability", "log-odds", "exit", "layers", *scores.objectives],
        [
            [
                score.item,
                f"{score.probability:.4f}",
                f"{score.log_odds:+.4f}",
                score.exit,
                score.layers,
                *(f"{value:.4f}" for value in (score.objectives or {}).values()),
            ]
            for score in scores
        ],
    )
    stdout.print(
        f"{stats.total_us / 1000:.1f} ms: retrieval {stats.retrieval_us / 1000:.2f}, "
        f"prefix {stats.prefix_us / 1000:.1f} ({stats.prefix_tokens} tokens), "
        f"slate {stats.slate_us / 1000:.1f} ({stats.candidate_tokens} tokens)"
    )


def _score_pairs(bundle: Bundle, options: BatchOptions, ray_workers: int | None, threads: int, json: bool) -> None:
    """Scores files of pairs."""
    from rexit.batch import score_files
    from rexit.batch.engine import Engine, Local, Opening

    engine: Engine = Local()
    if ray_workers is not None:
        from rexit.batch.ray_engine import OnRay

        engine = OnRay(ray_workers)
    opening = Opening(bundle, threads)

    def on_plan(plan: Plan, resumed: int) -> None:
        _say_plan(plan, resumed)
        if plan.early or plan.late:
            _say_outside(plan, bundle.catalog.timeline)

    with progress() as bar:
        report = score_files(opening, options, engine, shown(bar), on_plan, _say_stored)
    out = str(options.out) if report.rows else None
    if json:
        print_json(_json(report, bundle.variant.name, out))
    elif out is not None:
        stdout.print(
            f"Scored {report.slates - len(report.too_long)} of {report.slates} slates ({report.pairs} pairs) "
            f"in {report.seconds:.1f} s: {report.mean_layers:.2f} layers on average. "
            f"Wrote {report.rows} rows to {out}",
            markup=False,
            soft_wrap=True,
        )
    if report.too_long:
        raise _no_answer(report, out)


def _say_plan(plan: Plan, resumed: int) -> None:
    if resumed:
        stderr.print(f"rexit: an earlier run scored {resumed} of {plan.rows} pairs; this run continues", soft_wrap=True)
    if plan.unknown:
        stderr.print(
            f"rexit: {len(plan.unknown)} of {plan.users} users are not in the catalog and are {WITHOUT_HISTORY}: "
            f"{first_few(plan.unknown)}",
            soft_wrap=True,
        )


def _say_outside(plan: Plan, timeline: Timeline) -> None:
    for count, where, means in (
        (plan.early, f"not after the catalog's first interaction, {timeline.text(timeline.first)}", "none is visible to them"),
        (plan.late, f"after the catalog's last interaction, {timeline.text(timeline.last)}", "all are visible to them"),
    ):
        if count:
            stderr.print(f"rexit: {count} of {plan.rows} pairs are as of a time {where}: {means}", soft_wrap=True)


def _say_stored(folder: Path, pairs: int) -> None:
    stderr.print(f"rexit: {folder} has the {pairs} pairs scored so far; the same command continues from there", soft_wrap=True)


def _json(report: Report, variant: str, out: str | None) -> dict[str, Any]:
    too_long = [{"user": slate.user, "as_of": slate.as_of, "reason": slate.reason} for slate in report.too_long]
    return {**report.__dict__, "too_long": too_long, "variant": variant, "out": out}


def _no_answer(report: Report, out: str | None) -> InputError:
    """One line for all slates without an answer."""
    named = first_few(
        report.too_long,
        lambda slate: f"user {slate.user!r}{'' if slate.as_of is None else f' at {slate.as_of}'}: {slate.reason}",
        3,
    )
    rest = f"{out} has the others" if out else "nothing was written"
    return InputError(f"{len(report.too_long)} of {report.slates} slates have no answer, {rest}: {named}")
