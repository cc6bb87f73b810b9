"""Tables of pairs: a user's scores depend on the user's rows alone, and a killed run over files continues."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.grown_catalog import swap_for_grown
from builders.bundles.held_out import HeldOut, write_ranked
from builders.policies import full_depth
from rexit import runtime
from rexit.doors import batch
from rexit.doors.batch import ColumnNames, Report, score_files, score_table
from rexit.errors import BundleError, InputError, RexitError
from rexit.format.bundle import Bundle, TopK
from rexit.format.request import Request


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    return write_ranked(tmp_path_factory.mktemp("made"))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PART_PAIRS", 20)


def frame(rows: int = 600) -> pl.DataFrame:
    """Known and unknown users, scattered."""
    random = np.random.default_rng(3)
    users = random.choice([*USER_IDS, *range(10_000, 10_040)], rows)
    times, notes = random.choice([30, 60, 200], rows), [f"n{n}" for n in range(rows)]
    return pl.DataFrame({"user_id": users, "item_id": random.choice(ITEM_IDS, rows), "as_of": times, "note": notes})


def score(bundle: Path, source: Path, out: Path, top_k: int = 0, **options: Any) -> Report:
    return score_files(score_table(bundle, top_k=top_k, **options), source, out)


def by_user(scorer: Callable[[pa.Table], pa.Table], pairs: pl.DataFrame) -> pl.DataFrame:
    """As an engine scores them: a table for each user, all in another order."""
    tables = [scorer(group.to_arrow()) for _, group in pairs.sample(fraction=1, shuffle=True, seed=4).group_by("user_id")]
    return pl.concat([pl.from_arrow(table) for table in tables])  # type: ignore[misc]


@pytest.mark.medium
@pytest.mark.parametrize("top_k", [0, 2])
def test_an_engine_gets_the_scores_of_a_file(held_out: HeldOut, tmp_path: Path, small_parts: None, top_k: int) -> None:
    """To the bit: one table, a table for each user, or files in parts. The scorer has been pickled on the way."""
    pairs = frame().unique(["user_id", "item_id", "as_of"], maintain_order=True)
    scorer = pickle.loads(pickle.dumps(score_table(held_out.bundle, top_k=top_k)))
    once = pl.from_arrow(scorer(pairs.to_arrow()))
    assert isinstance(once, pl.DataFrame) and once.columns == [*pairs.columns, *batch.ADDED]
    pairs.write_parquet(tmp_path / "pairs.parquet")
    score(held_out.bundle, tmp_path / "pairs.parquet", tmp_path / "out.parquet", top_k)
    files = pl.read_parquet(tmp_path / "out.parquet")
    assert files.equals(once)
    assert by_user(scorer, pairs).sort("note").equals(once.sort("note"))
    sizes = pairs.group_by("user_id", "as_of").len()["len"].to_list()
    assert once.height == (pairs.height if not top_k else sum(min(top_k, n) for n in sizes))
    if not top_k:
        assert once["note"].to_list() == pairs["note"].to_list()
    else:
        best = score_table(held_out.bundle)(pairs.to_arrow())
        ranked = pl.from_arrow(best).sort("probability", "raw_log_odds", descending=True, maintain_order=True)  # type: ignore[union-attr]
        expected = ranked.group_by("user_id", "as_of", maintain_order=True).head(top_k)
        assert sorted(once["note"].to_list()) == sorted(expected["note"].to_list())


def test_a_floor_leaves_rows_out(held_out: HeldOut, tmp_path: Path) -> None:
    """With a floor at the candidates' median; a file continued with another answer would mix both."""
    opened = Bundle.open(Path(shutil.copytree(held_out.bundle, tmp_path / "bundle")))
    policy = full_depth(len(opened.manifest.exits), opened.variant_sha256)
    policy.write(opened.folder / "policy.json")
    pairs = frame(600).unique(["user_id", "item_id", "as_of"], maintain_order=True)
    everything = pl.from_arrow(score_table(opened.path)(pairs.to_arrow()))
    assert isinstance(everything, pl.DataFrame)
    c = float(everything["raw_log_odds"].median())  # type: ignore[arg-type]
    with pytest.raises(RexitError, match="no floor"):
        score_table(opened.path, floor=True)(pairs.to_arrow())
    replace(policy, floor={"c": c, "recall": 0.95, "confidence": 0.95, "users": 90}).write(opened.folder / "policy.json")
    scored = pl.from_arrow(score_table(opened.path, floor=True)(pairs.to_arrow()))
    assert isinstance(scored, pl.DataFrame)
    above = everything.filter(pl.col("raw_log_odds") >= c)
    assert 0 < scored.height < everything.height and sorted(scored["note"]) == sorted(above["note"])
    by_slate = scored.group_by("user_id", "as_of", maintain_order=True).agg("raw_log_odds")["raw_log_odds"].to_list()
    assert max(map(len, by_slate)) > 3 and all(part == sorted(part, reverse=True) for part in by_slate), "best first"
    pairs.write_parquet(tmp_path / "pairs.parquet")
    score(opened.path, tmp_path / "pairs.parquet", tmp_path / "out.parquet", floor=True)
    assert pl.read_parquet(tmp_path / "out.parquet").equals(scored)


def test_the_number_of_rows_is_not_the_policys_k(held_out: HeldOut, tmp_path: Path) -> None:
    """With a K of all candidates everybody would be among the best K, and stop at the first exit."""
    opened = Bundle.open(Path(shutil.copytree(held_out.bundle, tmp_path / "bundle")))
    exits, bounds = len(opened.manifest.exits), (500.0,) * (len(opened.manifest.exits) - 1)
    policy = replace(full_depth(exits, opened.variant_sha256), top_k=TopK(1, False, bounds, bounds))
    policy.write(opened.folder / "policy.json")
    pairs = pa.table({"user_id": [100] * 10, "item_id": ITEM_IDS[:10]})
    for top_k in (0, 10, 99):
        assert score_table(opened.path, top_k=top_k)(pairs)["exit"].to_pylist() == [exits - 1] * 10


def scored_elsewhere(scorer: Callable[[pa.Table], pa.Table], table: pa.Table) -> pa.Table:
    return scorer(table)


def test_each_process_opens_its_own_session(held_out: HeldOut) -> None:
    """A forked one lacks the threads that its parent's session needs: it would wait for ever."""
    scorer, table = score_table(held_out.bundle), frame(50).to_arrow()
    here = scorer(table)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(scored_elsewhere, (scorer, table)).get(timeout=60).equals(here)
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(InputError, match="forked from one that has scored"):
        pool.apply_async(scored_elsewhere, (scorer, table)).get(timeout=60)


class Recording:
    """A session that notes its requests and takes every prompt for too long."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def score(self, request: Request, **options: Any) -> Any:
        self.calls.append((request.user, request.as_of, list(request.items), dict(request.inputs or {})))
        error = InputError("long")
        error.status = "REXIT_TOO_LONG"
        raise error

    def clear_cache(self) -> None:
        self.calls.append("clear")


def test_slates_and_the_cache_that_each_finds() -> None:
    """A slate has one time and one set of inputs; every user begins with an empty cache."""
    rows = np.array([(1, 0, 20, 0), (0, 1, 10, 0), (1, 2, 10, 0), (2, 3, 10, 0), (1, 4, 20, 0), (1, 5, 20, 1), (1, 6, 20, 0)])
    user, item, times, inputs = rows.T
    values: list[dict[str, Any]] = [{"device": "tv"}, {"device": "phone"}]
    pairs = batch._Pairs(["a", "b", "c"], user, list(range(7)), item, times, {}, values, inputs)
    session: Any = Recording()
    process: Any = SimpleNamespace(session=session)
    everything: Any = SimpleNamespace(top_k=0, floor=False)
    scores = batch._Process.score(process, pairs, pairs.slates(), everything)
    assert session.calls == [
        *("clear", ("a", 10, [1], values[0])),
        *("clear", ("b", 10, [2], values[0]), ("b", 20, [0, 4, 6], values[0]), ("b", 20, [5], values[1])),
        *("clear", ("c", 10, [3], values[0])),
    ]
    assert [(slate["user"], slate["as_of"]) for slate in scores.too_long] == [
        ("a", 10),
        ("b", 10),
        ("b", 20),
        ("b", 20),
        ("c", 10),
    ]


@pytest.mark.parametrize(
    ("column", "cells", "problem"),
    [
        ("user_id", ["a", "b"], "row 1: user 'a': this catalog's user ids are 64-bit integers"),
        ("item_id", [3, 4], r"1 item is not in the catalog: 4 \(row 2\)"),
        ("as_of", [30, None], "row 2: `as_of` is missing"),
        ("exit", [0, 0], "already has a column 'exit', which scoring adds"),
        ("score.vectr", [1, 2], r"column 'score\.vectr': exit zero reads no such score, it reads none"),
    ],
)
def test_bad_tables(held_out: HeldOut, column: str, cells: list[Any], problem: str) -> None:
    columns: dict[str, list[Any]] = {"user_id": [100, 103], "item_id": [3, 8], column: cells}
    with pytest.raises(InputError, match=problem):
        score_table(held_out.bundle)(pa.table(columns))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *((1, 1.0), (-2.5, -2.5), ("1e3", 1000.0), (" 7 ", 7.0)),
        *((None, np.nan), ("", np.nan)),
        *((True, None), ("1_000", None), ("one", None), (float("nan"), None), ("inf", None), (1e39, None), ([1.0], None)),
    ],
)
def test_cells_of_scores(cell: Any, value: float | None) -> None:
    table, kind = pa.table({"score": [cell]}), batch._NUMBER
    read = partial(
        batch._distinct,
        table,
        "score",
        kind,
        partial(batch.parse_score, name="score"),
        lambda row: f"row {row + 1}",
        optional=True,
    )
    if value is not None:
        np.testing.assert_array_equal(read()[0], [value])
    else:
        with pytest.raises(InputError, match=r"row 1: score .*, expected a finite|holds .*, expected numbers"):
            read()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_folder_is_its_files_in_order(held_out: HeldOut, tmp_path: Path, suffix: str) -> None:
    folder, all_rows = tmp_path / "pairs", frame(100).cast({"note": pl.Categorical})
    folder.mkdir()
    for n, part in enumerate((all_rows[:30], all_rows[30:31].cast({"user_id": pl.Int32, "note": pl.String}), all_rows[31:])):
        part.write_csv(folder / f"{n}.csv") if suffix == "csv" else part.write_parquet(folder / f"{n}.parquet")
    all_rows.write_csv(tmp_path / "whole.csv")
    assert score(held_out.bundle, folder, tmp_path / "a.csv").pairs == 100
    score(held_out.bundle, tmp_path / "whole.csv", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, r"pairs: has no \.csv or \.tsv or \.parquet file"),
        (
            {"a.csv": "user_id,item_id\n", "b.tsv": "user\titem\n"},
            r"pairs: has \.csv and \.tsv files, expected files of one kind",
        ),
        (
            {"a.csv": "user_id,item_id\n", "b.csv": "user_id,item_id,x\n"},
            r"b\.csv: has the columns user_id, item_id, x; a\.csv has user_id, item_id",
        ),
        (
            {"a.csv": "user_id,item_id\n100,3\n", "b.csv": "user_id,item_id\n100,3\n100,4\n"},
            r"pairs: 1 item is not in the catalog: 4 \(row 2 of b\.csv\)",
        ),
    ],
)
def test_folders_that_are_no_pairs(held_out: HeldOut, tmp_path: Path, files: dict[str, str], problem: str) -> None:
    (tmp_path / "pairs").mkdir()
    for name, text in files.items():
        (tmp_path / "pairs" / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        score(held_out.bundle, tmp_path / "pairs", tmp_path / "o.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs"}


def test_types_that_no_column_holds(held_out: HeldOut, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    frame(10).write_parquet(tmp_path / "pairs" / "a.parquet")
    frame(10).with_columns(note=pl.lit([1.5])).write_parquet(tmp_path / "pairs" / "b.parquet")
    with pytest.raises(InputError, match=r"pairs: one column has different types in two files: .*note"):
        score(held_out.bundle, tmp_path / "pairs", tmp_path / "o.parquet")


@pytest.mark.parametrize("folder", [False, True])
def test_pairs_are_never_replaced(held_out: HeldOut, tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --top-k most rows would be lost; another name of the same file is the same file."""
    monkeypatch.chdir(tmp_path)
    source = Path("pairs.csv")
    frame(50).write_csv(source)
    before = source.read_bytes()
    (tmp_path / "link.csv").symlink_to("pairs.csv")
    for out in (source, tmp_path / "pairs.csv", Path("link.csv")):
        with pytest.raises(InputError, match=r"csv: is a file of --pairs, which --out would replace"):
            score(held_out.bundle, tmp_path if folder else source, out, top_k=1)
    assert source.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "link.csv"}


KILLED = """
import os, signal, sys
from rexit.doors import batch
from rexit import runtime
batch.PART_PAIRS = 20
real, calls = runtime.Session.score, 0
def score(self, *words, **keywords):
    global calls
    calls += 1
    if calls == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *words, **keywords)
runtime.Session.score = score
sys.argv = ["rexit", *sys.argv[1:]]
from rexit.doors.cli import main
main()
"""


@pytest.mark.medium
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_run_goes_on(held_out: HeldOut, tmp_path: Path, small_parts: None, suffix: str) -> None:
    source, out = tmp_path / "pairs.csv", tmp_path / f"out.{suffix}"
    frame().write_csv(source)
    words = ("score", held_out.bundle, "--pairs", source, "--out", out)
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists() and list((tmp_path / f"out.{suffix}.partial").glob("part-*"))
    report = score(held_out.bundle, source, out)
    assert 0 < report.resumed < report.pairs == 600
    clean = tmp_path / f"clean.{suffix}"
    score(held_out.bundle, source, clean)
    assert out.read_bytes() == clean.read_bytes(), "to the bit"
    assert not list(tmp_path.glob("*.partial"))


def unfinished(bundle: Path, tmp_path: Path) -> Path:
    """Pairs whose scoring failed after the first part."""
    source = tmp_path / "pairs.csv"
    frame(50).with_columns(other=pl.lit(0.5)).write_csv(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_write", lambda *words: (_ for _ in ()).throw(InputError("the test stops here")))
        with pytest.raises(InputError, match="the test stops here"):
            score(bundle, source, tmp_path / "o.csv")
    return source


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"top_k": 1}, "--top-k"),
        ({"columns": ColumnNames(as_of="as_of")}, "--column"),
    ],
)
def test_a_run_goes_on_only_as_it_was_begun(held_out: HeldOut, tmp_path: Path, options: dict[str, Any], what: str) -> None:
    source = unfinished(held_out.bundle, tmp_path)
    with pytest.raises(InputError, match=rf"o\.csv\.partial: holds an unfinished run with another {what}; finish"):
        score(held_out.bundle, source, tmp_path / "o.csv", **options)
    assert score(held_out.bundle, source, tmp_path / "o.csv").resumed == 50


def test_a_run_goes_on_only_over_the_same_pairs(held_out: HeldOut, tmp_path: Path) -> None:
    source = unfinished(held_out.bundle, tmp_path)
    later = time.time_ns() + 10**9
    os.utime(source, ns=(later, later))
    with pytest.raises(InputError, match="with another pairs"):
        score(held_out.bundle, source, tmp_path / "o.csv")
    (tmp_path / "o.csv.partial" / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: damaged; remove .*o\.csv\.partial to begin anew"):
        score(held_out.bundle, source, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_an_unfinished_run_refuses_another_catalog(held_out: HeldOut, tmp_path: Path) -> None:
    path = Path(shutil.copytree(held_out.bundle, tmp_path / "bundle"))
    source = unfinished(path, tmp_path)
    swap_for_grown(path, held_out.catalog, tmp_path / "newer")
    with pytest.raises(InputError, match=r"o\.csv\.partial: holds an unfinished run with another catalog; finish"):
        score(path, source, tmp_path / "o.csv")


def test_a_refresh_while_the_session_opens_ends_the_run(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = Path(shutil.copytree(held_out.bundle, tmp_path / "bundle")), runtime.open

    def refreshed(*words: Any, **keywords: Any) -> Any:
        session = opened(*words, **keywords)
        swap_for_grown(path, held_out.catalog, tmp_path / "newer")
        return session

    monkeypatch.setattr(runtime, "open", refreshed)
    with pytest.raises(BundleError, match="bundle: got another catalog since `score_table` read it"):
        score_table(path)(frame(5).to_arrow())


def test_a_new_scorer_follows_a_refresh(held_out: HeldOut, tmp_path: Path) -> None:
    """In a process that has scored by the old catalog. A scorer of before is refused where the old catalog is not open."""
    path = Path(shutil.copytree(held_out.bundle, tmp_path / "bundle"))
    before = score_table(path)
    before(frame(5).to_arrow())
    swap_for_grown(path, held_out.catalog, tmp_path / "newer")
    after = score_table(path)
    assert after.digests["catalog"] != before.digests["catalog"]
    after(frame(5).to_arrow())
    assert batch._process(after).digests == after.digests
    with pytest.raises(BundleError, match="bundle: got another catalog since `score_table` read it"):
        before(frame(5).to_arrow())


@pytest.mark.parametrize("cut", [1, 20, 10**6])
def test_a_part_that_a_power_cut_left_is_scored_again(held_out: HeldOut, tmp_path: Path, cut: int) -> None:
    source = unfinished(held_out.bundle, tmp_path)
    part = tmp_path / "o.csv.partial" / "part-00000"
    part.write_bytes(part.read_bytes()[:-cut])
    assert score(held_out.bundle, source, tmp_path / "o.csv").resumed == 0
    score(held_out.bundle, source, tmp_path / "clean.csv")
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "clean.csv").read_bytes()


def test_another_folder_of_the_name_is_left_alone(held_out: HeldOut, tmp_path: Path) -> None:
    frame(5).write_csv(tmp_path / "pairs.csv")
    (tmp_path / "o.csv.partial").mkdir()
    (tmp_path / "o.csv.partial" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"o\.csv\.partial: holds no unfinished run"):
        score(held_out.bundle, tmp_path / "pairs.csv", tmp_path / "o.csv")
    assert [path.name for path in (tmp_path / "o.csv.partial").iterdir()] == ["notes.txt"]


def test_one_run_at_a_time(held_out: HeldOut, tmp_path: Path) -> None:
    source = unfinished(held_out.bundle, tmp_path)
    run = (tmp_path / "o.csv.partial" / "run.json").read_text()
    with batch._work_folder(tmp_path / "o.csv", {}), pytest.raises(InputError, match="another process is writing to it"):
        score(held_out.bundle, source, tmp_path / "o.csv")
    assert (tmp_path / "o.csv.partial" / "run.json").read_text() == run
    assert score(held_out.bundle, source, tmp_path / "o.csv").resumed == 50, "the work is still there"


def test_the_output_is_on_the_disk_before_the_parts_go(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, bool]] = []
    sync = os.fsync

    def fsync(file: int) -> None:
        sync(file)
        flushed.append((os.fstat(file).st_ino, (tmp_path / "o.csv.partial").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    frame(50).write_csv(tmp_path / "pairs.csv")
    score(held_out.bundle, tmp_path / "pairs.csv", tmp_path / "o.csv")
    assert ((tmp_path / "o.csv").stat().st_ino, True) in flushed
