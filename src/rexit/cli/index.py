"""`rexit index`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli._output import JsonOption, print_json, print_table, progress, shown, stdout
from rexit.errors import InputError
from rexit.exporter.options import POSITIVE_AT, Columns, IndexOptions, LightGCNOptions
from rexit.times import Timeline

_DEFAULT = IndexOptions()
_COLUMNS, _LIGHTGCN = _DEFAULT.columns, _DEFAULT.lightgcn


def register(app: typer.Typer) -> None:
    app.command("index")(index)


# Long because typer takes the options, their defaults and their help from the signature.
def index(
    context: typer.Context,
    interactions: Annotated[Path, typer.Option(help="Who rated what and when: CSV, TSV or Parquet. With --update: those since.")],
    tokenizer: Annotated[str, typer.Option(help="A tokenizer.json, a folder with one, or a Hugging Face Hub name.")],
    template: Annotated[Path, typer.Option(help="The prompt template, TOML (docs/template.md).")],
    out: Annotated[Path, typer.Option(help="The catalog folder to write; an older catalog there is replaced.")],
    items: Annotated[
        Path | None,
        typer.Option(
            help="One row per item: its id and the columns that the template names. With --update: new items, and known ones "
            "whose texts are other ones now."
        ),
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="One row per user, if the template names columns of users. With --update: as --items.")
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(help="A catalog to add to, for the model that was trained on it: ids, embeddings, program and limits stay."),
    ] = None,
    user_column: Annotated[str, typer.Option(help="The user id's column.")] = _COLUMNS.user,
    item_column: Annotated[str, typer.Option(help="The item id's column.")] = _COLUMNS.item,
    rating_column: Annotated[str, typer.Option(help="The rating's column; not read with --implicit.")] = _COLUMNS.rating,
    time_column: Annotated[
        str, typer.Option(help="The time's column: whole numbers, or Parquet dates; read with --order time alone.")
    ] = _COLUMNS.time,
    split_column: Annotated[
        str | None,
        typer.Option(help="A column that says train, validation (or valid) or test."),
    ] = None,
    positive_at: Annotated[
        float | None, typer.Option(help=f"A rating of at least this is a like. Default: {POSITIVE_AT:g}; not with --implicit.")
    ] = None,
    implicit: Annotated[
        bool, typer.Option("--implicit", help="No ratings: every interaction is a like, against sampled items not met so far.")
    ] = False,
    implicit_negatives: Annotated[
        int, typer.Option(help="With --implicit: sampled items for each interaction.")
    ] = _DEFAULT.implicit_negatives,
    repeats: Annotated[
        str, typer.Option(help="Where a user meets an item at several times: all count, or only the first.")
    ] = _DEFAULT.repeats,
    order: Annotated[
        str, typer.Option(help="What came first: time (the column), file (the order of rows) or random.")
    ] = _DEFAULT.order,
    split: Annotated[
        str | None,
        typer.Option(
            help="user:A,B of each user's interactions, time:A,B of all, leave-last:V,T of each user. Default: user:0.8,0.9",
        ),
    ] = None,
    snapshots: Annotated[
        int,
        typer.Option(help="Parts of each user's training: a prompt of one retrieves with what the earlier ones taught."),
    ] = _DEFAULT.snapshots,
    dim: Annotated[int, typer.Option(help="LightGCN: width of the embeddings.")] = _LIGHTGCN.dim,
    layers: Annotated[int, typer.Option(help="LightGCN: propagation layers.")] = _LIGHTGCN.layers,
    epochs: Annotated[
        int,
        typer.Option(help="LightGCN: epochs at most; it stops early on validation recall@20. 0: what it starts from."),
    ] = _LIGHTGCN.epochs,
    patience: Annotated[int, typer.Option(help="LightGCN: epochs without a better recall before it stops.")] = _LIGHTGCN.patience,
    learning_rate: Annotated[float, typer.Option(help="LightGCN: Adam's learning rate.")] = _LIGHTGCN.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="LightGCN: BPR's lambda.")] = _LIGHTGCN.weight_decay,
    negatives: Annotated[int, typer.Option(help="LightGCN: items drawn against each like.")] = _LIGHTGCN.negatives,
    neighbours: Annotated[int, typer.Option(help="Similar users kept for each user.")] = _DEFAULT.neighbours,
    seed: Annotated[int, typer.Option(help="Seed of LightGCN's training, of --order random and of sampled items.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    Each interaction is in one split: `train`, `validation` or `test`. Trains LightGCN on the likes of `train`, and again on its
    earlier parts for training prompts, which must not retrieve what knows their answer. Finds each user's nearest users, and
    stores everything a prompt is made of as token tables, so that the device needs neither a tokenizer nor a graph library. Says
    how long prompts are and what makes the longest one long.

        rexit index --interactions ratings.csv --items films.csv --tokenizer model/ --template prompt.toml --out catalog

    With `--update` the new catalog is the old one with what happened since, for `rexit refresh`: new users and items are placed
    among the known ones, whose embeddings stay, and nothing is trained. How interactions are read is the old catalog's business;
    of the options only those of files and id columns apply. The new interactions of one user in ten are `validation`, of one in
    ten `test`.

        rexit index --update old --interactions today.csv --items films.csv --tokenizer model/ --template prompt.toml --out new

    Published protocols: `--split time:0.8,0.9` for one border in time, `--split leave-last:1,1` for the last two of each user,
    `--split-column fold` for splits that come with the data.
    """
    if update is not None:
        _update(context, update, interactions, tokenizer, template, out, items, users, json)
        return
    if items is None:
        raise InputError("--items is missing: a catalog needs one row per item; only with --update is it optional")
    from rexit.exporter.index import build_catalog

    options = IndexOptions(
        columns=Columns(user_column, item_column, rating_column, time_column, split_column),
        positive_at=positive_at,
        implicit=implicit,
        implicit_negatives=implicit_negatives,
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
        seed=seed,
    )
    with progress() as bar:
        info = build_catalog(interactions, items, tokenizer, template, out, options, users=users, progress=shown(bar))
    if json:
        kept = {
            key: info[key]
            for key in ("ids", "counts", "repeats", "order", "split", "splits", "labels", "embedding", "lightgcn", "retrieval")
        }
        most = {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens", "lengths")}
        print_json({"catalog": str(out), **kept, "prompt": most})
        return
    counts, found = info["counts"], info["retrieval"]
    sizes = {**counts, **{f"{name} interactions": split["rows"] for name, split in info["splits"].items()}}
    print_table(str(out), ["", "count"], sizes.items())
    _print_repeats(info["repeats"]["dropped"])
    _print_times(Timeline.of(info["order"], "catalog.json"))
    _print_lengths(info["prompt"])
    if found["recall@20"] is None:
        stdout.print("No user has a like in the validation split: the retriever's recall was not measured, all epochs were run.")
    else:
        rows = [("LightGCN", found["recall@20"]), ("popularity", found["popularity_recall@20"])]
        print_table(f"Retriever on the validation split ({found['epochs']} epochs)", ["", "recall@20"], rows)


_OF_UPDATES = {"interactions", "items", "tokenizer", "template", "out", "users", "user_column", "item_column", "update", "json"}


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
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if others := sorted(given - _OF_UPDATES):
        raise InputError(f"--{others[0].replace('_', '-')} does not go with --update: {catalog} decides that")
    columns = {name: context.params[name] for name in ("user_column", "item_column")}
    with progress() as bar:
        info = update_catalog(
            catalog, interactions, tokenizer, template, out, items=items, users=users, **columns, progress=shown(bar)
        )
    new = info["updated"]
    if json:
        print_json({"catalog": str(out), **{key: info[key] for key in ("ids", "counts", "splits", "embedding", "updated")}})
        return
    print_table(str(out), ["", "new", "all"], [[n, new[n], info["counts"][n]] for n in ("users", "items", "interactions")])
    _print_repeats(new["repeats"])
    if new["without_embedding"]:
        stdout.print(
            f"{new['without_embedding']} items with interactions have no like to place them by: nothing is near to them."
        )
    if new["cut_texts"]:
        stdout.print(f"{new['cut_texts']} new texts were longer than any of their column was, and were cut to that.")


def _print_repeats(rows: int) -> None:
    if rows:
        stdout.print(f"{rows} rows repeat an interaction: left out.")


def _print_times(timeline: Timeline) -> None:
    if timeline.by == "time":
        first, last = (timeline.date(time) or time for time in (timeline.first, timeline.last))
        stdout.print(f"Times {'as' if timeline.unit is None else 'in'} {timeline.kind}: {first} to {last}.", highlight=False)


def _print_lengths(prompt: Mapping[str, Any]) -> None:
    lengths, rows = prompt["lengths"], []
    for part in ("prefix", "candidate"):
        seen, most = lengths[part], prompt[f"max_{part}_tokens"]
        rows.append([part, seen["p50"], seen["p99"], seen["max"], most, *_blame(seen["longest"])])
    print_table(
        f"Tokens of prompts ({lengths['users']} users' measured; at most: what template and tables allow)",
        ["", "50 %", "99 %", "max", "at most", "most of it from", "whose longest cell"],
        rows,
    )


def _blame(longest: Mapping[str, Any] | None) -> tuple[str, str]:
    if longest is None:
        return "", ""
    source = f"{longest['placeholder'] or 'text of the template'}: {longest['tokens']}"
    if (column := longest["column"]) is None:
        return source, ""
    what = column["name"].partition(".")[0]
    return source, f"{column['name']} of {what} {column['id']}: {column['max']} (99 %: {column['p99']})"
