"""`rexit score`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli._ids import first_few, parse_id, parse_ids, parse_recent
from rexit.cli._output import DeviceOption, JsonOption, print_json, print_table, progress, stderr, stdout
from rexit.cli._pairs import Columns, check_format, read_pairs
from rexit.cli._scored import ScoredFile
from rexit.errors import DeadlineError, InputError, RexitError

if TYPE_CHECKING:
    from rexit.bundle import Bundle
    from rexit.bundle.catalog import Id
    from rexit.runtime import Scores


def register(app: typer.Typer) -> None:
    app.command("score")(score)


def score(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    user: Annotated[str | None, typer.Option(help="User id. One the catalog does not know is placed by --recent.")] = None,
    items: Annotated[str | None, typer.Option(help="Item ids, separated by commas.")] = None,
    recent: Annotated[
        str, typer.Option(help="Interactions newer than the catalog's, oldest first: `ITEM` or `ITEM:1` liked, `ITEM:0` not.")
    ] = "",
    as_of: Annotated[int | None, typer.Option(help="Use only interactions before this time; all if not given.")] = None,
    top_k: Annotated[int, typer.Option(help="Only the k most probable, best first; 0: all, in the order given.")] = 0,
    deadline_ms: Annotated[float | None, typer.Option(help="Answer with what is known when this time is over.")] = None,
    force_exit: Annotated[int | None, typer.Option(help="Every candidate stops at this exit, counted from 0.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet of pairs to score, instead of --user and --items.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scored pairs go: .csv or .parquet.")] = None,
    user_column: Annotated[str, typer.Option(help="Column of --pairs.")] = "user",
    item_column: Annotated[str, typer.Option(help="Column of --pairs.")] = "item",
    as_of_column: Annotated[str, typer.Option(help="Column of --pairs; optional in the file.")] = "as_of",
    variant: Annotated[str | None, typer.Option(help="Which variant; the bundle's first if not given.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")] = 0,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Score candidates for one user, or a file of pairs.

        rexit score bundle --user 196 --items 242,302,377

        rexit score bundle --user 99999 --recent 50:1,172:1,288:0 --items 181,210 --top-k 1

        rexit score bundle --pairs pairs.parquet --out scores.parquet

    A file's rows with the same user and time are scored as one slate; rows keep their order and gain `probability`, `log_odds`
    (raw, at the exit that answered) and `exit` (from 0), with --deadline-ms also `cut_short`: the deadline stopped this row, and
    where it came before the first exit the others are empty. --top-k keeps the best rows of each
    slate, best first. A slate that has no answer in time, or whose prompt is longer than the model takes, is left out and named;
    the others are in the file, and the exit code is 7 or 2. Until all is done the rows are in OUT.partial, which stays after
    Ctrl-C or a failure.
    """
    from rexit.bundle import Bundle

    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; --user, --items and --recent do not go with it")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        columns = Columns(user_column, item_column, as_of_column)
        options = {"force_exit": force_exit, "deadline_ms": deadline_ms, "top_k": top_k or None}
        report, failed = _score_file(Bundle.open(bundle, variant), pairs, out, columns, as_of, options, threads, device)
        if json:
            print_json(report)
        else:
            _show(report)
        if failed:
            raise _unanswered(failed, report)
        return
    if user is None or items is None:
        raise InputError("expected --user and --items, or --pairs and --out")
    opened = Bundle.open(bundle, variant)
    kinds = opened.catalog.info["ids"]
    user_id = parse_id(user, kinds["user"], "user")
    item_ids = parse_ids(items, kinds["item"], "item")
    fresh = parse_recent(recent, kinds["item"])
    opened.catalog.items.rows([*item_ids, *(item for item, _ in fresh)])
    if opened.catalog.users.row(user_id) is None:
        means = "placed by --recent alone" if fresh else WITHOUT_HISTORY
        stderr.print(f"rexit: user {user_id!r} is not in the catalog: {means}", markup=False, soft_wrap=True)
    with _session(opened, threads, device) as session:
        scores = session.score(
            user_id,
            item_ids,
            recent=fresh or None,
            as_of=as_of,
            top_k=top_k or None,
            deadline_ms=deadline_ms,
            force_exit=force_exit,
        )
    rows = answers(scores, item_ids, opened.manifest.exits)
    stats = {name: getattr(scores.stats, name) for name in STATS}
    if json:
        print_json({"user": user_id, "variant": opened.variant.name, "scores": rows, "stats": stats})
        return
    print_table(
        f"User {user_id}, {opened.variant.name}",
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


WITHOUT_HISTORY = "scored without any history"


def answers(scores: Scores, items: Sequence[Id], depths: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per score; where the deadline passed before the first exit, numbers are None and no layer answered."""
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


@contextlib.contextmanager
def _session(bundle: Bundle, threads: int, device: str | None) -> Iterator[Any]:
    from rexit import runtime

    with contextlib.closing(runtime.open(bundle.path, bundle.variant.name, threads=threads, device=device)) as session:
        yield session


Failed = tuple["Id", int | None, RexitError]
"""A slate's user and time, and why it has no answer."""


def _score_file(
    bundle: Bundle,
    pairs: Path,
    out: Path,
    columns: Columns,
    as_of: int | None,
    options: dict[str, Any],
    threads: int,
    device: str | None,
) -> tuple[dict[str, Any], list[Failed]]:
    """Scores a file of pairs. Everything that can be wrong with the input is found before the first slate is scored."""
    import time

    from rexit.bundle import check_writable

    added = {"probability": "Float32", "log_odds": "Float32", "exit": "Int32"}
    if options["deadline_ms"] is not None:
        added["cut_short"] = "Boolean"
    given = read_pairs(pairs, columns, as_of, list(added), bundle.catalog)
    check_format(out)
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"{out}: cannot be written: {'is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")
    check_writable(out.parent)
    users = list(dict.fromkeys(given.users))
    unknown = [user for user, row in zip(users, bundle.catalog.users.find(users).tolist(), strict=True) if row < 0]
    if unknown:
        message = (
            f"rexit: {len(unknown)} of {len(users)} users are not in the catalog and are {WITHOUT_HISTORY}: {first_few(unknown)}"
        )
        stderr.print(message, markup=False, highlight=False, soft_wrap=True)
    slates = given.slates()
    failed: list[Failed] = []
    candidates = layers = 0
    begin = time.perf_counter()
    with (
        _session(bundle, threads, device) as session,
        progress() as bar,
        ScoredFile(out, given, added, in_order=options["top_k"] is None) as file,
    ):
        task = bar.add_task("slates", total=len(slates))
        for (user, time_of), rows in slates.items():
            try:
                scores = session.score(user, [given.items[n] for n in rows], as_of=time_of, **options)
            except RexitError as exc:
                if not (isinstance(exc, DeadlineError) or exc.status == "REXIT_TOO_LONG"):
                    raise
                failed.append((user, time_of, exc))
                file.add(rows, [])
            else:
                file.add(rows, [(rows[i], values) for i, values in _answers(scores, added)])
                candidates, layers = candidates + len(rows), layers + scores.stats.candidate_layers
            bar.advance(task)
    report = {
        "pairs": len(given.users),
        "slates": len(slates),
        "rows": file.rows,
        "unanswered": [{"user": user, "as_of": time_of, "reason": str(exc)} for user, time_of, exc in failed],
        "unknown_users": unknown,
        "variant": bundle.variant.name,
        "mean_layers": layers / candidates if candidates else None,
        "seconds": time.perf_counter() - begin,
        "out": str(out) if file.rows else None,
    }
    return report, failed


def _answers(scores: Scores, added: Iterable[str]) -> Iterator[tuple[int, list[Any]]]:
    """Places in the slate, with the values of the columns added; without an answer in time only `cut_short` has one."""
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


def _unanswered(failed: Sequence[Failed], report: dict[str, Any]) -> RexitError:
    """One line for all slates without an answer, of the first one's kind."""
    named = first_few(failed, lambda one: f"user {one[0]!r}{'' if one[1] is None else f' at {one[1]}'}: {one[2]}", 3)
    rest = f"{report['out']} has the others" if report["out"] else "nothing was written"
    return type(failed[0][2])(f"{len(failed)} of {report['slates']} slates have no answer, {rest}: {named}")
