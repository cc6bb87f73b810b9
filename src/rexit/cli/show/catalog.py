"""A catalog that was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import counted, print_table
from rexit.times import Timeline

_SUMMARY = (
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


def summary(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of catalog.json that `rexit index --json` prints."""
    lengths = {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens", "lengths")}
    return {**{key: info[key] for key in _SUMMARY if key in info}, "prompt": lengths}


def print_catalog(path: Path, info: Mapping[str, Any]) -> None:
    """Prints tables of counts, labels, prompts and recall. info: catalog.json."""
    from rexit.bundle.typed import typed

    counts, retrieval = info["counts"], info["retrieval"]
    sizes = {**counts, **{f"{name} interactions": split["rows"] for name, split in info["splits"].items()}}
    print_table(str(path), ["", "count"], sizes.items())
    print_repeats(info["repeats"]["dropped"])
    _print_times(typed(info["order"], Timeline, "catalog.json", at="order"))
    _print_objectives(info)
    _print_lengths(info["prompt"])
    if retrieval["recall@20"] is None:
        stdout.print("No user has a like in the validation split: recall was not measured.")
    else:
        name, note = ("LightGCN", f" ({counted(retrieval['epochs'], 'epoch')})") if "lightgcn" in info else ("embeddings", "")
        rows = [(name, retrieval["recall@20"]), ("popularity", retrieval["popularity_recall@20"])]
        print_table(f"Retriever on the validation split{note}", ["", "recall@20"], rows)


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
