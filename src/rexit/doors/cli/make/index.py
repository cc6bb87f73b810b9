"""`rexit index`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.doors.cli.common.arguments import JsonOption, parse_columns
from rexit.doors.cli.common.output import counted, print_json, print_table, print_values, progress, say, shown, stdout
from rexit.errors import InputError
from rexit.exporter.options import POSITIVE_AT, Columns, ExternalOptions, IndexOptions, LightGCNOptions
from rexit.format.candidates import EXPECTED, Candidates
from rexit.format.times import Timeline

_DEFAULT = IndexOptions()
_ROLES = tuple(asdict(_DEFAULT.columns))

_SUMMARY = (
    "ids",
    "counts",
    "columns",
    "repeats",
    "order",
    "split",
    "splits",
    "labels",
    "candidates",
    "embedding",
    "lightgcn",
    "retrieval",
    "zero",
    "updated",
)
"""Keys of catalog.json that `rexit index --json` prints."""


# Long because typer takes the options, their defaults and their help from the signature.
def index(
    interactions: Annotated[Path, typer.Option(help="Who rated what and when: CSV, TSV or Parquet.")],
    tokenizer: Annotated[str, typer.Option(help="A tokenizer.json, its folder, or a Hub name.")],
    template: Annotated[Path, typer.Option(help="The prompt template, TOML.")],
    out: Annotated[Path, typer.Option(help="The catalog folder. An older catalog is replaced.")],
    items: Annotated[Path | None, typer.Option(help="A row per item: its id and the template's columns.")] = None,
    users: Annotated[Path | None, typer.Option(help="A row per user, if the template names their columns.")] = None,
    old: Annotated[
        Path | None, typer.Option("--from", help="Extend this catalog, for its model, by what happened since.")
    ] = None,
    zero: Annotated[Path | None, typer.Option(help="Exit zero's graph, ONNX, instead of a fitted one.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="ROLE=NAME: user, item, rating, time, weight, split.")] = None,
    positive_at: Annotated[
        float | None, typer.Option(help=f"The lowest rating that is a like. Default: {POSITIVE_AT:g}.")
    ] = None,
    implicit: Annotated[bool, typer.Option("--implicit", help="No ratings: all are likes; see --candidates.")] = False,
    candidates: Annotated[
        str | None,
        typer.Option(help=f"Of slates: {EXPECTED}. N for each like, or in all. Default: rated."),
    ] = None,
    order: Annotated[str, typer.Option(help="What came first: time, file or random.")] = _DEFAULT.order,
    split: Annotated[str | None, typer.Option(help="user:0.8,0.9 (default), time:A,B or leave-last:V,T.")] = None,
    retriever_config: Annotated[
        Path | None, typer.Option(help="TOML or JSON: epochs, dim, neighbours, … (docs/tables.md).")
    ] = None,
    item_embeddings: Annotated[Path | None, typer.Option(help="Instead of LightGCN's: .parquet or .npy.")] = None,
    user_embeddings: Annotated[Path | None, typer.Option(help="Of users. Default: made of the items they like.")] = None,
    embeddings_as_of: Annotated[str | None, typer.Option(help="Embeddings know what happened before this time.")] = None,
    seed: Annotated[int, typer.Option(help="Of training, candidates and a random order.")] = 0,
    json: JsonOption = False,
) -> None:
    """Turn interactions, items, a tokenizer and a prompt template into a catalog.

    ```
    rexit index --interactions ratings.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out catalog
    rexit index --from catalog --interactions today.csv --items films.csv \\
      --tokenizer model/ --template prompt.toml --out newer
    ```

    --from trains nothing: what is new in the files is placed among the known users and items, and ids, embeddings, prompts and
    options stay. `rexit refresh` puts the result into the bundle.
    """
    from rexit.exporter.index import build_catalog
    from rexit.exporter.options import with_config
    from rexit.exporter.prompt.template import read_template
    from rexit.exporter.retriever.external import risk

    if item_embeddings is None and user_embeddings is not None:
        raise InputError("--user-embeddings is given without --item-embeddings: candidates need embeddings, too")
    options = IndexOptions(
        columns=Columns(**parse_columns(column, _ROLES)),
        positive_at=positive_at,
        implicit=implicit,
        candidates=None if candidates is None else Candidates.parse(candidates),
        order=order,
        split=split,
        lightgcn=LightGCNOptions(seed=seed),
        external=None if item_embeddings is None else ExternalOptions(item_embeddings, user_embeddings, embeddings_as_of),
        seed=seed,
        zero=zero,
    )
    if retriever_config is not None:
        options = with_config(options, retriever_config)
    with progress() as bar:
        info = build_catalog(
            interactions,
            items,
            tokenizer,
            template,
            out,
            None if old is not None and options == _DEFAULT else options,
            users=users,
            old=old,
            progress=shown(bar),
        )
    if (line := risk(info)) and old is None:
        say(f"rexit: warning: {line}")
    counts = info["counts"]
    if counts["likes"] == counts["interactions"] and (verdicts := read_template(template).verdicts):
        say(f"rexit: warning: all interactions are likes, so {', '.join(verdicts)} of {template} tell nothing apart")
    if json:
        lengths = {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens")}
        print_json({"catalog": str(out), **{key: info[key] for key in _SUMMARY if key in info}, "prompt": lengths})
    else:
        _print_catalog(out, info)


def _print_catalog(path: Path, info: Mapping[str, Any]) -> None:
    """Prints tables of counts, labels, prompts and recall. info: catalog.json."""
    from rexit.format.bundle.files import typed

    counts, retrieval = info["counts"], info["retrieval"]
    if "updated" in info:
        return _print_extended(path, info)
    sizes = {**counts, **{f"{name} interactions": split["rows"] for name, split in info["splits"].items()}}
    print_values(str(path), sizes, "count")
    _print_repeats(info["repeats"]["dropped"])
    _print_candidates(Candidates.of(info), info["candidates"].get("recall", {}))
    timeline = typed(info["order"], Timeline, "catalog.json", at="order")
    if timeline.by == "time":
        first, last = (timeline.date(time) or time for time in (timeline.first, timeline.last))
        stdout.print(f"Times {'as' if timeline.unit is None else 'in'} {timeline.kind}: {first} to {last}.")
    _print_longest(path, info["prompt"])
    if (zero := info.get("zero")) is not None:
        loss = "" if zero.get("log_loss") is None else f", log loss of training users left out {zero['log_loss']:.4f}"
        source = zero.get("file") or (f"none, {zero['none']}" if "none" in zero else None)
        size = (
            "logistic"
            if zero.get("logistic")
            else f"{counted(zero.get('trees', 0), 'tree')} of at most {zero.get('leaves')} leaves"
        )
        stdout.print(f"Exit zero: {source or f'{size}{loss}'}.{_numbers(info)}", highlight=False)
    if retrieval["recall@20"] is None:
        stdout.print("No user has a like in the validation split: recall was not measured.")
    else:
        name, note = ("LightGCN", f" ({counted(retrieval['epochs'], 'epoch')})") if "lightgcn" in info else ("embeddings", "")
        recalls = {name: retrieval["recall@20"], "popularity": retrieval["popularity_recall@20"]}
        print_values(f"Retriever on the validation split{note}", recalls, "recall@20")


def _print_candidates(candidates: Candidates, recall: Mapping[str, float | None]) -> None:
    """recall: of retrieved candidates, by split."""
    if candidates.drawn:
        draw = "uniformly" if candidates.kind == "uniform" else "by popularity"
        stdout.print(f"Candidates: {counted(candidates.count, 'item')} for each like, drawn {draw} from those not met.")
    elif candidates.retrieved:
        shares = ", ".join(f"{share:.3f} of {split}" for split, share in recall.items() if share is not None)
        stdout.print(f"Candidates: the {candidates.count} items that are retrieved first. They have {shares} likes (recall).")


def _numbers(info: Mapping[str, Any]) -> str:
    """What exit zero reads, and why it reads no more."""
    from rexit.format.bundle.catalog import number_name

    left_out = []
    for entry in info["zero"].get("choice", []):
        if not entry["read"]:
            cost = f" and a search of {entry['search_us']} us" if "search_us" in entry else ""
            left_out.append(f"{number_name(entry['number'])} (gains {entry['gain']:.2%} of the loss{cost})")
    read = ", ".join(map(number_name, info["prompt"].get("numbers", [])))
    return (f" It reads {read}." if read else "") + (f" Left out: {', '.join(left_out)}." if left_out else "")


def _print_extended(path: Path, info: Mapping[str, Any]) -> None:
    new, counts = info["updated"], info["counts"]
    print_table(str(path), [{"": name, "new": new[name], "all": counts[name]} for name in ("users", "items", "interactions")])
    _print_repeats(new["repeats"])
    if unplaced := new["without_embedding"]:
        stdout.print(f"{unplaced:,} of {counts['items']:,} items have no like in the train split, so they get no neighbours.")
    if new["cut_texts"]:
        stdout.print(f"{new['cut_texts']} new texts were longer than any old text of their column, and were cut to its length.")


def _print_repeats(rows: int) -> None:
    """Prints how many rows repeat others, if any."""
    if rows:
        stdout.print(f"{rows} rows repeat an interaction and were left out.")


def _print_longest(path: Path, prompt: Mapping[str, Any]) -> None:
    from rexit.exporter.preflight import longest_part
    from rexit.format.bundle import Catalog

    catalog = Catalog.open(path)
    print_table(
        "Tokens of the longest prompt that template and tables allow",
        [
            {
                "": part,
                "at most": prompt[f"max_{part}_tokens"],
                **dict(zip(("mostly from", "its longest cell"), longest_part(catalog, part), strict=True)),
            }
            for part in ("prefix", "candidate")
        ],
    )
