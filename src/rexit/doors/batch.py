"""Scores pairs of users and items: a function from an Arrow table to an Arrow table. `rexit score --pairs` runs it over files;
Ray Data, Spark or another engine that has a user's rows in one table runs it on many machines.

1. A slate is the rows with the same user, time and inputs, in the catalog's order of items: engines shuffle rows.
2. A user's slates follow one another by time, then by inputs. The first begins with an empty prefix cache, so a score depends on
   the user's own rows alone: not on their order, on other users, on workers, or on what an earlier run finished.
3. All rows are checked before the first slate is scored; their inputs by the library.
4. A slate whose prompt is too long has no scores. Any other failure ends the call.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rexit import __version__, runtime
from rexit.data.delimited import read_lines
from rexit.data.slates_file import parse_score
from rexit.errors import BundleError, InputError, RexitError
from rexit.format.bundle import Bundle, Catalog, Id, check_writable, locked_file, write_file, write_json
from rexit.format.bundle.catalog import SCORE
from rexit.format.bundle.files import replaced
from rexit.format.bundle.inputs import Value
from rexit.format.ids import first_few, parse_id
from rexit.format.request import Request
from rexit.progress import Progress, silent

PAIR_FORMATS = (".csv", ".tsv", ".parquet")
OUT_FORMATS = (".csv", ".parquet")
PART_PAIRS = 1 << 12
"""Pairs of a stored part, and those of one user more: what a killed run loses at most."""
ADDED = {"probability": pa.float32(), "raw_log_odds": pa.float32(), "exit": pa.int32()}
"""Columns that scoring adds. Rank by `probability`: raw log-odds of two exits cannot be compared."""

_LOGGER = logging.getLogger("rexit")
_BATCH_ROWS = 1 << 16
_SCORE = np.dtype([("row", "<i8"), ("probability", "<f4"), ("raw_log_odds", "<f4"), ("exit", "<i4")])

Rows = NDArray[np.int64]
"""Numbers of rows of a table."""


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns that scoring reads.

    Attributes:
        user: The column of users.
        item: The column of items.
        as_of: The column of times; None: `as_of`, if the table has it.
        inputs: The columns of inputs, by input name. Another input has the column of its own name, if the table has it.
    """

    user: str = "user_id"
    item: str = "item_id"
    as_of: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableScorer:
    """What `score_table` returns. Can be pickled. Threads may share it; one scores at a time."""

    bundle: str
    variant: str
    digests: Mapping[str, str | None]
    columns: ColumnNames
    as_of: Any
    top_k: int
    floor: bool
    inputs: Mapping[str, Value]
    threads: int

    __name__ = "score_table"  # by which Ray names a function's tasks

    def __call__(self, table: pa.Table) -> pa.Table:
        """Returns the table with the columns of `ADDED`; with `top_k` or `floor` only the rows of each slate that it keeps."""
        process = _process(self)
        with process.lock:
            pairs = _Pairs.read(table, self, process, lambda row: f"row {row + 1}")
            scores = process.score(pairs, pairs.slates(), self)
        for slate in scores.too_long:
            _LOGGER.warning("user %r has no scores: %s", slate["user"], slate["reason"])
        return scores.added_to(table, self.leaves_out)

    @property
    def leaves_out(self) -> bool:
        """Whether rows may be missing from the answer, which is in order then."""
        return self.top_k > 0 or self.floor


def score_table(
    bundle: str | os.PathLike[str],
    variant: str | None = None,
    *,
    columns: ColumnNames = ColumnNames(),
    as_of: Any = None,
    top_k: int = 0,
    floor: bool = False,
    inputs: Mapping[str, Value] | None = None,
    threads: int = 0,
) -> TableScorer:
    """Returns a function that scores a table of pairs, for Ray Data, Spark and their like.

    Each process that calls it opens the bundle once, at the first call. All rows of a user must be in the same table.

    Args:
        bundle: The bundle's folder, which every process can read.
        variant: Name of the variant; None: the first with a policy, or else the first.
        columns: Names of the columns.
        as_of: The time of every row, if the table has no column of times: a number, date or time; None: no time.
        top_k: Rows of a slate that are kept, best first; 0: all, in their order.
        floor: Whether rows below the policy's floor are left out; the others come best first.
        inputs: Values for every row, by input name, for inputs without a column.
        threads: As in `rexit.open`; 1 with a process for each core.

    Returns:
        A function from `pyarrow.Table` to `pyarrow.Table`. It adds `probability`, `raw_log_odds` and `exit`, null where a
        prompt is too long. It raises InputError for the first row that is not what is expected, and BundleError in a process
        that finds another variant, policy or catalog than this call did.

    Raises:
        InputError: There is no such variant.
        BundleError: The bundle cannot be read.
    """
    opened = Bundle.open(Path(bundle), variant)
    digests = _digests(opened)
    return TableScorer(os.fspath(bundle), opened.variant.name, digests, columns, as_of, top_k, floor, dict(inputs or {}), threads)


@dataclass(frozen=True)
class _Scores:
    """Records of `_SCORE`, slate by slate; user, time and reason of each slate that is too long; the number of candidates with an
    answer, and their layers."""

    records: NDArray[Any]
    too_long: list[dict[str, Any]]
    candidates: int
    layers: int

    def store(self, path: Path) -> None:
        """Writes a part of a run."""
        summary = {"too_long": self.too_long, "candidates": self.candidates, "layers": self.layers}
        line = json.dumps({"records": len(self.records), **summary})
        write_file(path, line.encode() + b"\n" + self.records.tobytes(), flushed=True)

    @classmethod
    def load(cls, path: Path) -> _Scores | None:
        """Reads what `store` wrote; None: nothing, or another number of records."""
        if not path.exists():
            return None
        line, _, records = path.read_bytes().partition(b"\n")
        try:
            summary = json.loads(line)
            is_whole = summary.pop("records") * _SCORE.itemsize == len(records)
            return cls(np.frombuffer(records, _SCORE), **summary) if is_whole else None
        except (ValueError, TypeError, LookupError, AttributeError):
            return None

    @classmethod
    def joined(cls, parts: Sequence[_Scores]) -> _Scores:
        """Returns the scores of all parts."""
        records = np.concatenate([np.empty(0, _SCORE), *(part.records for part in parts)])
        too_long = [slate for part in parts for slate in part.too_long]
        return cls(records, too_long, sum(part.candidates for part in parts), sum(part.layers for part in parts))

    def added_to(self, table: pa.Table, leaves_out: bool) -> pa.Table:
        """Returns the table with the scores: all rows in their order, or with `leaves_out` those that have a record."""
        records, missing = self.records, np.zeros(len(self.records), np.bool_)
        if leaves_out:
            table = table.take(records["row"])
        else:
            records, missing = np.zeros(table.num_rows, _SCORE), np.ones(table.num_rows, np.bool_)
            records[self.records["row"]], missing[self.records["row"]] = self.records, False
        for name, dtype in ADDED.items():
            table = table.append_column(name, pa.array(records[name], dtype, mask=missing))
        return table


class _Process:
    """A scorer's bundle as this process has it open, with one session. Raises BundleError if it is not what the scorer names."""

    def __init__(self, scorer: TableScorer) -> None:
        self.session = runtime.open(scorer.bundle, scorer.variant, threads=scorer.threads)
        bundle = Bundle.open(Path(scorer.bundle), scorer.variant)
        self.catalog, self.digests, self.lock = bundle.catalog, _digests(bundle), threading.Lock()
        if changed := [name for name, sha256 in self.digests.items() if sha256 != scorer.digests[name]]:
            raise BundleError(f"{scorer.bundle}: got another {' and another '.join(changed)} since `score_table` read it")

    def score(
        self, pairs: _Pairs, slates: Sequence[Rows], scorer: TableScorer, advance: Callable[[int], None] = lambda pairs: None
    ) -> _Scores:
        """Scores slates, all of each user. advance: called with the number of pairs of each finished slate."""
        parts, last_user = [], -1
        for rows in slates:
            if pairs.user[rows[0]] != last_user:
                self.session.clear_cache()
                last_user = int(pairs.user[rows[0]])
            request = pairs.request(rows)
            try:
                scores = self.session.score(request, top_k=scorer.top_k, floor=scorer.floor or None)
            except RexitError as exc:
                if exc.status != "REXIT_TOO_LONG":
                    raise
                slate = {"user": request.user, "as_of": request.as_of, "reason": str(exc)}
                parts.append(_Scores(np.empty(0, _SCORE), [slate], 0, 0))
            else:
                records = np.empty(len(scores), _SCORE)
                records["row"], records["exit"] = rows[scores.index], scores.exit
                records["probability"], records["raw_log_odds"] = scores.probability, scores.log_odds
                parts.append(_Scores(records, [], len(rows), scores.stats.candidate_layers))
            advance(len(rows))
        return _Scores.joined(parts)


def _digests(bundle: Bundle) -> dict[str, str | None]:
    """What determines a bundle's scores."""
    return {"variant": bundle.variant_sha256, "policy": bundle.policy_sha256, "catalog": bundle.manifest.catalog_sha256}


_processes: dict[tuple[str, str, int], _Process] = {}
_opening = threading.Lock()
_pid = os.getpid()


def _process(scorer: TableScorer) -> _Process:
    global _pid
    with _opening:
        if _pid != os.getpid() and _processes:
            raise InputError(
                f"{scorer.bundle}: this process was forked from one that has scored, whose threads it lacks: expected `spawn`"
            )
        _pid = os.getpid()
        key = scorer.bundle, scorer.variant, scorer.threads
        if key not in _processes or _processes[key].digests != scorer.digests:
            _processes[key] = _Process(scorer)
        return _processes[key]


@dataclass(frozen=True)
class _Pairs:
    """The rows of a table, as requests need them. `user`, `item` and `input` are numbers in `users`, `items` and `inputs`."""

    users: list[Id]
    user: Rows
    items: list[Id]
    item: Rows
    times: NDArray[np.int64] | None
    scores: dict[str, NDArray[np.float64]]
    inputs: list[dict[str, Value]]
    input: Rows

    @classmethod
    def read(
        cls,
        table: pa.Table,
        scorer: TableScorer,
        process: _Process,
        where: Callable[[int], str],
        progress: Progress = silent,
    ) -> _Pairs:
        """Checks all rows. where: says which row of which file a row is. Raises InputError."""
        catalog, columns, names, times = process.catalog, scorer.columns, table.column_names, None
        kinds, timeline = catalog.info["ids"], catalog.timeline
        _check_names(names, columns, catalog.score_names)
        users, user = _distinct(table, columns.user, _ID, lambda cell: parse_id(str(cell), kinds["user"], "user"), where)
        items, item = _distinct(table, columns.item, _ID, lambda cell: parse_id(str(cell), kinds["item"], "item"), where)
        places = catalog.items.find(items)
        if unknown := np.flatnonzero(places < 0).tolist():
            of_items = first_few(unknown, lambda n: f"{items[n]!r} ({where(int((item == n).argmax()))})")
            raise InputError(f"{len(unknown)} {'items are' if unknown[1:] else 'item is'} not in the catalog: {of_items}")
        order = np.argsort(places)
        items, item = [items[n] for n in order], np.argsort(order)[item]
        as_of = columns.as_of or ("as_of" if "as_of" in names else None)
        if as_of is not None:
            if scorer.as_of is not None:
                raise InputError(f"`as_of` and the column {as_of!r} both give a time, expected one")
            moments, number = _distinct(table, as_of, _TIME, lambda cell: timeline.parse(cell, f"`{as_of}`"), where)
            times = np.array(moments, np.int64)[number]
        elif scorer.as_of is not None:
            times = np.full(len(user), timeline.parse(scorer.as_of, "as_of"))
        scores = {}
        for name in catalog.score_names:
            if (column := SCORE + name) in names:
                parse = partial(parse_score, name=f"`{column}`")
                numbers, number = _distinct(table, column, _NUMBER, parse, where, optional=True)
                scores[name] = np.array(numbers, np.float64)[number]
        pairs = cls(users, user, items, item, times, scores, *_inputs(table, scorer, catalog, where))
        rows = np.sort(np.unique(pairs.input, return_index=True)[1]).tolist() if catalog.inputs.names else []
        for n, row in enumerate(rows):
            progress("inputs", n, len(rows))
            try:
                process.session.prompt(pairs.request(np.array([row])))
            except InputError as exc:
                if exc.status != "REXIT_TOO_LONG":
                    raise InputError(f"{where(row)}: {exc}") from exc
        return pairs

    def slates(self) -> list[Rows]:
        """Returns the rows of each slate, user by user."""
        keys = np.stack([self.user, self.user * 0 if self.times is None else self.times, self.input])
        order = np.lexsort([*self.scores.values(), self.item, *keys[::-1]])
        changes = (np.diff(keys[:, order]) != 0).any(0)
        return np.split(order, np.flatnonzero(changes) + 1) if len(order) else []

    def request(self, rows: Rows) -> Request:
        """Returns the request of a slate, or of some of its rows."""
        first = int(rows[0])
        return Request(
            self.users[self.user[first]],
            [self.items[n] for n in self.item[rows]],
            as_of=None if self.times is None else int(self.times[first]),
            inputs=self.inputs[self.input[first]],
            scores={name: numbers[rows] for name, numbers in self.scores.items()} or None,
        )

    def unknown_users(self, catalog: Catalog) -> list[Id]:
        """Returns the users that the catalog does not have."""
        return [self.users[n] for n in np.flatnonzero(catalog.users.find(self.users) < 0)]

    def outside(self, catalog: Catalog) -> Iterator[str]:
        """Yields a line for times before the catalog's interactions, and one for times after them."""
        if self.times is None:
            return
        line, times = catalog.timeline, self.times
        for count, place, end, means in (
            (int((times <= line.first).sum()), "not after the catalog's first", line.first, "none is"),
            (int((times > line.last).sum()), "after the catalog's last", line.last, "all are"),
        ):
            if count:
                of_pairs = f"{count} of {len(times)} pairs are as of a time"
                yield f"{of_pairs} {place} interaction, {line.text(end)}: {means} visible to them"


Kind = tuple[str, tuple[Callable[[pa.DataType], bool], ...]]
"""What a column holds, for messages, and what its type is one of."""
_types = pa.types
_ID: Kind = ("integers or strings", (_types.is_integer, _types.is_string, _types.is_large_string))
_NUMBER: Kind = ("numbers", (*_ID[1], _types.is_floating, _types.is_decimal, _types.is_null))
_TIME: Kind = ("whole numbers, dates or ISO 8601 text", (*_NUMBER[1], _types.is_date, _types.is_timestamp))
_VALUE: Kind = ("numbers, texts or lists of token ids", (*_NUMBER[1], _types.is_boolean))


def _distinct(
    table: pa.Table, name: str, kind: Kind, parse: Callable[[Any], Any], where: Callable[[int], str], optional: bool = False
) -> tuple[list[Any], Rows]:
    """Returns a column's distinct values, parsed, and each row's number among them.

    optional: parse None for cells without a value, which are refused otherwise. Raises InputError that names the row.
    """
    column = table.column(name)
    if _types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)  # UTC, as rexit.format.times reads them
    if column.type == pa.string_view():
        column = column.cast(pa.large_string())
    is_list = kind is _VALUE and (_types.is_list(column.type) or _types.is_large_list(column.type))
    if not any(fits(column.type.value_type if is_list else column.type) for fits in kind[1]):
        raise InputError(f"column {name!r} holds {column.type}, expected {kind[0]}")
    if is_list:
        lists = [None if cell is None else tuple(cell) for cell in column.to_pylist()]
        places = {cell: n for n, cell in enumerate(dict.fromkeys(lists))}
        cells: list[Any] = [None if cell is None else list(cell) for cell in places]
        numbers = np.array([places[cell] for cell in lists], np.int64)
    else:
        encoded = pa.concat_arrays(column.chunks or [pa.array([], column.type)]).dictionary_encode(null_encoding="encode")
        cells, numbers = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
    parsed = []
    for n, cell in enumerate(cells):
        try:
            missing = cell is None or cell == ""
            if missing and not optional:
                raise InputError(f"`{name}` is missing")
            parsed.append(parse(None if missing else cell))
        except InputError as exc:
            raise InputError(f"{where(int((numbers == n).argmax()))}: {exc}") from exc
    return parsed, numbers


def _check_names(names: Sequence[str], columns: ColumnNames, scores: Sequence[str]) -> None:
    named = {"user": columns.user, "item": columns.item, "as_of": columns.as_of}
    named |= {f"input.{name}": column for name, column in columns.inputs.items()}
    stages = [SCORE + name for name in scores]
    if stages and not set(stages) & set(names):
        raise InputError(f"no column {' or '.join(map(repr, stages))}, which exit zero reads, it has: {', '.join(names)}")
    missing = [f"{name!r} (--column {role}=NAME)" for role, name in named.items() if name is not None and name not in names]
    if missing:
        raise InputError(f"no column{'s' * (len(missing) > 1)} {' and '.join(missing)}, it has: {', '.join(names)}")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"column {name!r} appears {names.count(name)} times, expected unique names")
        if name in ADDED:
            raise InputError(f"already has a column {name!r}, which scoring adds")
        if name.startswith(SCORE) and name not in stages:
            reads = ", ".join(scores) or "none"
            raise InputError(f"column {name!r}: exit zero reads no such score, it reads {reads}")


def _inputs(
    table: pa.Table, scorer: TableScorer, catalog: Catalog, where: Callable[[int], str]
) -> tuple[list[dict[str, Value]], Rows]:
    """The distinct sets of inputs, in an order that does not depend on the rows', and each row's number among them."""
    catalog.inputs.check_names([*scorer.inputs, *scorer.columns.inputs])
    values: dict[str, list[Any]] = {}
    numbers = [np.zeros(table.num_rows, np.int64)]
    for entry in catalog.inputs.entries:
        column = scorer.columns.inputs.get(entry.name, entry.name)
        if column in table.column_names:
            if entry.name in scorer.inputs:
                raise InputError(f"inputs.{entry.name} and the column {column!r} both give a value, expected one")
            parse = _text if entry.max_tokens else _value
            values[entry.name], number = _distinct(table, column, _VALUE, parse, where, optional=True)
            numbers.append(number)
    sets, number = np.unique(np.stack(numbers), axis=1, return_inverse=True)
    cells = [{name: values[name][n] for name, n in zip(values, row, strict=True)} for row in sets[1:].T.tolist()]
    texts = [json.dumps(row) for row in cells]
    distinct = dict(sorted(dict(zip(texts, cells, strict=True)).items()))
    places = {text: n for n, text in enumerate(distinct)}
    values_of = [{**scorer.inputs, **{name: cell for name, cell in row.items() if cell is not None}} for row in distinct.values()]
    return values_of, np.array([places[text] for text in texts], np.int64)[number.ravel()]


def _value(cell: Any) -> Value | None:
    """A cell as an input's value, as `rexit index` reads it."""
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return cell if is_number else _text(str(cell).lower() if isinstance(cell, bool) else cell)


def _text(cell: Any) -> Value | None:
    """A text without outer spaces, or token ids; None if nothing is left."""
    return cell if cell is None or isinstance(cell, list) else str(cell).strip() or None


@dataclass(frozen=True)
class Report:
    """What became of the pairs of files.

    Attributes:
        pairs, slates, rows: Number of pairs, of slates, and of the output's rows.
        resumed: Pairs that an earlier run had scored.
        too_long: User, time and reason of each slate without scores.
        unknown_users: Users that the catalog does not have.
        mean_layers: Layers per candidate with an answer; None without any.
        seconds: Duration of this run.
    """

    pairs: int
    slates: int
    rows: int
    resumed: int
    too_long: list[dict[str, Any]]
    unknown_users: list[Id]
    mean_layers: float | None
    seconds: float


def score_files(
    scorer: TableScorer,
    place: Path,
    out: Path,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Scores files of pairs. `OUT.partial` has the parts scored so far: the same call continues from there after a kill.

    Args:
        scorer: What scores a table.
        place: A .csv, .tsv or .parquet file, or a folder of files of one kind. Ids in CSV are exactly what the file says.
        out: The output, a .csv or .parquet file. It is replaced atomically.
        progress: Reports pairs.
        say: Called with what a user should know, in a line each.

    Raises:
        InputError: The pairs, or a place for output, are not what is expected.
        BundleError: And whatever else `rexit.open` and `Session.score` raise.
    """
    begin = time.perf_counter()
    files = _files(place)
    _check_out(out, files)
    sources = [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in files]
    table, where = _read(files)
    if not table.num_rows:
        raise InputError(f"{place}: has no rows")
    process = _Process(scorer)
    with contextlib.closing(process.session):
        identity = {
            "version of rexit": __version__,
            **process.digests,
            "pairs": sources,
            "--column": asdict(scorer.columns),
            "--as-of": scorer.as_of,
            "--input": scorer.inputs,
            "--top-k": scorer.top_k,
            "--floor": scorer.floor,
        }
        try:
            pairs = _Pairs.read(table, scorer, process, where, progress)
        except InputError as exc:
            raise InputError(f"{place}: {exc}") from exc
        if unknown := pairs.unknown_users(process.catalog):
            of_users = f"{len(unknown)} of {len(pairs.users)} users are not in the catalog"
            say(f"{of_users} and are scored without any history: {first_few(unknown)}")
        for line in pairs.outside(process.catalog):
            say(line)
        slates = pairs.slates()
        with _work_folder(out, identity) as folder:
            paths = [(folder / f"part-{n:05d}", part) for n, part in enumerate(_parts(pairs, slates))]
            try:
                scores, resumed = _score_parts(process, pairs, paths, scorer, progress, say)
                scored = scores.added_to(table, scorer.leaves_out)
                with replaced(out, flushed=True) as temporary:
                    _write(temporary, out.suffix, scored, scorer.columns, process.catalog)
            except BaseException:
                if scored_pairs := sum(sum(map(len, part)) for path, part in paths if path.exists()):
                    say(f"{folder} has the {scored_pairs} pairs scored so far; the same command continues from there")
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    layers = scores.layers / scores.candidates if scores.candidates else None
    seconds = time.perf_counter() - begin
    return Report(table.num_rows, len(slates), scored.num_rows, resumed, scores.too_long, unknown, layers, seconds)


def _score_parts(
    process: _Process,
    pairs: _Pairs,
    paths: Sequence[tuple[Path, list[Rows]]],
    scorer: TableScorer,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[_Scores, int]:
    """Scores and stores the parts that an earlier run has not. Returns all scores, and the number of pairs of that run."""
    done, stored = 0, [_Scores.load(path) for path, _ in paths]
    resumed = sum(sum(map(len, part)) for (_, part), scores in zip(paths, stored, strict=True) if scores is not None)
    if resumed:
        say(f"an earlier run scored {resumed} of {len(pairs.user)} pairs; this run continues")

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("pairs", done, len(pairs.user))

    parts = []
    for (path, part), scores in zip(paths, stored, strict=True):
        if scores is None:
            scores = process.score(pairs, part, scorer, advance)
            scores.store(path)
        else:
            advance(sum(map(len, part)))
        parts.append(scores)
    return _Scores.joined(parts), resumed


def _parts(pairs: _Pairs, slates: Sequence[Rows]) -> Iterator[list[Rows]]:
    """Yields the slates of each part, which has all slates of a user."""
    part: list[Rows] = []
    size = 0
    for slate in slates:
        if size >= PART_PAIRS and pairs.user[slate[0]] != pairs.user[part[-1][0]]:
            yield part
            part, size = [], 0
        part.append(slate)
        size += len(slate)
    yield part


@contextlib.contextmanager
def _work_folder(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Creates and locks `OUT.partial`. Raises InputError if another run has it, or if something else left it."""
    folder = out.with_name(f"{out.name}.partial")
    run = folder / "run.json"
    try:
        folder.mkdir(exist_ok=True)
        if not run.exists() and any(path.name != "lock" and not path.name.startswith(".run.json.") for path in folder.iterdir()):
            raise InputError(f"{folder}: holds no unfinished run, which would be kept there: rename it")
        with locked_file(folder / "lock", os.O_RDWR | os.O_CREAT, out):
            if not run.exists():
                write_json(run, identity, flushed=True)
            try:
                before = dict(json.loads(run.read_bytes()))
            except (ValueError, TypeError) as exc:
                raise InputError(f"{run}: damaged; remove {folder} to begin anew") from exc
            now = json.loads(json.dumps(identity))
            if changed := [name for name, value in now.items() if before.get(name) != value]:
                raise InputError(
                    f"{folder}: holds an unfinished run with another {' and '.join(changed)}; "
                    "finish it as it was begun, or remove the folder to begin anew"
                )
            yield folder
    except OSError as exc:
        raise InputError(f"{exc.filename or folder}: cannot be written: {exc.strerror or exc}") from exc


def _files(place: Path) -> list[Path]:
    """One file of pairs, or the files of a folder in the order of their names. Raises InputError."""
    files = [place]
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix in PAIR_FORMATS and path.is_file())
        if len(kinds := sorted({path.suffix for path in files})) != 1:
            seen = f"{' and '.join(kinds)} files" if files else f"no {' or '.join(PAIR_FORMATS)} file"
            raise InputError(f"{place}: has {seen}, expected files of one kind")
    _check_format(files[0], PAIR_FORMATS)
    if not files[0].is_file():
        raise InputError(f"{place}: no such file")
    return files


def _check_format(path: Path, formats: Sequence[str]) -> None:
    if path.suffix not in formats:
        raise InputError(f"{path}: the name ends in {path.suffix!r}, expected {' or '.join(formats)}")


def _check_out(out: Path, files: Sequence[Path]) -> None:
    """Raises InputError if the scored pairs cannot be written."""
    _check_format(out, OUT_FORMATS)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: cannot be written: {'it is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")
    if out.exists() and any(out.samefile(path) for path in files):
        raise InputError(f"{out}: is a file of --pairs, which --out would replace")
    check_writable(out.parent)


def _read(files: Sequence[Path]) -> tuple[pa.Table, Callable[[int], str]]:
    """The rows of all files, and what says which row of which file a row is. Raises InputError."""
    tables = [_read_parquet(path) if path.suffix == ".parquet" else _read_text(path) for path in files]
    for path, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            own, first = ", ".join(table.column_names), ", ".join(tables[0].column_names)
            raise InputError(f"{path}: has the columns {own}; {files[0].name} has {first}")
    ends = list(accumulate(table.num_rows for table in tables))

    def where(row: int) -> str:
        n = bisect_right(ends, row)
        return f"row {row - ends[n] + tables[n].num_rows + 1}" + (f" of {files[n].name}" if files[1:] else "")

    try:
        return pa.concat_tables(tables, promote_options="permissive") if tables[1:] else tables[0], where
    except pa.ArrowException as exc:
        raise InputError(f"{files[0].parent}: one column has different types in two files: {str(exc).splitlines()[0]}") from exc


def _read_text(path: Path) -> pa.Table:
    """A .csv or .tsv file, as text."""
    lines = read_lines(path)
    header = next(lines)[1]
    schema = pa.schema([(name, pa.string()) for name in header])
    rows = enumerate((row for _, row in lines if row), 1)
    batches = []
    while block := list(islice(rows, _BATCH_ROWS)):
        for number, row in block:
            if len(row) != len(header):
                raise InputError(f"{path}: row {number} has {len(row)} fields, the header has {len(header)}")
        columns = zip(*(row for _, row in block), strict=True)
        batches.append(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema))
    return pa.Table.from_batches(batches, schema)


def _read_parquet(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"{path}: cannot be read as Parquet: {str(exc).splitlines()[0]}") from exc
    for n, column in enumerate(table.schema):
        if _types.is_dictionary(column.type):  # two files have two dictionaries
            table = table.set_column(n, column.name, table.column(n).cast(column.type.value_type))
    return table


def _write(path: Path, suffix: str, table: pa.Table, columns: ColumnNames, catalog: Catalog) -> None:
    """Writes the output. From text to Parquet, ids get the catalog's type, and times that are whole numbers are integers."""
    if suffix == ".parquet":
        kinds = {columns.user: catalog.info["ids"]["user"], columns.item: catalog.info["ids"]["item"]}
        for n, (name, dtype) in enumerate(zip(table.column_names, table.schema.types, strict=True)):
            if dtype == pa.string() and kinds.get(name, "int64" if name == (columns.as_of or "as_of") else "") == "int64":
                with contextlib.suppress(pa.ArrowInvalid):
                    table = table.set_column(n, name, table.column(n).cast(pa.int64()))
        with open(path, "wb") as parquet:
            pq.write_table(table, parquet)
        return
    with open(path, "w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            writer.writerows(zip(*map(_cells, batch.columns), strict=True))


def _cells(column: pa.Array) -> list[Any]:
    """A column's cells for CSV. A float32 gets the digits that it needs, not those of its float64."""
    cells = column.to_pylist()
    return [None if cell is None else str(np.float32(cell)) for cell in cells] if column.type == pa.float32() else cells
