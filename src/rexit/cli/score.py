"""`rexit score`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli._ids import first_few, parse_id, parse_ids, parse_recent
from rexit.cli._output import DeviceOption, JsonOption, print_json, print_table, progress, stderr, stdout
from rexit.cli._pairs import ColumnNames, Pairs, check_format, read_pairs
from rexit.cli._scored import ScoredFile
from rexit.errors import DeadlineError, InputError, RexitError

if TYPE_CHECKING:
    from rexit.bundle import Bundle, Catalog
    from rexit.bundle.catalog import Id
    from rexit.runtime import Scores, Session

WITHOUT_HISTORY = "scored without any history"

STATS = (
    "prefix_tokens",
    "prefix_tokens_reused",
    "candidate_tokens",
    "candidate_layers",
    "prefix_layers",
    "retrieval_us",
    "prefix_us",
    "slate_us",
    "total_us",
)

Unanswered = tuple["Id", int | None, RexitError]
"""A slate's user and time, and why it has no answer."""


@dataclass(frozen=True)
class _Setup:
    """How all slates of this command are scored. options: `Session.score`'s top_k, deadline_ms and force_exit. counters: the file
    that the session's counters go to; None: they are not kept."""

    bundle: Bundle
    threads: int
    device: str | None
    options: Mapping[str, Any]
    counters: Path | None

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        from rexit import runtime

        opened = runtime.open(self.bundle.path, self.bundle.variant.name, threads=self.threads, device=self.device)
        with contextlib.closing(opened) as session:
            yield session
            if self.counters is not None:
                session.counters().write(self.counters, self.bundle.variant_sha256, self.bundle.policy_sha256)


@dataclass
class _Tally:
    """What became of a file's slates. layers: summed over the candidates that have an answer."""

    candidates: int = 0
    layers: int = 0
    unanswered: list[Unanswered] = field(default_factory=list)


def register(app: typer.Typer) -> None:
    app.command("score")(score)


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, typer.Option(help="User id. One that is not in the catalog is placed by --recent.")] = None,
    items: Annotated[str | None, typer.Option(help="Item ids, separated by commas.")] = None,
    recent: Annotated[
        str, typer.Option(help="Interactions newer than the catalog's, oldest first: `ITEM` or `ITEM:1` liked, `ITEM:0` not.")
    ] = "",
    as_of: Annotated[int | None, typer.Option(help="Use only interactions before this time. Default: all.")] = None,
    top_k: Annotated[int, typer.Option(help="Only the k most probable, best first; 0: all, in the order given.")] = 0,
    deadline_ms: Annotated[float | None, typer.Option(help="Answer with what is known when this time is up.")] = None,
    force_exit: Annotated[int | None, typer.Option(help="Every candidate stops at this exit, counted from 0.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file of pairs to score, instead of --user and --items.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scored pairs go: a .csv or .parquet file.")] = None,
    user_column: Annotated[str, typer.Option(help="Column of --pairs.")] = "user",
    item_column: Annotated[str, typer.Option(help="Column of --pairs.")] = "item",
    as_of_column: Annotated[str, typer.Option(help="Column of --pairs; optional in the file.")] = "as_of",
    variant: Annotated[str | None, typer.Option(help="Which variant. Default: the bundle's first.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")] = 0,
    device: DeviceOption = None,
    counters: Annotated[
        Path | None, typer.Option(help="Where to write what candidates did at each exit, for `rexit drift`; replaces the file.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Score candidates for one user, or a file of pairs.

        rexit score bundle --user 196 --items 242,302,377

        rexit score bundle --user 99999 --recent 50:1,172:1,288:0 --items 181,210 --top-k 1

        rexit score bundle --pairs pairs.parquet --out scores.parquet

    Rows of a file with the same user and time are scored as one slate. Rows keep their order and gain the columns `probability`,
    `log_odds` (raw, at the exit that answered) and `exit` (from 0); with --deadline-ms also `cut_short`: the deadline stopped
    this row, and if it came before the first exit, the other columns are empty. --top-k keeps the best rows of each slate, best
    first. A slate that has no answer in time, or whose prompt is longer than the model takes, is left out and named; the others
    are in the file, and the exit code is 7 or 2. Until everything is done the rows are in OUT.partial, which stays after Ctrl-C
    or a failure.
    """
    from rexit.bundle import Bundle

    options = {"force_exit": force_exit, "deadline_ms": deadline_ms, "top_k": top_k or None}
    if counters is not None:
        if force_exit is not None:
            raise InputError("--counters: forced exits are not counted; leave out --force-exit")
        _check_place(counters)
    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; it cannot be combined with --user, --items or --recent")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        columns = ColumnNames(user_column, item_column, as_of_column)
        _score_pairs(_Setup(Bundle.open(bundle, variant), threads, device, options, counters), pairs, out, columns, as_of, json)
    elif user is not None and items is not None:
        _score_user(_Setup(Bundle.open(bundle, variant), threads, device, options, counters), user, items, recent, as_of, json)
    else:
        raise InputError("expected --user and --items, or --pairs and --out")


def _score_user(setup: _Setup, user: str, items: str, recent: str, as_of: int | None, json: bool) -> None:
    """Scores one slate and prints it."""
    catalog, variant = setup.bundle.catalog, setup.bundle.variant
    kinds = catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    fresh = parse_recent(recent, kinds["item"])
    catalog.items.rows([*item_ids, *(item for item, _ in fresh)])
    if catalog.users.row(user_id) is None:
        means = "placed by --recent alone" if fresh else WITHOUT_HISTORY
        stderr.print(f"rexit: user {user_id!r} is not in the catalog: {means}", soft_wrap=True)
    with setup.session() as session:
        scores = session.score(user_id, item_ids, recent=fresh or None, as_of=as_of, **setup.options)
    rows = score_rows(scores, item_ids, setup.bundle.manifest.exits)
    stats = {name: getattr(scores.stats, name) for name in STATS}
    if json:
        print_json({"user": user_id, "variant": variant.name, "scores": rows, "stats": stats})
        return
    print_table(
        f"User {user_id}, {variant.name}",
        ["item", "probability", "log-odds", "exit", "layers"],
        [
            [r["item"], "", "", "none (deadline)", 0]
            if r["exit"] is None
            else [
                r["item"],
                f"{r['probability']:.4f}",
                f"{r['log_odds']:+.4f}",
                f"{r['exit']}{' (deadline)' if r['cut_short'] else ''}",
                r["layers"],
            ]
            for r in rows
        ],
    )
    stdout.print(
        f"{stats['total_us'] / 1000:.1f} ms: retrieval {stats['retrieval_us'] / 1000:.2f}, "
        f"prefix {stats['prefix_us'] / 1000:.1f} ({stats['prefix_tokens']} tokens), "
        f"slate {stats['slate_us'] / 1000:.1f} ({stats['candidate_tokens']} tokens)"
    )


def score_rows(scores: Scores, items: Sequence[Id], depths: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per score. depths: of each exit, in layers. Where the deadline passed before the first exit, numbers are None and
    no layer answered."""
    return [
        {
            "item": items[int(index)],
            "probability": None if exit < 0 else float(probability),
            "log_odds": None if exit < 0 else float(log_odds),
            "exit": None if exit < 0 else int(exit),
            "layers": 0 if exit < 0 else depths[int(exit)],
            "cut_short": bool(cut_short),
        }
        for index, probability, log_odds, exit, cut_short in zip(
            scores.index, scores.probability, scores.log_odds, scores.exit, scores.cut_short, strict=True
        )
    ]


def _score_pairs(setup: _Setup, pairs: Path, out: Path, columns: ColumnNames, as_of: int | None, json: bool) -> None:
    """Scores a file of pairs. Everything that can be wrong with the input is found before the first slate is scored."""
    added = {"probability": "Float32", "log_odds": "Float32", "exit": "Int32"}
    if setup.options["deadline_ms"] is not None:
        added["cut_short"] = "Boolean"
    catalog = setup.bundle.catalog
    given = read_pairs(pairs, columns, as_of, list(added), catalog)
    _check_out(out)
    unknown = _unknown_users(given, catalog)
    begin = time.perf_counter()
    with setup.session() as session, ScoredFile(out, given, added, in_order=setup.options["top_k"] is None) as file:
        tally = _score_slates(session, given, setup.options, file, added)
    report = {
        "pairs": len(given.users),
        "slates": len(given.slates()),
        "rows": file.rows,
        "unanswered": [{"user": user, "as_of": time_of, "reason": str(exc)} for user, time_of, exc in tally.unanswered],
        "unknown_users": unknown,
        "variant": setup.bundle.variant.name,
        "mean_layers": tally.layers / tally.candidates if tally.candidates else None,
        "seconds": time.perf_counter() - begin,
        "out": str(out) if file.rows else None,
    }
    if json:
        print_json(report)
    else:
        _show(report)
    if tally.unanswered:
        raise _no_answer(tally.unanswered, report)


def _check_out(out: Path) -> None:
    """Raises InputError where scored pairs cannot go."""
    check_format(out)
    _check_place(out)


def _check_place(out: Path) -> None:
    """Raises InputError where a file cannot be written."""
    from rexit.bundle import check_writable

    if out.is_dir():
        raise InputError(f"{out}: cannot be written: it is a folder")
    if not out.parent.is_dir():
        raise InputError(f"{out}: cannot be written: there is no folder {out.parent}")
    check_writable(out.parent)


def _unknown_users(pairs: Pairs, catalog: Catalog) -> list[Id]:
    """The users that the catalog does not have, which are named on stderr."""
    users = list(dict.fromkeys(pairs.users))
    unknown = [user for user, row in zip(users, catalog.users.find(users).tolist(), strict=True) if row < 0]
    if unknown:
        stderr.print(
            f"rexit: {len(unknown)} of {len(users)} users are not in the catalog and are {WITHOUT_HISTORY}: {first_few(unknown)}",
            soft_wrap=True,
        )
    return unknown


def _score_slates(session: Session, pairs: Pairs, options: Mapping[str, Any], file: ScoredFile, added: Iterable[str]) -> _Tally:
    tally, slates = _Tally(), pairs.slates()
    with progress() as bar:
        task = bar.add_task("slates", total=len(slates))
        for (user, time_of), rows in slates.items():
            try:
                scores = session.score(user, [pairs.items[n] for n in rows], as_of=time_of, **options)
            except RexitError as exc:
                if not (isinstance(exc, DeadlineError) or exc.status == "REXIT_TOO_LONG"):
                    raise
                tally.unanswered.append((user, time_of, exc))
                file.add(rows, [])
            else:
                file.add(rows, [(rows[i], values) for i, values in _values(scores, added)])
                tally.candidates += len(rows)
                tally.layers += scores.stats.candidate_layers
            bar.advance(task)
    return tally


def _values(scores: Scores, added: Iterable[str]) -> Iterator[tuple[int, list[Any]]]:
    """Places in the slate, with the values of the added columns; without an answer in time only `cut_short` has one."""
    columns = [getattr(scores, name) for name in added]
    for i, index in enumerate(scores.index.tolist()):
        values = (bool(column[i]) if column.dtype == bool else column[i] for column in columns)
        yield index, [None if scores.exit[i] < 0 and not isinstance(value, bool) else value for value in values]


def _show(report: dict[str, Any]) -> None:
    if report["out"] is None:
        return
    stdout.print(
        f"Scored {report['slates'] - len(report['unanswered'])} of {report['slates']} slates ({report['pairs']} pairs) "
        f"in {report['seconds']:.1f} s: {report['mean_layers']:.2f} layers on average. "
        f"Wrote {report['rows']} rows to {report['out']}",
        markup=False,
        soft_wrap=True,
    )


def _no_answer(unanswered: Sequence[Unanswered], report: dict[str, Any]) -> RexitError:
    """One line for all slates without an answer, as an error of the first one's kind."""
    named = first_few(unanswered, lambda one: f"user {one[0]!r}{'' if one[1] is None else f' at {one[1]}'}: {one[2]}", 3)
    rest = f"{report['out']} has the others" if report["out"] else "nothing was written"
    return type(unanswered[0][2])(f"{len(unanswered)} of {report['slates']} slates have no answer, {rest}: {named}")
