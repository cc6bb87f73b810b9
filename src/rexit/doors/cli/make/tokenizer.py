"""`rexit tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.doors.cli.common.arguments import parse_columns
from rexit.doors.cli.common.output import stdout
from rexit.exporter.options import Columns


def tokenizer(
    tables: Annotated[list[Path], typer.Argument(help="The items' file, the users' file, or both: CSV, TSV or Parquet.")],
    template: Annotated[Path, typer.Option(help="The prompt template, TOML: its words become tokens.")],
    out: Annotated[Path, typer.Option(help="The folder to write tokenizer.json to.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="The column of ids, which is left out, as ROLE=NAME: user (user_id) or item (item_id)."),
    ] = None,
) -> None:
    """Train a small tokenizer on the texts of items and users, for a model trained from scratch.

    A byte-level BPE of 1,536 tokens over every text column. A small vocabulary keeps the embedding table small beside a few
    layers. A pretrained model needs its own tokenizer instead.

    ```
    rexit tokenizer films.csv users.csv --template prompt.toml \\
      --out tokenizer
    ```

    Next: `rexit index --tokenizer tokenizer` with the same files.
    """
    from rexit.exporter.prompt.pieces import train_tokenizer

    columns = Columns(**parse_columns(column, ("user", "item")))
    tokens = train_tokenizer(tables, template, out, columns).get_vocab_size()
    stdout.print(f"{out}: {tokens} tokens")
