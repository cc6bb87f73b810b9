"""Scores files of pairs.

1. All pairs are checked and partitioned by user, once.
2. Each partition is scored and stored, unless an earlier run stored it.
3. The output is written in one pass, and the work folder removed.

A failure in 1 leaves nothing. After a later failure the stored partitions stay, and the same call continues from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rexit import __version__
from rexit.batch.output import COLUMNS, Output
from rexit.batch.pairs import OUT_FORMATS, ColumnNames, PairFiles, check_format
from rexit.batch.partition import Scoring, digests, score_partitions
from rexit.batch.records import PairReader
from rexit.batch.work import Plan, Work
from rexit.bundle import Bundle, Id, check_writable
from rexit.bundle.input_kinds import Value
from rexit.errors import InputError
from rexit.progress import Progress, silent


@dataclass(frozen=True)
class BatchOptions:
    """What is scored, and how.

    Attributes:
        pairs: A .csv, .tsv or .parquet file, or a folder of files of one kind.
        out: The output, a .csv or .parquet file.
        columns: Names of the columns.
        as_of: The time of every row, if the files have no column of times; None: no time.
        top_k: Rows of a slate that are kept, best first; 0: all, in their order.
        inputs: Values for every row, by input name, for inputs without a column.
        threads: As in `rexit.open`.
    """

    pairs: Path
    out: Path
    columns: ColumnNames
    as_of: int | None
    top_k: int = 0
    inputs: Mapping[str, Value] = field(default_factory=dict)
    threads: int = 0


@dataclass(frozen=True)
class TooLong:
    """A slate whose prompt is too long for the model."""

    user: Id
    as_of: int | None
    reason: str


@dataclass(frozen=True)
class Report:
    """What became of the pairs.

    Attributes:
        pairs: Number of pairs.
        slates: Number of slates.
        rows: Rows of the output; 0: there is no output.
        resumed: Pairs that an earlier run had scored.
        too_long: Slates without an answer.
        unknown_users: Users that the catalog does not have.
        mean_layers: Layers per candidate with an answer; None without any.
        seconds: Duration of this run.
    """

    pairs: int
    slates: int
    rows: int
    resumed: int
    too_long: tuple[TooLong, ...]
    unknown_users: tuple[Id, ...]
    mean_layers: float | None
    seconds: float


def score_files(
    bundle: Bundle,
    options: BatchOptions,
    progress: Progress = silent,
    on_plan: Callable[[Plan, int], None] = lambda plan, resumed: None,
    on_stop: Callable[[Path, int], None] = lambda folder, pairs: None,
) -> Report:
    """Scores files of pairs. All pairs are checked before the first slate is scored.

    Args:
        bundle: The bundle. Its selected variant scores.
        options: What is scored, and how.
        progress: Reports pairs.
        on_plan: Called with the plan, and the number of pairs that an earlier run had scored.
        on_stop: Called if scoring fails or is interrupted, with the work folder and the number of pairs scored so far.

    Returns:
        A report. It lists slates with a prompt that is too long.

    Raises:
        InputError: The pairs, or a place for output, are not what is expected.
        BundleError: And whatever else `rexit.open` and `Session.score` raise.
    """
    begin = time.perf_counter()
    out, begun_with = options.out, digests(bundle)
    files = PairFiles.find(
        options.pairs, options.columns, tuple(COLUMNS), bundle.catalog.inputs.names, bundle.catalog.reads_scores
    )
    if files.time is not None and options.as_of is not None:
        raise InputError(f"--as-of and the column {files.time!r} of {files.place} both give a time, expected one")
    if both := [name for name in options.inputs if name in files.inputs]:
        raise InputError(f"--input {both[0]} and the column {files.inputs[both[0]]!r} of {files.place}, expected one")
    _check_out(out, files)
    identity = _identity(begun_with, options, files)
    with Work.opened(out) as work:
        try:
            plan = work.plan(identity) or work.split(PairReader(files, bundle, options.as_of, options.inputs), identity, progress)
        except BaseException:
            if not (work.folder / "plan.json").exists():
                work.remove()
            raise
        try:
            stored = work.scored()
            resumed = sum(summary["pairs"] for summary in work.summaries())
            on_plan(plan, resumed)
            scoring = Scoring(files.time is not None or options.as_of is not None, options.top_k, options.threads)
            pending = [partition for partition in plan.partitions if partition not in stored]
            done = resumed

            def advance(pairs: int) -> None:
                nonlocal done
                done += pairs
                progress("pairs", done, plan.rows)

            for partition, scored in score_partitions(bundle, begun_with, work, plan, pending, scoring, advance):
                work.store(partition, *scored)
            output = Output(out, files, bundle.catalog.info["ids"], plan.text_times, in_order=not options.top_k)
            if files.identity() != identity["pairs"]:
                raise InputError(f"{files.place}: changed during the run; remove {work.folder} to begin anew")
            rows = output.write(work.folder, list(work.scored().values()), progress)
        except BaseException:
            if work.scored():
                on_stop(work.folder, sum(summary["pairs"] for summary in work.summaries()))
            else:
                work.remove()
            raise
        report = _report(work, plan, rows, resumed, begin)
        work.remove()
    return report


def _identity(begun_with: Mapping[str, str | None], options: BatchOptions, files: PairFiles) -> dict[str, Any]:
    """What an unfinished run must have in common with this one, by the names that a message uses."""
    return {
        "version of rexit": __version__,
        **begun_with,
        "pairs": files.identity(),
        "columns": [files.columns.user, files.columns.item, files.time],
        "columns of inputs": dict(files.inputs),
        "--as-of": options.as_of,
        "--input": {
            name: value if isinstance(value, str | int | float) else [int(token) for token in value]
            for name, value in options.inputs.items()
        },
        "--top-k": options.top_k,
    }


def _check_out(out: Path, files: PairFiles) -> None:
    """Raises InputError if the scored pairs cannot be written."""
    check_format(out, OUT_FORMATS)
    if out.is_dir():
        raise InputError(f"{out}: cannot be written: it is a folder")
    if not out.parent.is_dir():
        raise InputError(f"{out}: cannot be written: there is no folder {out.parent}")
    if out.exists() and any(out.samefile(path) for path in files.files):
        raise InputError(f"{out}: is a file of --pairs, which --out would replace")
    if out.suffix == ".parquet":
        files.common_types()
    check_writable(out.parent)


def _report(work: Work, plan: Plan, rows: int, resumed: int, begin: float) -> Report:
    summaries = work.summaries()
    total = {name: sum(summary[name] for summary in summaries) for name in ("slates", "candidates", "layers")}
    too_long = sorted((slate for summary in summaries for slate in summary["too_long"]), key=lambda slate: slate[0])
    return Report(
        pairs=plan.rows,
        slates=total["slates"],
        rows=rows,
        resumed=resumed,
        too_long=tuple(TooLong(user, as_of, reason) for _, user, as_of, reason in too_long),
        unknown_users=plan.unknown,
        mean_layers=total["layers"] / total["candidates"] if total["candidates"] else None,
        seconds=time.perf_counter() - begin,
    )
