"""`rexit score`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.as_of import AsOfOption, parse_as_of
from rexit.cli.common.context import ContextOption, parse_context
from rexit.cli.common.engines import check_engine
from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption, VariantOption
from rexit.cli.common.output import print_json, progress, shown, stderr, stdout
from rexit.cli.common.request_text import RequestOption, RequestTokensOption, parse_columns, parse_request, token_ids
from rexit.cli.common.tables import print_table
from rexit.cli.common.weights import parse_weights
from rexit.deadlines import check_deadline
from rexit.errors import InputError, RexitError
from rexit.ids import first_few, parse_id, parse_ids, parse_recent

if TYPE_CHECKING:
    from rexit.batch import BatchOptions, Report
    from rexit.batch.work import Plan
    from rexit.bundle import Bundle
    from rexit.bundle.context import Value
    from rexit.bundle.request_text import Text
    from rexit.runtime import Scores, Session
    from rexit.times import Timeline

WITHOUT_HISTORY = "scored without any history"

_slate = partial(typer.Option, rich_help_panel="One slate")
_files = partial(typer.Option, rich_help_panel="Files of pairs")


@dataclass(frozen=True)
class _Setup:
    """How all slates of this command are scored.

    options: `top_k`, `deadline_ms`, `force_exit` and `weights` of `Session.score`. counters: the file for the session's counters;
    None: they are not written.
    """

    bundle: Bundle
    threads: int
    device: str | None
    options: Mapping[str, Any]
    counters: Path | None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        from rexit import runtime

        opened = runtime.open(self.bundle.path, self.bundle.variant.name, threads=self.threads, device=self.device)
        with contextlib.closing(opened) as session:
            yield session
            if self.counters is not None:
                session.counters().write(self.counters, self.bundle.variant_sha256, self.bundle.policy_sha256)


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, _slate(help="User id. A user who is not in the catalog is placed by --recent.")] = None,
    items: Annotated[str | None, _slate(help="Item ids, separated by commas.")] = None,
    recent: Annotated[
        str,
        _slate(help="Interactions newer than the catalog's, oldest first: `ITEM` or `ITEM:1` for liked, `ITEM:0` for not liked."),
    ] = "",
    as_of: AsOfOption = None,
    context: ContextOption = None,
    request: RequestOption = None,
    request_tokens: RequestTokensOption = None,
    prefix: Annotated[
        str | None, _slate(help="In the place of ids: token ids of what the candidates share, separated by commas. '': none.")
    ] = None,
    candidates: Annotated[
        str | None, _slate(help="Token ids of each candidate, separated by commas, candidates by semicolons.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Only the k most probable, best first. 0: all, in the order given.")] = 0,
    weights: Annotated[
        str | None, typer.Option(help="Of several objectives: a utility of your own, click=1,like=2. Default: the policy's.")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Answer with what is known when this time has passed.")] = None,
    force_exit: Annotated[int | None, typer.Option(help="Every candidate stops at this exit, counted from 0.")] = None,
    pairs: Annotated[
        Path | None, _files(help="The pairs to score: a .csv, .tsv or .parquet file, or a folder of files of one kind.")
    ] = None,
    out: Annotated[Path | None, _files(help="The scored pairs: a .csv or .parquet file.")] = None,
    user_column: Annotated[str | None, _files(help="User ids. Default: user_id.")] = None,
    item_column: Annotated[str | None, _files(help="Item ids. Default: item_id.")] = None,
    as_of_column: Annotated[str | None, _files(help="Times, as --as-of. Default: as_of, if there is such a column.")] = None,
    context_column: Annotated[
        list[str] | None,
        _files(help="NAME=COLUMN: the column of `{context.NAME}`. Default: the column NAME, if there is one."),
    ] = None,
    request_column: Annotated[
        list[str] | None,
        _files(help="NAME=COLUMN: the column of `{request.NAME}`. Default: the column NAME, if there is one."),
    ] = None,
    engine: Annotated[str, _files(help="local, or ray: a session in each worker of a Ray cluster.")] = "local",
    workers: Annotated[
        int | None, _files(min=1, help="Workers of --engine ray. Default: as many as the cluster has CPUs for.")
    ] = None,
    variant: VariantOption = None,
    threads: ThreadsOption = 0,
    device: DeviceOption = None,
    counters: Annotated[
        Path | None, typer.Option(help="Write what candidates did at each exit to this file, for `rexit drift`.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Score candidates for one user, or files of pairs.

    ```
    rexit score bundle --user 196 --items 242,302,377
    rexit score bundle --user 99999 --recent 50:1,172:1,288:0 --items 181,210
    rexit score bundle --prefix 1,3087,314 --candidates '40,9;7,9'
    rexit score bundle --pairs pairs.parquet --out scores.parquet
    ```

    Rows of `--pairs` with the same user, time, context and request texts are one slate, wherever they stand. The output has the
    same rows in the same order, with these columns added: `probability`; `log_odds`, raw, at the exit that answered; `exit`,
    from 0. With `--deadline-ms` there is also `cut_short`, true where the deadline stopped the row. If it came before the first
    exit, the other columns are empty. `--top-k` keeps the best rows of each slate, best first.

    A slate that has no answer in time, or whose prompt is too long for the model, is left out and named. The others are in the
    file, and the exit code is 7 or 2.

    Memory does not grow with the number of pairs. OUT appears when it is complete. Until then OUT.partial holds the finished
    part; after Ctrl-C, a failure or a kill, the same command continues from there.
    """
    from rexit.batch import BatchOptions, ColumnNames
    from rexit.batch.run import check_place
    from rexit.bundle import Bundle

    check_engine(engine, workers, "has one session, and --threads")
    if deadline_ms is not None:
        check_deadline(deadline_ms)
    options: dict[str, Any] = {"force_exit": force_exit, "deadline_ms": deadline_ms, "top_k": top_k}
    if (utility := parse_weights("weights", weights)) is not None:
        options["weights"] = utility
    if counters is not None:
        if force_exit is not None:
            raise InputError("--counters: forced exits are not counted; leave out --force-exit")
        check_place(counters)
    if prefix is not None or candidates is not None:
        others = {
            "--user": user,
            "--items": items,
            "--recent": recent or None,
            "--as-of": as_of,
            "--context": context or None,
            "--request": request or None,
            "--request-tokens": request_tokens or None,
            "--pairs": pairs,
            "--out": out,
        }
        if ignored := [option for option, value in others.items() if value is not None]:
            raise InputError(f"{' and '.join(ignored)}: token ids take their place")
        if prefix is None or candidates is None:
            raise InputError("token ids need both --prefix, which may be '', and --candidates")
        setup = _Setup(Bundle.open(bundle, variant), threads, device, options, counters)
        parts = [token_ids(part, f"candidate {n}") for n, part in enumerate(candidates.split(";"))]
        _score_tokens(setup, token_ids(prefix, "--prefix"), parts, json)
        return
    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; it cannot be combined with --user, --items or --recent")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        names = {"user": user_column, "item": item_column, "as_of": as_of_column}
        setup = _Setup(Bundle.open(bundle, variant), threads, device, options, counters)
        contexts, texts = setup.bundle.catalog.contexts, setup.bundle.catalog.request_texts
        columns = ColumnNames(
            **{role: name for role, name in names.items() if name is not None},
            context={name: str(column) for name, column in parse_context(context_column, contexts, "--context-column").items()},
            request=parse_columns(request_column, texts),
        )
        values, requested = parse_context(context, contexts), parse_request(request, request_tokens, texts)
        time = parse_as_of(as_of, setup.bundle.catalog)
        batch = BatchOptions(pairs, out, columns, time, options, counters, values, requested)
        _score_pairs(setup, batch, engine, workers, json)
    elif user is not None and items is not None:
        for_pairs = {
            "--out": out,
            "--user-column": user_column,
            "--item-column": item_column,
            "--as-of-column": as_of_column,
            "--context-column": context_column or None,
            "--request-column": request_column or None,
            "--engine": None if engine == "local" else engine,
        }
        if ignored := [option for option, value in for_pairs.items() if value is not None]:
            raise InputError(f"{' and '.join(ignored)}: only for --pairs; one slate is scored here, and printed")
        setup = _Setup(Bundle.open(bundle, variant), threads, device, options, counters)
        values = parse_context(context, setup.bundle.catalog.contexts)
        requested = parse_request(request, request_tokens, setup.bundle.catalog.request_texts)
        _score_user(setup, user, items, recent, parse_as_of(as_of, setup.bundle.catalog, warn=True), values, requested, json)
    else:
        raise InputError("expected --user and --items, or --pairs and --out, or --prefix and --candidates")


def _score_user(
    setup: _Setup,
    user: str,
    items: str,
    recent: str,
    as_of: int | None,
    context: Mapping[str, Value],
    request: Mapping[str, Text],
    json: bool,
) -> None:
    """Scores one slate and prints it."""
    catalog, variant = setup.bundle.catalog, setup.bundle.variant
    kinds = catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    interactions = parse_recent(recent, kinds["item"])
    catalog.items.rows([*item_ids, *(item for item, _ in interactions)])
    with setup.session() as session:
        scores = session.score(
            user_id, item_ids, recent=interactions or None, as_of=as_of, context=context, request=request, **setup.options
        )
    stats = scores.stats
    if not stats.known_user:
        means = "placed by --recent alone" if interactions else WITHOUT_HISTORY
        stderr.print(f"rexit: user {user_id!r} is not in the catalog: {means}", soft_wrap=True)
    if json:
        print_json({"user": user_id, "variant": variant.name, **scores.to_dict()})
        return
    _print_scores(f"User {user_id}, {variant.name}", "item", scores)


def _score_tokens(setup: _Setup, prefix: list[int], candidates: list[list[int]], json: bool) -> None:
    """Scores candidates by their tokens and prints them."""
    with setup.session() as session:
        scores = session.score_tokens(prefix, candidates, **setup.options)
    if json:
        print_json({"variant": setup.bundle.variant.name, **scores.to_dict()})
        return
    _print_scores(setup.bundle.variant.name, "candidate", scores)


def _print_scores(title: str, what: str, scores: Scores) -> None:
    stats = scores.stats
    print_table(
        title,
        [what, "probability", "log-odds", "exit", "layers", *scores.objectives],
        [
            [
                score.item,
                "" if score.probability is None else f"{score.probability:.4f}",
                "" if score.log_odds is None else f"{score.log_odds:+.4f}",
                f"{'none' if score.exit is None else score.exit}{' (deadline)' if score.cut_short else ''}",
                score.layers,
                *("" if score.objectives is None else f"{score.objectives[name]:.4f}" for name in scores.objectives),
            ]
            for score in scores
        ],
    )
    stdout.print(
        f"{stats.total_us / 1000:.1f} ms: retrieval {stats.retrieval_us / 1000:.2f}, "
        f"prefix {stats.prefix_us / 1000:.1f} ({stats.prefix_tokens} tokens), "
        f"slate {stats.slate_us / 1000:.1f} ({stats.candidate_tokens} tokens)"
    )


def _score_pairs(setup: _Setup, options: BatchOptions, engine: str, workers: int | None, json: bool) -> None:
    """Scores files of pairs."""
    from rexit.batch import score_files
    from rexit.batch.engine import Engine, Local, Opening

    scorer: Engine
    if engine == "ray":
        from rexit.batch.ray_engine import OnRay

        scorer = OnRay(workers)
    else:
        scorer = Local()
    opening = Opening(setup.bundle, setup.threads, setup.device)

    def on_plan(plan: Plan, resumed: int) -> None:
        _say_plan(plan, resumed)
        if plan.early or plan.late:
            _say_outside(plan, setup.bundle.catalog.timeline)

    with progress() as bar:
        report = score_files(opening, options, scorer, shown(bar), on_plan, _say_stored)
    out = str(options.out) if report.rows else None
    if json:
        print_json(_json(report, setup.bundle.variant.name, out))
    elif out is not None:
        stdout.print(
            f"Scored {report.slates - len(report.unanswered)} of {report.slates} slates ({report.pairs} pairs) "
            f"in {report.seconds:.1f} s: {report.mean_layers:.2f} layers on average. "
            f"Wrote {report.rows} rows to {out}",
            markup=False,
            soft_wrap=True,
        )
    if report.unanswered:
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
    unanswered = [{"user": slate.user, "as_of": slate.as_of, "reason": str(slate.error)} for slate in report.unanswered]
    return {**report.__dict__, "unanswered": unanswered, "variant": variant, "out": out}


def _no_answer(report: Report, out: str | None) -> RexitError:
    """One line for all slates without an answer, as an error of the first slate's kind."""
    named = first_few(
        report.unanswered,
        lambda slate: f"user {slate.user!r}{'' if slate.as_of is None else f' at {slate.as_of}'}: {slate.error}",
        3,
    )
    rest = f"{out} has the others" if out else "nothing was written"
    return type(report.unanswered[0].error)(f"{len(report.unanswered)} of {report.slates} slates have no answer, {rest}: {named}")
