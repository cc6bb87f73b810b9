"""`rexit index`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.named import parse_columns
from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, progress, shown, stderr
from rexit.cli.show.catalog import print_catalog, summary
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

_DEFAULT = IndexOptions()
_ROLES = tuple(asdict(_DEFAULT.columns))

_files = partial(typer.Option, rich_help_panel="Input and output")
_likes = partial(typer.Option, rich_help_panel="Likes, order and splits")
_retriever = partial(typer.Option, rich_help_panel="Retriever")


# Long because typer takes the options, their defaults and their help from the signature.
def index(
    interactions: Annotated[Path, _files(help="Who rated what and when: CSV, TSV or Parquet.")],
    items: Annotated[Path, _files(help="A row per item: its id and the template's columns.")],
    tokenizer: Annotated[str, _files(help="A tokenizer.json, its folder, or a Hub name.")],
    template: Annotated[Path, _files(help="The prompt template, TOML.")],
    out: Annotated[Path, _files(help="The catalog folder. An older catalog is replaced.")],
    users: Annotated[Path | None, _files(help="A row per user, if the template names their columns.")] = None,
    column: Annotated[list[str] | None, _files(help="ROLE=NAME names a column: user, item, rating, time, split.")] = None,
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
    seed: Annotated[int, typer.Option(help="Of training, --order random and sampled items.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    ```
    rexit index --interactions ratings.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out catalog
    ```
    """
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
    with progress() as bar:
        info = build_catalog(interactions, items, tokenizer, template, out, options, users=users, progress=shown(bar))
    if line := risk(info):
        stderr.print(f"rexit: warning: {line}", soft_wrap=True)
    if json:
        print_json({"catalog": str(out), **summary(info)})
    else:
        print_catalog(out, info)
