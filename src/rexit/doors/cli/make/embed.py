"""`rexit embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.output import counted, progress, shown, stdout


def embed(
    table: Annotated[Path, typer.Argument(help="The items' file: CSV, TSV or Parquet.")],
    model: Annotated[str, typer.Option(help="A sentence encoder: a folder or a Hub name.")],
    text: Annotated[str, typer.Option(help="The text of an item, with its columns in braces.")],
    out: Annotated[Path, typer.Option(help="The Parquet file: all columns and the new one.")],
    column: Annotated[str, typer.Option(help="The new column's name.")] = "text",
) -> None:
    """Encode the texts of items: a column of vectors, which exit zero compares with what a user liked.

    ```
    rexit embed films.csv --model all-MiniLM-L6-v2 \\
      --text "{title} {description}" --out films.parquet
    ```

    Next: `rexit index --items films.parquet`. New items need vectors of the same encoder.
    """
    from rexit.exporter.embed import embed_table

    with progress() as bar:
        embedded = embed_table(table, model, text, out, column, shown(bar))
    share = f"{embedded.with_vector:,} of {counted(embedded.rows, 'item')}"
    stdout.print(f"{out}: column {column}, {embedded.width} numbers for {share}.", highlight=False)
