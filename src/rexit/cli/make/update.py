"""`rexit update`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import print_table
from rexit.cli.make.index import print_repeats


def update(
    catalog: Annotated[Path, typer.Argument(help="The catalog to extend. It stays as it is.")],
    interactions: Annotated[Path, typer.Option(help="The new interactions, with the catalog's columns: CSV, TSV or Parquet.")],
    tokenizer: Annotated[str, typer.Option(help="The catalog's own: a tokenizer.json, a folder with one, or a Hub name.")],
    template: Annotated[Path, typer.Option(help="The catalog's own prompt template.")],
    out: Annotated[Path, typer.Option(help="The catalog folder to write. An older catalog there is replaced.")],
    items: Annotated[Path | None, typer.Option(help="A row for each new item, and for items whose text changed.")] = None,
    users: Annotated[Path | None, typer.Option(help="A row for each new user, if the template names columns of users.")] = None,
    json: JsonOption = False,
) -> None:
    """Extend a catalog with what happened since, for the model that was trained on it.

    Ids, embeddings, prompt program, limits and names of columns stay. Nothing is trained: new users and items are placed among
    the existing ones. Of the new interactions, those of one user in ten are `validation`, of one in ten `test`.

    ```
    rexit update catalog --interactions today.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out newer
    ```

    Next: `rexit refresh bundle newer` puts it into the bundle.
    """
    from rexit.exporter.update import update_catalog

    with progress() as bar:
        info = update_catalog(catalog, interactions, tokenizer, template, out, items=items, users=users, progress=shown(bar))
    new = info["updated"]
    if json:
        print_json({"catalog": str(out), **{key: info[key] for key in ("ids", "counts", "splits", "embedding", "updated")}})
        return
    rows = [{"": name, "new": new[name], "all": info["counts"][name]} for name in ("users", "items", "interactions")]
    print_table(str(out), rows)
    print_repeats(new["repeats"])
    if unplaced := new["without_embedding"]:
        stdout.print(
            f"{unplaced:,} of {info['counts']['items']:,} items have interactions but no likes, so they get no neighbours."
        )
    if new["cut_texts"]:
        stdout.print(f"{new['cut_texts']} new texts were longer than any old text of their column, and were cut to its length.")
