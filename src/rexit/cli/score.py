"""`rexit score`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli._ids import parse_id, parse_ids, parse_recent
from rexit.cli._output import DeviceOption, JsonOption, print_json, print_table, progress, stderr, stdout
from rexit.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from rexit.bundle import Bundle
    from rexit.bundle.catalog import Id
    from rexit.runtime import Scores

ADDED = ("probability", "log_odds", "exit")


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
    (raw, at the exit that answered) and `exit` (from 0).
    """
    from rexit.bundle import Bundle

    if pairs is not None:
        if user is not None or items is not None or recent:
            raise InputError("--pairs names the users and items; --user, --items and --recent do not go with it")
        if out is None:
            raise InputError("--pairs needs --out: where the scored pairs go")
        columns = {"user": user_column, "item": item_column, "as_of": as_of_column}
        options = {"force_exit": force_exit, "deadline_ms": deadline_ms}
        report = _score_file(Bundle.open(bundle, variant), pairs, out, columns, as_of, options, threads, device)
        if json:
            print_json(report)
        else:
            stdout.print(
                f"Scored {report['pairs']} pairs in {report['slates']} slates: {report['mean_layers']:.2f} layers on average, "
                f"{report['seconds']:.1f} s. Wrote {out}",
                markup=False,
                soft_wrap=True,
            )
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
        means = "placed by --recent alone" if fresh else "scored without any history"
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


def _score_file(
    bundle: Bundle,
    pairs: Path,
    out: Path,
    columns: dict[str, str],
    as_of: int | None,
    options: dict[str, Any],
    threads: int,
    device: str | None,
) -> dict[str, Any]:
    """Scores a file of pairs. Everything that can be wrong with the input is found before the first slate is scored."""
    import time

    import numpy as np
    import polars as pl

    from rexit.bundle import check_writable, write_file

    frame = _read(pairs)
    _check_format(out)
    if not out.parent.is_dir():
        raise InputError(f"{out}: cannot be written: there is no folder {out.parent}")
    check_writable(out.parent)
    users, items, times = _columns(frame, pairs, columns, as_of, bundle)
    slates: dict[tuple[Any, int | None], list[int]] = {}
    for n, key in enumerate(zip(users, times, strict=True)):
        slates.setdefault(key, []).append(n)
    probability, log_odds = np.empty(len(users), np.float32), np.empty(len(users), np.float32)
    exits = np.empty(len(users), np.int32)
    begin = time.perf_counter()
    with _session(bundle, threads, device) as session, progress() as bar:
        task = bar.add_task("slates", total=len(slates))
        for (user, time_of), rows in slates.items():
            scores = session.score(user, [items[n] for n in rows], as_of=time_of, **options)
            probability[rows], log_odds[rows], exits[rows] = scores.probability, scores.log_odds, scores.exit
            bar.advance(task)
    seconds = time.perf_counter() - begin
    scored = frame.with_columns(pl.Series("probability", probability), pl.Series("log_odds", log_odds), pl.Series("exit", exits))
    write_file(out, _encode(scored, out))
    return {
        "pairs": len(users),
        "slates": len(slates),
        "variant": bundle.variant.name,
        "mean_layers": float(np.array(bundle.manifest.exits)[exits].mean()),
        "seconds": seconds,
        "out": str(out),
    }


def _check_format(path: Path) -> None:
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"{path}: its name ends in {path.suffix!r}, expected .csv or .parquet")


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    _check_format(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {str(exc).splitlines()[0]}") from exc
    if frame.height == 0:
        raise InputError(f"{path}: holds no rows")
    return frame


def _columns(
    frame: pl.DataFrame, path: Path, columns: dict[str, str], as_of: int | None, bundle: Bundle
) -> tuple[list[Id], list[Id], list[int | None]]:
    """Users, items and times of each row. Rows are counted from 1, without the header. Raises InputError naming the row."""
    import polars as pl

    for role in ("user", "item"):
        if columns[role] not in frame.columns:
            raise InputError(f"{path}: no column {columns[role]!r} ({role}), it has: {', '.join(frame.columns)}")
    for name in ADDED:
        if name in frame.columns:
            raise InputError(f"{path}: has a column {name!r} already, which is what this command adds")
    timed = columns["as_of"] in frame.columns
    if timed and as_of is not None:
        raise InputError(f"--as-of and the column {columns['as_of']!r} of {path} both give a time, expected one")
    for name in (columns["user"], columns["item"], *([columns["as_of"]] if timed else [])):
        nulls = frame[name].is_null()
        if nulls.any():
            raise InputError(f"{path}: row {nulls.arg_true()[0] + 1}: `{name}` is missing")
    kinds = bundle.catalog.info["ids"]
    users, items = (_ids(frame[columns[role]], path, kinds[role], role) for role in ("user", "item"))
    known = {item: bundle.catalog.items.row(item) is not None for item in set(items)}
    for n, item in enumerate(items):
        if not known[item]:
            raise InputError(f"{path}: row {n + 1}: item {item!r} is not in the catalog")
    if not timed:
        return users, items, [as_of] * len(users)
    times = frame[columns["as_of"]]
    if not times.dtype.is_integer():
        raise InputError(f"{path}: column {columns['as_of']!r} is {times.dtype}, expected integers")
    return users, items, times.cast(pl.Int64).to_list()


def _ids(column: pl.Series, path: Path, kind: str, role: str) -> list[Id]:
    import polars as pl

    if kind == "string":
        return list(column.cast(pl.String))
    if not column.dtype.is_integer():
        raise InputError(f"{path}: column {column.name!r} is {column.dtype}, this catalog's {role} ids are integers")
    return list(column)


def _encode(frame: pl.DataFrame, path: Path) -> bytes:
    import io

    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        frame.write_parquet(buffer)
    else:
        frame.write_csv(buffer)
    return buffer.getvalue()
