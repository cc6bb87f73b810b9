"""Files of pairs that do not fit in memory, and runs that are killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.grown_catalog import swap_for_grown
from builders.bundles.held_out import HeldOut
from rexit.batch import BatchOptions, ColumnNames, Report, pairs, run, score_files, work
from rexit.batch.pairs import PairFiles
from rexit.batch.partition import score_partitions
from rexit.batch.records import PairReader
from rexit.batch.work import Work
from rexit.bundle import Bundle, Catalog
from rexit.bundle.inputs import Input, Inputs
from rexit.errors import BundleError, InputError
from rexit.progress import silent

COLUMNS = ColumnNames()


def frame(rows: int = 600) -> pl.DataFrame:
    """Known and unknown users, scattered."""
    random = np.random.default_rng(3)
    users = random.choice([*USER_IDS, *range(10_000, 10_040)], rows)
    times, notes = random.choice([30, 60, 200], rows), [f"n{n}" for n in range(rows)]
    return pl.DataFrame({"user_id": users, "item_id": random.choice(ITEM_IDS, rows), "as_of": times, "note": notes})


def score(bundle: Bundle, source: Path, out: Path, top_k: int = 0) -> Report:
    return score_files(bundle, BatchOptions(source, out, COLUMNS, None, top_k))


def changed_engine(before: Callable[[], object] = bool, after: Callable[[], object] = bool, most: int = 256) -> Any:
    """While the block runs, calls `before` before the first partition and `after` after the last of at most `most`."""

    def engine(*words: Any) -> Iterator[Any]:
        before()
        yield from itertools.islice(score_partitions(*words), most)
        after()

    return patch.object(run, "score_partitions", engine)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("top_k", [0, 2])
def test_small_batches_change_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, top_k: int
) -> None:
    """Every border between batches, partitions' appends and buffers is crossed many times; the other run has none."""
    source = tmp_path / f"pairs.{suffix}"
    frame().write_csv(source) if suffix == "csv" else frame().write_parquet(source)
    score(bundle, source, tmp_path / f"once.{suffix}", top_k=top_k)
    monkeypatch.setattr(pairs, "MAX_BATCH_ROWS", 7)
    monkeypatch.setattr(work, "_BUFFERED_BYTES", 20 * 32)
    monkeypatch.setattr(work, "PARTITIONS", 5)
    score(bundle, source, tmp_path / f"often.{suffix}", top_k=top_k)
    read = pl.read_csv if suffix == "csv" else pl.read_parquet
    once, often = read(tmp_path / f"once.{suffix}"), read(tmp_path / f"often.{suffix}")
    assert once.equals(often) and once.height == (600 if not top_k else sum(min(2, n) for n in _slates(frame())))
    if not top_k:
        assert once["note"].to_list() == frame()["note"].to_list()


def _slates(frame: pl.DataFrame) -> list[int]:
    return frame.group_by("user_id", "as_of").len()["len"].to_list()


@pytest.mark.parametrize("max_tokens", [1, 1000, 4096])
def test_what_is_buffered_is_bounded_by_bytes(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    """However long texts may be."""
    frame().write_csv(tmp_path / "pairs.csv")
    text = Input(name="query", max_tokens=max_tokens, optional=True)
    sizes, append = [], Work._append

    def measured(work: Work, buffered: dict[int, list[NDArray[Any]]]) -> None:
        sizes.append(sum(records.nbytes for part in buffered.values() for records in part))
        append(work, buffered)

    monkeypatch.setattr(Work, "_append", measured)
    monkeypatch.setattr(work, "_BUFFERED_BYTES", 1 << 15)
    monkeypatch.setattr(Catalog, "inputs", Inputs((text,)))
    reader = PairReader(PairFiles.find(tmp_path / "pairs.csv", ColumnNames(), ()), bundle, None, {})
    with Work.opened(tmp_path / "out.csv") as opened:
        assert opened.split(reader, {}, silent).rows == 600
    assert sum(sizes) == 600 * reader.record_bytes and max(sizes) <= 2 << 15


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_folder_is_its_files_in_order(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    folder, all_rows = tmp_path / "pairs", frame(100)
    folder.mkdir()
    for n, part in enumerate((all_rows[:30], all_rows[30:31], all_rows[31:])):
        part.write_csv(folder / f"{n}.csv") if suffix == "csv" else part.write_parquet(folder / f"{n}.parquet")
    all_rows.write_csv(tmp_path / "whole.csv")
    assert score(bundle, folder, tmp_path / "a.csv").pairs == 100
    score(bundle, tmp_path / "whole.csv", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("top_k", [0, 2])
def test_files_with_other_types_of_the_same_column(bundle: Bundle, tmp_path: Path, top_k: int) -> None:
    folder, rows = tmp_path / "pairs", frame(100)
    folder.mkdir()
    types = [
        {"user_id": pl.Int64, "as_of": pl.Int64, "note": pl.String},
        {"user_id": pl.Int32, "as_of": pl.Int16, "note": pl.Categorical},
        {"user_id": pl.String, "as_of": pl.Int64, "note": pl.String},
    ]
    for n, (part, casts) in enumerate(zip((rows[:30], rows[30:31], rows[31:]), types, strict=True)):
        part.cast(casts).write_parquet(folder / f"{n}.parquet")
    rows.cast({"user_id": pl.String}).write_parquet(tmp_path / "whole.parquet")
    for name in ("pairs", "whole.parquet"):
        score(bundle, tmp_path / name, tmp_path / f"{name}.scores.parquet", top_k=top_k)
    scores, expected = (pl.read_parquet(tmp_path / f"{name}.scores.parquet") for name in ("pairs", "whole.parquet"))
    assert scores.equals(expected)


def test_types_that_no_column_holds_are_refused_before_scoring(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    frame(10).write_parquet(folder / "a.parquet")
    frame(10).with_columns(note=pl.lit([1.5])).write_parquet(folder / "b.parquet")
    with pytest.raises(
        InputError, match=r"b\.parquet: column 'note' holds List\(Float64\), in the files before it String: expected"
    ):
        score(bundle, folder, tmp_path / "o.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs"}
    assert score(bundle, folder, tmp_path / "o.csv").rows == 20


def test_a_name_that_reads_like_a_pattern(bundle: Bundle, tmp_path: Path) -> None:
    frame(50).write_parquet(tmp_path / "pairs[1].parquet")
    score(bundle, tmp_path / "pairs[1].parquet", tmp_path / "scores[1].parquet")
    assert pl.read_parquet(tmp_path / "scores[1].parquet", glob=False).height == 50


@pytest.mark.parametrize("folder", [False, True])
def test_pairs_are_never_replaced(bundle: Bundle, tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --top-k most rows would be lost; another name of the same file is the same file."""
    monkeypatch.chdir(tmp_path)
    source = Path("pairs.csv")
    frame(50).write_csv(source)
    before = source.read_bytes()
    (tmp_path / "link.csv").symlink_to("pairs.csv")
    pairs = tmp_path if folder else source
    for out in (source, tmp_path / "pairs.csv", Path("link.csv")):
        with pytest.raises(InputError, match=r"csv: is a file of --pairs, which --out would replace"):
            score(bundle, pairs, out, top_k=1)
    assert source.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"pairs.csv", "link.csv"}


def test_folders_that_are_no_pairs(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    with pytest.raises(InputError, match=r"pairs: has no \.csv or \.tsv or \.parquet file"):
        score(bundle, folder, tmp_path / "o.csv")
    (folder / "a.csv").write_text("user_id,item_id\n100,3\n")
    (folder / "b.tsv").write_text("user\titem\n100\t3\n")
    with pytest.raises(InputError, match=r"pairs: has \.csv and \.tsv files, expected files of one kind"):
        score(bundle, folder, tmp_path / "o.csv")
    (folder / "b.tsv").unlink()
    (folder / "b.csv").write_text("user_id,item_id,x\n100,3,0\n")
    with pytest.raises(InputError, match=r"b\.csv: has the columns user_id, item_id, x; a\.csv has user_id, item_id"):
        score(bundle, folder, tmp_path / "o.csv")
    (folder / "b.csv").write_text("user_id,item_id\n100,3\n100,4\n")
    with pytest.raises(InputError, match=r"pairs: 1 item is not in the catalog: 4 \(row 2 of b\.csv\)"):
        score(bundle, folder, tmp_path / "o.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs"}


KILLED = """
import os, signal, sys
from rexit import runtime
real, calls = runtime.Session.score, 0
def score(self, *words, **keywords):
    global calls
    calls += 1
    if calls == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *words, **keywords)
runtime.Session.score = score
sys.argv = ["rexit", *sys.argv[1:]]
from rexit.cli import main
main()
"""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_killed_run_goes_on(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / "pairs.csv", tmp_path / f"out.{suffix}"
    frame().write_csv(source)
    words = ("score", bundle.path, "--pairs", source, "--out", out)
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists() and list((tmp_path / f"out.{suffix}.partial").glob("scored-*"))
    report = score(bundle, source, out)
    assert 0 < report.resumed < report.pairs == 600
    clean = tmp_path / f"clean.{suffix}"
    score(bundle, source, clean)
    assert out.read_bytes() == clean.read_bytes(), "to the bit"
    assert not list(tmp_path.glob("*.partial"))


def unfinished(bundle: Bundle, tmp_path: Path) -> Path:
    """Pairs whose scoring failed after the first partition."""
    source = tmp_path / "pairs.csv"
    frame(50).write_csv(source)

    def fail() -> None:
        raise InputError("the test stops here")

    with changed_engine(after=fail, most=1), pytest.raises(InputError, match="the test stops here"):
        score(bundle, source, tmp_path / "o.csv")
    return source


def test_a_run_goes_on_only_as_it_was_begun(bundle: Bundle, tmp_path: Path) -> None:
    source = unfinished(bundle, tmp_path)
    with pytest.raises(InputError, match=r"o\.csv\.partial: holds an unfinished run with another --top-k; finish"):
        score(bundle, source, tmp_path / "o.csv", top_k=1)
    kept = source.read_bytes()
    later = time.time_ns() + 10**9
    os.utime(source, ns=(later, later))
    with pytest.raises(InputError, match="with another pairs"):
        score(bundle, source, tmp_path / "o.csv")
    source.write_bytes(kept)
    plan = tmp_path / "o.csv.partial" / "plan.json"
    plan.write_text("{")
    with pytest.raises(InputError, match=r"plan\.json: damaged; remove .*o\.csv\.partial to begin anew"):
        score(bundle, source, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_an_unfinished_run_refuses_another_catalog(held_out: HeldOut, tmp_path: Path) -> None:
    """It keeps users and items as rows, which are others' rows after a refresh."""
    path = Path(shutil.copytree(held_out.bundle, tmp_path / "bundle"))
    source = unfinished(Bundle.open(path), tmp_path)
    swap_for_grown(path, held_out.catalog, tmp_path / "newer")
    with pytest.raises(InputError, match=r"o\.csv\.partial: holds an unfinished run with another catalog; finish"):
        score(Bundle.open(path), source, tmp_path / "o.csv")


def test_a_refresh_between_the_plan_and_the_session_ends_the_run(held_out: HeldOut, tmp_path: Path) -> None:
    path, source = Path(shutil.copytree(held_out.bundle, tmp_path / "bundle")), tmp_path / "pairs.csv"
    frame(50).write_csv(source)

    refresh = partial(swap_for_grown, path, held_out.catalog, tmp_path / "newer")
    line = "bundle: this bundle has another catalog than when the run began"
    with changed_engine(refresh), pytest.raises(BundleError, match=line):
        score(Bundle.open(path), source, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_what_was_not_planned_is_begun_anew(bundle: Bundle, tmp_path: Path) -> None:
    source = unfinished(bundle, tmp_path)
    (tmp_path / "o.csv.partial" / "plan.json").unlink()
    assert score(bundle, source, tmp_path / "o.csv").resumed == 0
    assert pl.read_csv(tmp_path / "o.csv").height == 50


def test_one_run_at_a_time(bundle: Bundle, tmp_path: Path) -> None:
    source = unfinished(bundle, tmp_path)
    with work.Work.opened(tmp_path / "o.csv"), pytest.raises(InputError, match="another process is writing to it"):
        score(bundle, source, tmp_path / "o.csv")
    assert score(bundle, source, tmp_path / "o.csv").resumed > 0, "the work is still there"


def test_pairs_that_change_meanwhile(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "pairs.csv"
    frame(50).write_csv(source)

    change = partial(source.write_text, "user_id,item_id,as_of,note\n")
    with changed_engine(after=change), pytest.raises(InputError, match="changed during the run"):
        score(bundle, source, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()
