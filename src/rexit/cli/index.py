"""`rexit index`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli._output import JsonOption, print_json, print_table, progress, stdout


def register(app: typer.Typer) -> None:
    app.command("index")(index)


def index(
    interactions: Annotated[Path, typer.Option(help="Who rated what and when: CSV, TSV or Parquet.")],
    items: Annotated[Path, typer.Option(help="One row per item: its id and the columns that the template names.")],
    tokenizer: Annotated[str, typer.Option(help="A tokenizer.json, a folder with one, or a Hugging Face Hub name.")],
    template: Annotated[Path, typer.Option(help="The prompt template, TOML (docs/template.md).")],
    out: Annotated[Path, typer.Option(help="The catalog folder to write; an older catalog there is replaced.")],
    users: Annotated[Path | None, typer.Option(help="One row per user, if the template names columns of users.")] = None,
    user_column: Annotated[str, typer.Option(help="The user id's column.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="The item id's column.")] = "item_id",
    rating_column: Annotated[str, typer.Option(help="The rating's column.")] = "rating",
    time_column: Annotated[str, typer.Option(help="The time's column: whole numbers, or Parquet dates.")] = "timestamp",
    positive_at: Annotated[float, typer.Option(help="A rating of at least this is a like.")] = 4.0,
    dim: Annotated[int, typer.Option(help="LightGCN: width of the embeddings.")] = 64,
    layers: Annotated[int, typer.Option(help="LightGCN: propagation layers.")] = 3,
    epochs: Annotated[int, typer.Option(help="LightGCN: epochs at most; it stops early on validation recall@20.")] = 100,
    neighbours: Annotated[int, typer.Option(help="Similar users kept for each user.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of LightGCN's training.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    Trains LightGCN on the training split's likes, finds each user's nearest users, and stores everything a prompt is made of as
    token tables, so that the device needs neither a tokenizer nor a graph library. Says how long prompts are and what
    makes the longest one long.

        rexit index --interactions ratings.csv --items films.csv --tokenizer model/ --template prompt.toml --out catalog
    """
    from rexit.exporter.catalog.interactions import Columns
    from rexit.exporter.catalog.lightgcn import Settings
    from rexit.exporter.index import build_catalog

    with progress() as bar:
        task = bar.add_task("LightGCN", total=epochs)

        def tell(done: int, total: int, recall: float | None) -> None:
            best = "" if recall is None else f", recall@20 {recall:.3f}"
            bar.update(task, completed=done, total=total, description=f"LightGCN{best}")

        info = build_catalog(
            interactions,
            items,
            tokenizer,
            template,
            out,
            users=users,
            columns=Columns(user_column, item_column, rating_column, time_column),
            positive_at=positive_at,
            neighbours=neighbours,
            settings=Settings(dim=dim, layers=layers, epochs=epochs, seed=seed),
            progress=tell,
        )
    if json:
        kept = {key: info[key] for key in ("ids", "counts", "splits", "labels", "embedding", "retrieval")}
        most = {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens", "lengths")}
        print_json({"catalog": str(out), **kept, "prompt": most})
        return
    counts, found = info["counts"], info["retrieval"]
    sizes = {**counts, **{f"{name} interactions": split["rows"] for name, split in info["splits"].items()}}
    print_table(str(out), ["", "count"], sizes.items())
    _print_lengths(info["prompt"])
    if found["recall@20"] is None:
        stdout.print("No user has a like in the validation split: the retriever's recall was not measured, all epochs were run.")
    else:
        rows = [("LightGCN", found["recall@20"]), ("popularity", found["popularity_recall@20"])]
        print_table(f"Retriever on the validation split ({found['epochs']} epochs)", ["", "recall@20"], rows)


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
