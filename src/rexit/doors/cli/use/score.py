"""`rexit score`."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.doors.cli.common.arguments import (
    ITEMS,
    SUMMARIES,
    AsOfOption,
    InputOption,
    JsonOption,
    ThreadsOption,
    VariantOption,
    open_bundle,
    parse_as_of,
    parse_columns,
    parse_inputs,
    parse_request,
)
from rexit.doors.cli.common.output import print_json, print_table, progress, say, shown, stdout
from rexit.errors import InputError
from rexit.format.ids import first_few

if TYPE_CHECKING:
    from rexit.doors.batch import ColumnNames, TableScorer
    from rexit.format.bundle import Bundle, Catalog
    from rexit.format.request import Request
    from rexit.runtime import Scores

_slate = partial(typer.Option, rich_help_panel="One slate")
_files = partial(typer.Option, rich_help_panel="Files of pairs")


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, _slate(help="User id; an unknown user is placed by --recent.")] = None,
    items: Annotated[str | None, _slate(help=ITEMS)] = None,
    retrieve: Annotated[int | None, _slate(help="In place of items: so many, whose embeddings fit the user best.")] = None,
    recent: Annotated[str, _slate(help="Newer interactions, oldest first: ITEM or ITEM:1 liked, ITEM:0 not.")] = "",
    scores: Annotated[list[str] | None, _slate(help="NAME=NUMBER,…: a first stage's scores of the items, in order.")] = None,
    pairs: Annotated[Path | None, _files(help="A .csv, .tsv or .parquet file, or a folder of one kind.")] = None,
    out: Annotated[Path | None, _files(help="The scored pairs: a .csv or .parquet file.")] = None,
    column: Annotated[list[str] | None, _files(help="ROLE=NAME: user, item, as_of, input.NAME.")] = None,
    as_of: AsOfOption = None,
    inputs: InputOption = None,
    top_k: Annotated[int, typer.Option(help=f"{SUMMARIES['top_k']} 0: all, as they come.")] = 0,
    floor: Annotated[bool, typer.Option("--floor", help="Leave out what is below the policy's floor.")] = False,
    variant: VariantOption = None,
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Score candidates for one user, or files of pairs.

    ```
    rexit score bundle --user 196 --items 242,302,377
    rexit score bundle --user 196 --retrieve 200 --top-k 10
    rexit score bundle --pairs pairs.parquet --out scores.parquet
    ```

    Columns `score.NAME` are read, too. OUT has all rows, or what --top-k or --floor keeps. It resumes.
    """
    if pairs is not None:
        if user is not None or items is not None or retrieve is not None or recent or scores:
            others = "--user, --items, --retrieve, --recent or --scores"
            raise InputError(f"--pairs names the users and items; it cannot be combined with {others}")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        from rexit.doors.batch import score_table

        opened = open_bundle(bundle, variant)
        catalog, name = opened.catalog, opened.variant.name
        columns, time, values = _column_names(column, catalog), parse_as_of(as_of, catalog), parse_inputs(inputs, catalog.inputs)
        scorer = score_table(bundle, name, columns=columns, as_of=time, top_k=top_k, floor=floor, inputs=values, threads=threads)
        _score_pairs(scorer, pairs, out, json)
    elif user is not None and (items is not None or retrieve is not None):
        if ignored := [option for option, value in {"--out": out, "--column": column}.items() if value]:
            raise InputError(f"{' and '.join(ignored)}: only for --pairs; one slate is scored here, and printed")
        opened = open_bundle(bundle, variant)
        request = parse_request(opened.catalog, user, items, recent, as_of, inputs, scores, retrieve)
        _score_slate(opened, request, top_k, floor, threads, json)
    else:
        raise InputError("expected --user and --items or --retrieve, or --pairs and --out")


def _score_slate(bundle: Bundle, request: Request, top_k: int, floor: bool, threads: int, json: bool) -> None:
    from rexit import runtime

    variant = bundle.variant.name
    with contextlib.closing(runtime.open(bundle.path, variant, threads=threads)) as session:
        scores = session.score(request, top_k=top_k, floor=floor or None)
    if not scores.stats.known_user:
        means = "placed by --recent alone" if request.recent else "scored without any history"
        say(f"rexit: user {request.user!r} is not in the catalog: {means}")
    if json:
        print_json({"user": request.user, "variant": variant, **scores.to_dict()})
    else:
        _print_scores(f"User {request.user}, {variant}", scores)


def _score_pairs(scorer: TableScorer, pairs: Path, out: Path, json: bool) -> None:
    from rexit.doors.batch import score_files

    with progress() as bar:
        report = score_files(scorer, pairs, out, shown(bar), lambda line: say(f"rexit: {line}"))
    if json:
        print_json({**report.__dict__, "variant": scorer.variant, "out": str(out)})
    else:
        layers = "" if report.mean_layers is None else f": {report.mean_layers:.2f} layers on average"
        stdout.print(
            f"Scored {report.slates - len(report.too_long)} of {report.slates} slates ({report.pairs} pairs) "
            f"in {report.seconds:.1f} s{layers}. Wrote {report.rows} rows to {out}"
        )
    if report.too_long:
        at = [{**slate, "at": "" if slate["as_of"] is None else f" at {slate['as_of']}"} for slate in report.too_long]
        names = first_few(at, lambda slate: f"user {slate['user']!r}{slate['at']}: {slate['reason']}", 3)
        raise InputError(f"{len(at)} of {report.slates} slates have no answer, {out} has the others: {names}")


def _column_names(entries: list[str] | None, catalog: Catalog) -> ColumnNames:
    """Returns the columns of `--column`. Raises InputError."""
    from rexit.doors.batch import ColumnNames

    roles = {f"input.{name}": name for name in catalog.inputs.names}
    columns = parse_columns(entries, ("user", "item", "as_of", *roles))
    named = {name: columns.pop(role) for role, name in roles.items() if role in columns}
    return ColumnNames(**columns, inputs=named)


def _print_scores(title: str, scores: Scores) -> None:
    """Prints a table with a row for each candidate, and the time that the slate took."""
    stats = scores.stats
    print_table(
        title,
        [
            {
                "item": score.item,
                "probability": f"{score.probability:.4f}",
                "log-odds": f"{score.log_odds:+.4f}",
                "exit": score.exit,
                "layers": score.layers,
            }
            for score in scores
        ],
    )
    stdout.print(
        f"{stats.total_us / 1000:.1f} ms: retrieval {stats.retrieval_us / 1000:.2f}, "
        f"prefix {stats.prefix_us / 1000:.1f} ({stats.prefix_tokens} tokens), "
        f"slate {stats.slate_us / 1000:.1f} ({stats.candidate_tokens} tokens)"
    )
