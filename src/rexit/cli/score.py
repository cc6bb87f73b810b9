"""`rexit score`."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.as_of import AsOfOption, parse_as_of
from rexit.cli.common.named import InputOption, parse_columns, parse_inputs
from rexit.cli.common.options import JsonOption, ThreadsOption, VariantOption
from rexit.cli.common.output import print_json, progress, shown, stderr
from rexit.cli.common.slate import parse_request
from rexit.cli.common.variant import open_bundle
from rexit.cli.show.batch import WITHOUT_HISTORY, check_answers, print_plan, print_report, print_stored, report_to_json
from rexit.cli.show.scores import print_scores
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.batch import BatchOptions, ColumnNames
    from rexit.batch.engine import Opening
    from rexit.bundle import Bundle
    from rexit.bundle.inputs import Inputs
    from rexit.request import Request

_slate = partial(typer.Option, rich_help_panel="One slate")
_files = partial(typer.Option, rich_help_panel="Files of pairs")


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, _slate(help="User id; an unknown user is placed by --recent.")] = None,
    items: Annotated[str | None, _slate(help="Item ids, separated by commas; quotes around an id keep its commas.")] = None,
    recent: Annotated[str, _slate(help="Newer interactions, oldest first: ITEM or ITEM:1 liked, ITEM:0 not.")] = "",
    pairs: Annotated[Path | None, _files(help="A .csv, .tsv or .parquet file, or a folder of one kind.")] = None,
    out: Annotated[Path | None, _files(help="The scored pairs: a .csv or .parquet file.")] = None,
    column: Annotated[
        list[str] | None,
        _files(help="ROLE=NAME: user, item, as_of, input.NAME."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=0, help="Workers of a Ray cluster; 0: one per CPU. Default: no Ray.")
    ] = None,
    as_of: AsOfOption = None,
    inputs: InputOption = None,
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
    from rexit.batch import BatchOptions
    from rexit.batch.engine import Opening

    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; it cannot be combined with --user, --items or --recent")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        opened = open_bundle(bundle, variant)
        catalog = opened.catalog
        columns, time = _column_names(column, catalog.inputs), parse_as_of(as_of, catalog)
        options = BatchOptions(pairs, out, columns, time, top_k, parse_inputs(inputs, catalog.inputs))
        _score_pairs(Opening(opened, threads), options, ray_workers, json)
    elif user is not None and items is not None:
        for_pairs = {"--out": out, "--column": column or None, "--ray-workers": ray_workers}
        if ignored := [option for option, value in for_pairs.items() if value is not None]:
            raise InputError(f"{' and '.join(ignored)}: only for --pairs; one slate is scored here, and printed")
        opened = open_bundle(bundle, variant)
        _score_slate(opened, parse_request(opened.catalog, user, items, recent, as_of, inputs), top_k, threads, json)
    else:
        raise InputError("expected --user and --items, or --pairs and --out")


def _score_slate(bundle: Bundle, request: Request, top_k: int, threads: int, json: bool) -> None:
    from rexit import runtime

    variant = bundle.variant.name
    with contextlib.closing(runtime.open(bundle.path, variant, threads=threads)) as session:
        scores = session.score(request, top_k=top_k)
    if not scores.stats.known_user:
        means = "placed by --recent alone" if request.recent else WITHOUT_HISTORY
        stderr.print(f"rexit: user {request.user!r} is not in the catalog: {means}", soft_wrap=True)
    if json:
        print_json({"user": request.user, "variant": variant, **scores.to_dict()})
    else:
        print_scores(f"User {request.user}, {variant}", scores)


def _score_pairs(opening: Opening, options: BatchOptions, ray_workers: int | None, json: bool) -> None:
    from rexit.batch import score_files
    from rexit.batch.engine import Engine, Local

    engine: Engine = Local()
    if ray_workers is not None:
        from rexit.batch.ray_engine import OnRay

        engine = OnRay(ray_workers)
    bundle = opening.bundle
    with progress() as bar:
        on_plan = partial(print_plan, timeline=bundle.catalog.timeline)
        report = score_files(opening, options, engine, shown(bar), on_plan, print_stored)
    if json:
        print_json(report_to_json(report, bundle.variant.name, options.out))
    else:
        print_report(report, options.out)
    check_answers(report, options.out)


def _column_names(entries: list[str] | None, inputs: Inputs) -> ColumnNames:
    """Returns the columns of `--column`. Raises InputError."""
    from rexit.batch import ColumnNames

    roles = {f"input.{name}": name for name in inputs.names}
    columns = parse_columns(entries, ("user", "item", "as_of", *roles))
    named = {name: columns.pop(role) for role, name in roles.items() if role in columns}
    return ColumnNames(**columns, inputs=named)
