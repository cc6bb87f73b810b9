"""`rexit index`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.engines import check_engine
from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, progress, shown, stderr, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError
from rexit.exporter.options import (
    FOLD_INS,
    POSITIVE_AT,
    SIMILARITIES,
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
_COLUMNS, _LIGHTGCN = _DEFAULT.columns, _DEFAULT.lightgcn

_input = partial(typer.Option, rich_help_panel="Input and output")
_column = partial(typer.Option, rich_help_panel="Columns")
_likes = partial(typer.Option, rich_help_panel="Likes, order and splits")
_retriever = partial(typer.Option, rich_help_panel="Retriever (LightGCN)")
_external = partial(typer.Option, rich_help_panel="Embeddings from elsewhere")
_work = partial(typer.Option, rich_help_panel="Workers")


# Long because typer takes the options, their defaults and their help from the signature.
def index(
    context: typer.Context,
    interactions: Annotated[Path, _input(help="Who rated what and when: CSV, TSV or Parquet. With --update: the new ones.")],
    tokenizer: Annotated[str, _input(help="A tokenizer.json, a folder with one, or a Hugging Face Hub name.")],
    template: Annotated[Path, _input(help="The prompt template, TOML (docs/template.md).")],
    out: Annotated[Path, _input(help="The catalog folder to write. An older catalog there is replaced.")],
    items: Annotated[
        Path | None,
        _input(
            help="One row per item: its id and the columns that the template names. With --update: new items, and existing items "
            "whose text changed."
        ),
    ] = None,
    users: Annotated[
        Path | None, _input(help="One row per user, if the template names columns of users. With --update: as --items.")
    ] = None,
    update: Annotated[
        Path | None,
        _input(
            help="A catalog to extend, for the model that was trained on it. Ids, embeddings, prompt program and limits stay."
        ),
    ] = None,
    user_column: Annotated[str, _column(help="User ids.")] = _COLUMNS.user,
    item_column: Annotated[str, _column(help="Item ids.")] = _COLUMNS.item,
    rating_column: Annotated[str, _column(help="Ratings. Not read with --implicit.")] = _COLUMNS.rating,
    time_column: Annotated[
        str, _column(help="Times: whole numbers, dates or ISO 8601 text. Read with --order time only.")
    ] = _COLUMNS.time,
    split_column: Annotated[str | None, _column(help="Splits: train, validation (or valid), test.")] = None,
    positive_at: Annotated[
        float | None, _likes(help=f"A rating of at least this is a like. Default: {POSITIVE_AT:g}; not with --implicit.")
    ] = None,
    implicit: Annotated[
        bool,
        _likes(
            "--implicit",
            help="No ratings: every interaction is a like. Sampled items that the user has not met are the dislikes.",
        ),
    ] = False,
    implicit_negatives: Annotated[
        int, _likes(help="With --implicit: sampled items per interaction.")
    ] = _DEFAULT.implicit_negatives,
    unrated: Annotated[
        int, _likes(help="Items that a user never rated, beside each of their likes and taken as not liked: long slates.")
    ] = _DEFAULT.unrated,
    objective: Annotated[
        list[str] | None,
        _likes(
            help="Labels of one of the template's objectives: NAME=COLUMN with 1, 0 or nothing, or NAME=COLUMN>=NUMBER. Default: "
            "the column of its name. Once for each."
        ),
    ] = None,
    repeats: Annotated[
        str, _likes(help="Several interactions of a user with one item: count all, or the first only.")
    ] = _DEFAULT.repeats,
    order: Annotated[
        str, _likes(help="What came first: time (the column), file (the order of rows) or random.")
    ] = _DEFAULT.order,
    split: Annotated[
        str | None,
        _likes(
            help="user:A,B splits each user's interactions at these shares, time:A,B all interactions; leave-last:V,T takes the "
            "last ones of each user. Default: user:0.8,0.9"
        ),
    ] = None,
    snapshots: Annotated[
        int,
        _retriever(
            help="Parts of each user's training interactions. A training prompt retrieves with what the earlier parts taught."
        ),
    ] = _DEFAULT.snapshots,
    neighbours: Annotated[int, _retriever(help="Similar users stored per user.")] = _DEFAULT.neighbours,
    dim: Annotated[int, _retriever(help="Width of the embeddings.")] = _LIGHTGCN.dim,
    layers: Annotated[int, _retriever(help="Propagation layers.")] = _LIGHTGCN.layers,
    epochs: Annotated[
        int, _retriever(help="Most epochs; stops early on validation recall@20. 0: keep the initial embeddings.")
    ] = _LIGHTGCN.epochs,
    patience: Annotated[int, _retriever(help="Epochs without a better recall before it stops.")] = _LIGHTGCN.patience,
    learning_rate: Annotated[float, _retriever(help="Adam's learning rate.")] = _LIGHTGCN.learning_rate,
    weight_decay: Annotated[float, _retriever(help="BPR's lambda.")] = _LIGHTGCN.weight_decay,
    negatives: Annotated[int, _retriever(help="Sampled items per like.")] = _LIGHTGCN.negatives,
    item_embeddings: Annotated[
        Path | None,
        _external(
            help="Embeddings of items in place of LightGCN's: Parquet with a column of lists, .npy with ids beside it, or "
            "safetensors."
        ),
    ] = None,
    user_embeddings: Annotated[
        Path | None, _external(help="Embeddings of users. Without them users are folded in from their likes.")
    ] = None,
    embeddings_as_of: Annotated[
        str | None,
        _external(
            help="What these embeddings know happened before this time. Training prompts of earlier moments do not see them."
        ),
    ] = None,
    similarity: Annotated[str, _external(help="How users are compared: cosine or dot.")] = SIMILARITIES[0],
    fold_in: Annotated[
        str,
        _external(
            help="A user's embedding from what they like: mean of the items' rows, or least-squares, fitted to the users' own."
        ),
    ] = FOLD_INS[0],
    similar_users: Annotated[
        Path | None, _external(help="Similar users found elsewhere: a table with user_id, neighbour and rank.")
    ] = None,
    engine: Annotated[
        str, _work(help="local, or ray: workers of a Ray cluster tokenize and search for similar users.")
    ] = "local",
    workers: Annotated[
        int | None, _work(min=1, help="Workers of --engine ray. Default: as many as the cluster has CPUs for.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the training, of --order random and of sampled items.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    Trains LightGCN, finds each user's nearest users, and stores everything a prompt is made of as token tables. The device then
    needs neither a tokenizer nor a graph library. Reports how long prompts are, and what makes the longest prompt long.

    ```
    rexit index --interactions ratings.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out catalog
    ```

    Each interaction is in one split: `train`, `validation` or `test`. LightGCN is trained on the likes of `train`, and again on
    its earlier parts for training prompts, which must not retrieve what knows their answer. For published protocols:
    `--split time:0.8,0.9` for one border in time, `--split leave-last:1,1` for the last two of each user, `--split-column fold`
    for splits that come with the data.

    With `--item-embeddings` no LightGCN is trained: the embeddings are yours, say of a graph network on a cluster.

    ```
    rexit index --interactions ratings.csv --items films.csv --tokenizer model/ --template prompt.toml --out catalog \
      --item-embeddings items.parquet --user-embeddings users.parquet --embeddings-as-of 2026-03-01
    ```

    With `--engine ray` the workers of a Ray cluster tokenize, put users into lists and search for similar users. The catalog is
    the same, to the byte.

    With `--update` the new catalog is the old one with what happened since, for `rexit refresh`. Nothing is trained: new users
    and items are placed among the existing ones, whose embeddings stay. Only the options of files apply; the old catalog decides
    the rest, names of columns included. Of the new interactions, those of one user in ten are `validation`, of one in ten `test`.

    ```
    rexit index --update old --interactions today.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out new
    ```
    """
    if update is not None:
        _update(context, update, interactions, tokenizer, template, out, items, users, json)
        return
    if items is None:
        raise InputError("--items is missing: a catalog needs one row per item; only with --update is it optional")
    check_engine(engine, workers, "is one process")
    from rexit.exporter.index import build_catalog
    from rexit.exporter.retriever.external import risk

    if item_embeddings is None and user_embeddings is not None:
        raise InputError("--user-embeddings is given without --item-embeddings: candidates need embeddings, too")
    external = None
    if item_embeddings is not None:
        external = ExternalOptions(item_embeddings, user_embeddings, embeddings_as_of, similarity, fold_in)
    options = IndexOptions(
        columns=Columns(user_column, item_column, rating_column, time_column, split_column),
        positive_at=positive_at,
        implicit=implicit,
        implicit_negatives=implicit_negatives,
        unrated=unrated,
        repeats=repeats,
        order=order,
        split=split,
        snapshots=snapshots,
        neighbours=neighbours,
        lightgcn=LightGCNOptions(
            dim=dim,
            layers=layers,
            epochs=epochs,
            patience=patience,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            negatives=negatives,
            seed=seed,
        ),
        external=external,
        similar=similar_users,
        seed=seed,
        objectives=tuple(map(ObjectiveRule.parse, objective or ())),
    )
    with _workers(engine, workers) as hands, progress() as bar:
        info = build_catalog(
            interactions,
            items,
            tokenizer,
            template,
            out,
            options,
            users=users,
            progress=shown(bar),
            workers=hands,
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
    _print_repeats(info["repeats"]["dropped"])
    from rexit.bundle.typed import typed

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
def _workers(engine: str, workers: int | None) -> Iterator[Workers]:
    if engine == "ray":
        from rexit import ray_cluster
        from rexit.exporter.ray_workers import OnRay

        with ray_cluster.connected():
            yield OnRay(workers)
    else:
        from rexit.exporter.workers import LOCAL

        yield LOCAL


_OF_UPDATES = {"interactions", "items", "tokenizer", "template", "out", "users", "update", "json"}


def _update(
    context: typer.Context,
    catalog: Path,
    interactions: Path,
    tokenizer: str,
    template: Path,
    out: Path,
    items: Path | None,
    users: Path | None,
    json: bool,
) -> None:
    from rexit.exporter.update import update_catalog

    sources = {name: context.get_parameter_source(name) for name in context.params}
    named = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if others := sorted(named - _OF_UPDATES):
        raise InputError(f"--{others[0].replace('_', '-')} does not go with --update: {catalog} decides that")
    with progress() as bar:
        info = update_catalog(catalog, interactions, tokenizer, template, out, items=items, users=users, progress=shown(bar))
    new = info["updated"]
    if json:
        print_json({"catalog": str(out), **{key: info[key] for key in ("ids", "counts", "splits", "embedding", "updated")}})
        return
    print_table(str(out), ["", "new", "all"], [[n, new[n], info["counts"][n]] for n in ("users", "items", "interactions")])
    _print_repeats(new["repeats"])
    if new["without_embedding"]:
        stdout.print(
            f"{new['without_embedding']} items have interactions but no likes. They cannot be placed: they have no neighbours."
        )
    if new["cut_texts"]:
        stdout.print(f"{new['cut_texts']} new texts were longer than any old text of their column, and were cut to its length.")


def _print_repeats(rows: int) -> None:
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
