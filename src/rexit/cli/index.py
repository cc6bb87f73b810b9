"""`rexit index`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.named import parse_columns
from rexit.cli.common.options import JsonOption, RayWorkersOption
from rexit.cli.common.output import print_json, progress, shown, stderr, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError
from rexit.exporter.options import (
    IMPLICIT_NEGATIVES,
    POSITIVE_AT,
    Columns,
    ExternalOptions,
    IndexOptions,
    LightGCNOptions,
    ObjectiveRule,
)
from rexit.times import Timeline

if TYPE_CHECKING:
    from rexit.exporter.workers import Workers

_DEFAULT = IndexOptions()
_ROLES = tuple(asdict(_DEFAULT.columns))

_input = partial(typer.Option, rich_help_panel="Input and output")
_likes = partial(typer.Option, rich_help_panel="Likes, order and splits")
_retriever = partial(typer.Option, rich_help_panel="Retriever")


# Long because typer takes the options, their defaults and their help from the signature.
def index(
    interactions: Annotated[Path, _input(help="Who rated what and when: CSV, TSV or Parquet.")],
    items: Annotated[Path, _input(help="A row per item: its id and the template's columns.")],
    tokenizer: Annotated[str, _input(help="A tokenizer.json, its folder, or a Hub name.")],
    template: Annotated[Path, _input(help="The prompt template, TOML.")],
    out: Annotated[Path, _input(help="The catalog folder. An older catalog is replaced.")],
    users: Annotated[Path | None, _input(help="A row per user, if the template names their columns.")] = None,
    column: Annotated[list[str] | None, _input(help="ROLE=NAME names a column: user, item, rating, time, split.")] = None,
    positive_at: Annotated[float | None, _likes(help=f"The lowest rating that is a like. Default: {POSITIVE_AT:g}.")] = None,
    implicit: Annotated[bool, _likes("--implicit", help="No ratings: every interaction is a like.")] = False,
    unrated: Annotated[
        int | None,
        _likes(help=f"Unrated items per like, as dislikes. Default: 0, implicit {IMPLICIT_NEGATIVES}."),
    ] = None,
    objective: Annotated[list[str] | None, _likes(help="Labels of an objective: NAME=COLUMN or NAME=COLUMN>=NUMBER.")] = None,
    order: Annotated[str, _likes(help="What came first: time (a column), file or random.")] = _DEFAULT.order,
    split: Annotated[str | None, _likes(help="user:A,B or time:A,B, or leave-last:V,T. Default: user:0.8,0.9.")] = None,
    retriever_config: Annotated[
        Path | None, _retriever(help="TOML or JSON: epochs, dim, neighbours, … (docs/tables.md).")
    ] = None,
    item_embeddings: Annotated[Path | None, _retriever(help="Instead of LightGCN's: .parquet, .npy or .safetensors.")] = None,
    user_embeddings: Annotated[Path | None, _retriever(help="Of users. Default: made of the items they like.")] = None,
    embeddings_as_of: Annotated[str | None, _retriever(help="Embeddings know what happened before this time.")] = None,
    ray_workers: RayWorkersOption = None,
    seed: Annotated[int, typer.Option(help="Of training, --order random and sampled items.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    ```
    rexit index --interactions ratings.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out catalog
    ```
    """
    from rexit.bundle.typed import typed
    from rexit.exporter.index import build_catalog
    from rexit.exporter.retriever.config import with_config
    from rexit.exporter.retriever.external import risk

    if item_embeddings is None and user_embeddings is not None:
        raise InputError("--user-embeddings is given without --item-embeddings: candidates need embeddings, too")
    options = IndexOptions(
        columns=Columns(**parse_columns(column, _ROLES)),
        positive_at=positive_at,
        implicit=implicit,
        unrated=unrated,
        order=order,
        split=split,
        lightgcn=LightGCNOptions(seed=seed),
        external=None if item_embeddings is None else ExternalOptions(item_embeddings, user_embeddings, embeddings_as_of),
        seed=seed,
        objectives=tuple(map(ObjectiveRule.parse, objective or ())),
    )
    if retriever_config is not None:
        options = with_config(options, retriever_config)
    with _workers(ray_workers) as workers, progress() as bar:
        info = build_catalog(
            interactions,
            items,
            tokenizer,
            template,
            out,
            options,
            users=users,
            progress=shown(bar),
            workers=workers,
        )
    if line := risk(info):
        stderr.print(f"rexit: warning: {line}", soft_wrap=True)
    if json:
        summary = {
            key: info[key]
            for key in (
                "ids",
                "counts",
                "columns",
                "repeats",
                "order",
                "split",
                "splits",
                "objectives",
                "labels",
                "embedding",
                "lightgcn",
                "retrieval",
            )
            if key in info
        }
        lengths = {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens", "lengths")}
        print_json({"catalog": str(out), **summary, "prompt": lengths})
        return
    counts, retrieval = info["counts"], info["retrieval"]
    sizes = {**counts, **{f"{name} interactions": split["rows"] for name, split in info["splits"].items()}}
    print_table(str(out), ["", "count"], sizes.items())
    print_repeats(info["repeats"]["dropped"])
    _print_times(typed(info["order"], Timeline, "catalog.json", at="order"))
    _print_objectives(info)
    _print_lengths(info["prompt"])
    if retrieval["recall@20"] is None:
        stdout.print("No user has a like in the validation split: recall was not measured, and all epochs were run.")
    else:
        name, note = ("LightGCN", f" ({retrieval['epochs']} epochs)") if "lightgcn" in info else ("embeddings", "")
        rows = [(name, retrieval["recall@20"]), ("popularity", retrieval["popularity_recall@20"])]
        print_table(f"Retriever on the validation split{note}", ["", "recall@20"], rows)


@contextlib.contextmanager
def _workers(count: int | None) -> Iterator[Workers]:
    if count is None:
        from rexit.exporter.workers import LOCAL

        yield LOCAL
    else:
        from rexit import ray_cluster
        from rexit.exporter.ray_workers import OnRay

        with ray_cluster.connected():
            yield OnRay(count)


def print_repeats(rows: int) -> None:
    """Prints how many rows repeat others, if any."""
    if rows:
        stdout.print(f"{rows} rows repeat an interaction and were left out.")


def _print_objectives(info: Mapping[str, Any]) -> None:
    if "objectives" not in info:
        return
    rows = [
        (name, *(part["objectives"][name][count] for part in info["splits"].values() for count in ("known", "yes")))
        for name in info["objectives"]
    ]
    print_table("Labels", ["objective", *(f"{name}, {count}" for name in info["splits"] for count in ("known", "yes"))], rows)


def _print_times(timeline: Timeline) -> None:
    if timeline.by == "time":
        first, last = (timeline.date(time) or time for time in (timeline.first, timeline.last))
        stdout.print(f"Times {'as' if timeline.unit is None else 'in'} {timeline.kind}: {first} to {last}.", highlight=False)


def _print_lengths(prompt: Mapping[str, Any]) -> None:
    lengths, rows = prompt["lengths"], []
    for part in ("prefix", "candidate"):
        tokens, most = lengths[part], prompt[f"max_{part}_tokens"]
        rows.append([part, tokens["p50"], tokens["p99"], tokens["max"], most, *_longest(tokens["longest"])])
    print_table(
        f"Tokens of prompts, of {lengths['users']} users (limit: what template and tables allow)",
        ["", "50 %", "99 %", "longest", "limit", "mostly from", "its longest cell"],
        rows,
    )


def _longest(longest: Mapping[str, Any] | None) -> tuple[str, str]:
    if longest is None:
        return "", ""
    source = f"{longest['placeholder'] or 'text of the template'}: {longest['tokens']}"
    if (column := longest["column"]) is None:
        return source, ""
    what = column["name"].partition(".")[0]
    return source, f"{column['name']} of {what} {column['id']}: {column['max']} (99 %: {column['p99']})"
