"""What `rexit score --pairs` keeps where it cannot go on, or one slate has no answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.bundles.bundle_files import contents
from builders.bundles.catalog import USER_IDS
from rexit import Request, runtime
from rexit.doors import batch
from rexit.errors import BackendError, InputError
from running.command import Run, assert_one_line, write_pairs
from running.full_disk import largest_file


@pytest.fixture(autouse=True)
def part_per_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PART_PAIRS", 1)


def test_full_disk_leaves_the_old_file_and_what_is_scored(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = place / "scores.csv"
    out.write_text("old")
    users = [(user, as_of) for as_of in range(30, 50) for user in USER_IDS]
    pairs = write_pairs(place, text="user_id,item_id,as_of\n" + "".join(f"{u},3,{t}\n{u},8,{t}\n" for u, t in users))
    words = ("score", place / "bundle", "--pairs", pairs, "--out", out)
    with largest_file(4096):
        ended = run(*words)
    note, error = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert error.startswith("rexit: error: ") and error.endswith("scores.csv: cannot be written: File too large")
    assert f"scores.csv.partial has the {2 * len(users)} pairs scored so far; the same command continues" in note
    assert out.read_text() == "old"
    monkeypatch.setattr(runtime.Session, "score", lambda *words, **keywords: pytest.fail("scored twice"))
    assert run(*words).code == 0
    assert pl.read_csv(out)["user_id"].to_list() == [u for u, _ in users for _ in range(2)]
    assert {p.name for p in place.iterdir()} == {"bundle", "catalog", "pairs.csv", "scores.csv"}


def test_full_disk_at_once_leaves_nothing(run: Run, place: Path) -> None:
    pairs = write_pairs(place, text="user_id,item_id\n" + "100,3\n" * 2000)
    with largest_file(4096):
        ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "scores.csv")
    assert_one_line(ended, 2, "scores.csv.partial", "cannot be written: File too large")
    assert {p.name for p in place.iterdir()} == {"bundle", "catalog", "pairs.csv"}


def failing(monkeypatch: pytest.MonkeyPatch, user: int, error: BaseException) -> None:
    """Scoring this user fails."""
    real = runtime.Session.score

    def score(self: runtime.Session, request: Request, **options: Any) -> Any:
        if request.user == user:
            raise error
        return real(self, request, **options)

    monkeypatch.setattr(runtime.Session, "score", score)


@pytest.mark.medium
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendError("the device is gone")], ids=["ctrl-c", "failure"])
def test_what_was_scored_is_kept(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
) -> None:
    out, clean = place / f"scores.{suffix}", place / f"clean.{suffix}"
    out.write_text("old")
    pairs = write_pairs(place)
    assert run("score", place / "bundle", "--pairs", pairs, "--out", clean).code == 0
    with monkeypatch.context() as patch:
        failing(patch, 103, error)
        ended = run("score", place / "bundle", "--pairs", pairs, "--out", out)
    assert (ended.code, ended.out) == (130 if isinstance(error, KeyboardInterrupt) else 6, "")
    note, line = ended.err.splitlines()
    assert f"scores.{suffix}.partial has the 3 pairs scored so far; the same command continues from there" in note
    assert line in ("rexit: interrupted; nothing was left half-written", "rexit: error: the device is gone")
    assert out.read_text() == "old"
    failing(monkeypatch, 100, BackendError("user 100 was scored again"))
    ended = run("score", place / "bundle", "--pairs", pairs, "--out", out, "--json")
    assert (ended.code, ended.json["resumed"]) == (0, 3)
    assert ended.err == "rexit: an earlier run scored 3 of 4 pairs; this run continues\n"
    assert out.read_bytes() == clean.read_bytes()


def test_ctrl_c_before_the_first_answer_leaves_nothing(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(place)
    failing(monkeypatch, 100, KeyboardInterrupt())
    ended = run("score", place / "bundle", "--pairs", write_pairs(place), "--out", place / "o.csv")
    assert ended.code == 130
    (place / "pairs.csv").unlink()
    assert contents(place) == before


def test_a_prompt_that_is_too_long_costs_its_own_slate(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = place / "o.csv"
    words = ("score", place / "bundle", "--pairs", write_pairs(place), "--out", out)
    error = InputError("the prompt has 99 tokens, the variant takes 96")
    error.status = "REXIT_TOO_LONG"
    failing(monkeypatch, 103, error)
    ended = run(*words)
    assert ended.code == 2 and ended.out.startswith("Scored 2 of 3 slates (4 pairs)")
    (line,) = ended.err.splitlines()
    assert line.startswith("rexit: error: 1 of 3 slates have no answer, ")
    assert line.endswith("o.csv has the others: user 103 at 30: the prompt has 99 tokens, the variant takes 96")
    scored = pl.read_csv(out)
    assert scored["item_id"].to_list() == [3, 8, -7, 8]
    assert scored["probability"].is_null().to_list() == scored["exit"].is_null().to_list() == [False, True, False, False]
    report = run(*words, "--json").json
    assert (report["rows"], report["pairs"], [slate["user"] for slate in report["too_long"]]) == (4, 4, [103])
    assert run(*words, "--top-k", 1).code == 2
    assert pl.read_csv(out)["user_id"].to_list() == [100, 100], "of a slate without scores no row is the best"
