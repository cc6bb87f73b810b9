"""The commands on a tiny bundle with a real runtime: what they print, what they write, and with which code they end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from engine_bundles import VARIANT, add_tensorrt_variant
from limits import largest_file
from rexit import runtime
from rexit.bundle import Bundle, Policy
from rexit.cli import main
from rexit.errors import BackendError, DeadlineError, InputError
from served_bundle import AS_OF, write_served_bundle
from tiny_bundle import ITEM_IDS, ITEMS, USER_IDS, refresh, string_id, write_policy


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: object) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["rexit", *(str(w) for w in words)])
        with pytest.raises(SystemExit) as end:
            main()
        seen = capsys.readouterr()
        return Ended(int(end.value.code or 0), seen.out, seen.err)

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    write_served_bundle(place)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil: `bundle` and `catalog`."""
    return Path(shutil.copytree(made, tmp_path / "place"))


def one_line(ended: Ended, code: int, *expected: str) -> None:
    """An error is one line on stderr that names what is wrong, with nothing on stdout."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rexit: error: "), ended.err
    for text in expected:
        assert text in lines[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of `Session.score`: whether it found its prefix in the cache."""
    seen: list[bool] = []
    real = runtime.Session.score

    def score(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
        scores = real(self, *words, **keywords)
        seen.append(scores.stats.prefix_tokens_reused > 0)
        return scores

    monkeypatch.setattr(runtime.Session, "score", score)
    return seen


CALIBRATE = ("--max-auc-drop", 0.05, "--slate", 10, "--timed-slates", 3)


def calibrate(run: Run, place: Path, *more: object) -> Ended:
    return run("calibrate", place / "bundle", "--catalog", place / "catalog", *CALIBRATE, *more)


class TestCalibrate:
    def test_writes_a_policy_the_runtime_follows(self, run: Run, place: Path) -> None:
        ended = calibrate(run, place, "--json")
        assert ended.code == 0
        report = ended.json
        bundle = Bundle.open(place / "bundle")
        policy = bundle.policy()
        assert policy is not None
        assert json.loads((bundle.folder / "report.json").read_text()) == report
        assert report["decisions"]["as_traced"] == report["decisions"]["candidates"] == 30
        assert report["data"]["validation"]["pairs"] == 120
        with runtime.open(bundle.path) as session:
            assert [e.upper for e in session.exits] == pytest.approx([e.upper for e in policy.exits])
            trace = session.trace(USER_IDS[0], ITEM_IDS, as_of=AS_OF)
            assert session.score(USER_IDS[0], ITEM_IDS, as_of=AS_OF).exit.tolist() == policy.stops(trace).tolist()

    def test_table_tells_the_report(self, run: Run, place: Path) -> None:
        ended = calibrate(run, place)
        report = json.loads((place / "bundle" / "variants" / "cpu-fp32" / "report.json").read_text())
        assert ended.code == 0
        for row in report["table"]:
            assert row["policy"] in ended.out
            assert f"{row['test']['auc']:.4f}" in ended.out
        assert report["conclusion"] in ended.out.replace("\n", " ").replace("  ", " ")
        assert "As deployed, 30 of 30 candidates stop where their traces say.\n" in ended.out

    def test_runtime_that_stops_elsewhere(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = runtime.Session.score

        def always_deepest(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            return real(self, *words, **({"force_exit": 2} | {k: v for k, v in keywords.items() if v is not None}))

        monkeypatch.setattr(runtime.Session, "score", always_deepest)
        before = files(place)
        one_line(calibrate(run, place), 6, "stopped at exit 2, the trace says", "no policy was written")
        assert files(place) == before

    def test_foreign_catalog(self, run: Run, place: Path) -> None:
        path = place / "catalog" / "catalog.json"
        path.write_text(path.read_text().replace('"tiny"', '"other"', 1))
        before = files(place / "bundle")
        one_line(calibrate(run, place), 4, "catalog: is catalog", "variant cpu-fp32 was made for")
        assert files(place / "bundle") == before

    def test_bundles_own_catalog_has_no_splits(self, run: Run, place: Path) -> None:
        ended = run("calibrate", place / "bundle", "--catalog", place / "bundle" / "catalog")
        one_line(ended, 4, "validation.parquet: missing", "use the catalog that `rexit index` wrote")

    def test_edited_split(self, run: Run, place: Path) -> None:
        path = place / "catalog" / "splits" / "test.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        one_line(calibrate(run, place), 4, "test.parquet: not the file catalog.json describes")

    def test_impossible_budget(self, run: Run, place: Path) -> None:
        ended = run("calibrate", place / "bundle", "--catalog", place / "catalog", "--max-auc-drop", -0.1)
        one_line(ended, 2, "--max-auc-drop -0.1, expected a number from 0")

    @pytest.mark.parametrize("method", ["trace", "score"])
    def test_ctrl_c_changes_nothing(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        calls = 0
        real = getattr(runtime.Session, method)

        def interrupted(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 5:
                raise KeyboardInterrupt
            return real(self, *words, **keywords)

        monkeypatch.setattr(runtime.Session, method, interrupted)
        before = files(place)
        ended = calibrate(run, place)
        assert (ended.code, ended.out) == (130, "")
        assert ended.err == "rexit: interrupted; nothing was left half-written\n"
        assert files(place) == before

    def test_policy_of_another_variant_is_replaced(self, run: Run, place: Path) -> None:
        bundle = Bundle.open(place / "bundle")
        Policy.full_depth(3, "f" * 64).write(bundle.folder / "policy.json")
        assert calibrate(run, place).code == 0
        assert bundle.policy() is not None


class TestScore:
    def test_one_user_as_the_runtime_scores(self, run: Run, place: Path) -> None:
        ended = run("score", place / "bundle", "--user", 100, "--items", "-2,3,8", "--json")
        assert ended.code == 0
        with runtime.open(place / "bundle") as session:
            expected = session.score(100, [-2, 3, 8])
        rows = ended.json["scores"]
        assert [r["item"] for r in rows] == [-2, 3, 8]
        assert [r["probability"] for r in rows] == expected.probability.tolist()
        assert [r["layers"] for r in rows] == [4, 4, 4]
        assert ended.json["stats"]["candidate_layers"] == 12

    def test_table(self, run: Run, place: Path) -> None:
        ended = run("score", place / "bundle", "--user", 100, "--items", "3,8", "--top-k", 1)
        assert ended.code == 0 and "probability" in ended.out and "prefix" in ended.out

    def test_top_k_is_best_first(self, run: Run, place: Path) -> None:
        everything = ",".join(str(i) for i in ITEM_IDS)
        scores = run("score", place / "bundle", "--user", 100, f"--items={everything}", "--json").json["scores"]
        top = run("score", place / "bundle", "--user", 100, f"--items={everything}", "--top-k", 3, "--json").json["scores"]
        assert top == sorted(scores, key=lambda r: -r["probability"])[:3]

    def test_force_exit(self, run: Run, place: Path) -> None:
        rows = run("score", place / "bundle", "--user", 100, "--items", "3,8", "--force-exit", 1, "--json").json["scores"]
        assert [(r["exit"], r["layers"]) for r in rows] == [(1, 2), (1, 2)]

    def test_unknown_user_is_placed_by_recent_items(self, run: Run, place: Path) -> None:
        score = ("score", place / "bundle", "--user", 5, "--items", "3,8", "--json")
        without, liked, disliked = run(*score), run(*score, "--recent", "18,23:1"), run(*score, "--recent", "18:0,23:0")
        assert "user 5 is not in the catalog: scored without any history" in without.err
        assert "placed by --recent alone" in liked.err
        answers = {json.dumps(e.json["scores"]) for e in (without, liked, disliked)}
        assert len(answers) == 3

    def test_empty_history_is_scored(self, run: Run, place: Path) -> None:
        ended = run("score", place / "bundle", "--user", USER_IDS[-1], "--items", "3", "--json")
        assert ended.code == 0 and 0 < ended.json["scores"][0]["probability"] < 1

    def test_string_ids(self, run: Run, tmp_path: Path) -> None:
        bundle, _ = write_served_bundle(tmp_path, strings=True)
        items = [string_id("item", n) for n in (4, 2)]
        ended = run("score", bundle, "--user", string_id("user", 1), "--items", ",".join(items), "--json")
        assert ended.code == 0 and [r["item"] for r in ended.json["scores"]] == items

    @pytest.mark.parametrize(
        ("words", "code", "expected"),
        [
            (("--user", 100, "--items", "3,4"), 2, "item 4 is not in the catalog"),
            (("--user", 100, "--items", "3", "--recent", "4:1"), 2, "item 4 is not in the catalog"),
            (("--user", 100, "--items", "three"), 2, "item 'three': this catalog's item ids are 64-bit integers"),
            (("--user", "me", "--items", "3"), 2, "user 'me': this catalog's user ids are 64-bit integers"),
            (("--user", "0100", "--items", "3"), 2, "user '0100': this catalog's user ids are 64-bit integers"),
            (("--user", 100, "--items", ","), 2, "no items given"),
            (("--user", 100), 2, "expected --user and --items, or --pairs and --out"),
            (("--user", 100, "--items", "3", "--force-exit", 3), 2, "3"),
            (("--user", 100, "--items", "3", "--variant", "gpu"), 2, "no variant 'gpu', there are: cpu-fp32"),
            (("--user", 100, "--items", "3", "--pairs", "x.csv"), 2, "--pairs names the users and items"),
            (("--pairs", "x.csv"), 2, "--pairs needs --out"),
        ],
    )
    def test_bad_arguments(self, run: Run, made: Path, words: tuple[object, ...], code: int, expected: str) -> None:
        one_line(run("score", made / "bundle", *words), code, expected)

    def test_candidates_without_an_answer(self) -> None:
        from rexit.cli.score import score_rows
        from rexit.runtime import Scores, Stats

        scores = Scores(
            items=np.array([30, 10]),
            index=np.array([2, 0]),
            probability=np.array([0.75, np.nan], np.float32),
            log_odds=np.array([1.5, np.nan], np.float32),
            exit=np.array([1, -1]),
            cut_short=np.array([True, True]),
            stats=Stats(*[0] * 5, *[0.0] * 4),
        )
        assert score_rows(scores, [10, 20, 30], (2, 4)) == [
            {"item": 30, "probability": 0.75, "log_odds": 1.5, "exit": 1, "layers": 4, "cut_short": True},
            {"item": 10, "probability": None, "log_odds": None, "exit": None, "layers": 0, "cut_short": True},
        ]

    def test_deadline_before_the_first_exit(self, run: Run, made: Path) -> None:
        one_line(run("score", made / "bundle", "--user", 100, "--items", "3", "--deadline-ms", 0.001), 7, "deadline")

    def test_no_such_bundle(self, run: Run, tmp_path: Path) -> None:
        one_line(run("score", tmp_path / "none", "--user", 1, "--items", "3"), 4, "none: no such bundle folder")

    def test_policy_of_another_variant(self, run: Run, place: Path) -> None:
        bundle = Bundle.open(place / "bundle")
        Policy.full_depth(3, "f" * 64).write(bundle.folder / "policy.json")
        one_line(run("score", place / "bundle", "--user", 100, "--items", "3"), 4, "policy.json", "ffffffffffff")

    @pytest.mark.parametrize("name", ["catalog/users.safetensors", "variants/cpu-fp32/segment-1.onnx.data"])
    def test_truncated_file(self, run: Run, place: Path, name: str) -> None:
        path = place / "bundle" / name
        path.write_bytes(path.read_bytes()[:-8])
        one_line(run("score", place / "bundle", "--user", 100, "--items", "3"), 4, name, "expected")


class TestScoreFile:
    def pairs(
        self, place: Path, name: str = "pairs.csv", text: str = "user,item,as_of\n100,3,30\n103,8,30\n100,-7,30\n100,8,40\n"
    ) -> Path:
        path = place / name
        path.write_text(text)
        return path

    @pytest.mark.parametrize(("source", "target"), [("csv", "csv"), ("parquet", "parquet"), ("csv", "parquet")])
    def test_rows_keep_order_and_equal_single_requests(self, run: Run, place: Path, source: str, target: str) -> None:
        pairs, out = self.pairs(place), place / f"scores.{target}"
        if source == "parquet":
            frame = pl.read_csv(pairs)
            pairs = place / "pairs.parquet"
            frame.write_parquet(pairs)
        ended = run("score", place / "bundle", "--pairs", pairs, "--out", out, "--json")
        assert ended.code == 0 and (ended.json["pairs"], ended.json["slates"]) == (4, 3)
        scored = pl.read_csv(out) if target == "csv" else pl.read_parquet(out)
        assert scored.columns == ["user", "item", "as_of", "probability", "log_odds", "exit"]
        assert scored["item"].to_list() == [3, 8, -7, 8]
        with runtime.open(place / "bundle") as session:
            for row in scored.iter_rows(named=True):
                alone = session.score(row["user"], [row["item"]], as_of=row["as_of"])
                assert row["log_odds"] == pytest.approx(float(alone.log_odds[0]), abs=1e-4)
                assert row["exit"] == alone.exit[0]

    def test_columns_may_have_other_names(self, run: Run, place: Path) -> None:
        pairs = self.pairs(place, text="u,film\n100,3\n")
        out = place / "o.csv"
        assert (
            run("score", place / "bundle", "--pairs", pairs, "--out", out, "--user-column", "u", "--item-column", "film").code
            == 0
        )
        assert pl.read_csv(out).height == 1

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("user,film\n100,3\n", "no column 'item' (item), it has: user, film"),
            ("user,item\n100,3\n100,3,9\n", "row 2 has 3 fields, the header has 2"),
            ("user,item,as_of\n100,3,30\n100,3\n", "row 2 has 2 fields, the header has 3"),
            ("user,item,as_of\n100,3,30\n100,3,\n", "row 2: `as_of` is missing"),
            ("user,item\n100,3\n100,\n", "row 2: `item` is missing"),
            ("user,item\n100,3\n100,4\n", "1 item is not in the catalog: 4 (row 2)"),
            (
                "user,item\n" + "".join(f"100,{i}\n" for i in (3, 4, 5, 4, 6, 7, 9, 10, 11)),
                "7 items are not in the catalog: 4 (row 2), 5 (row 3), 6 (row 5), 7 (row 6), 9 (row 7) and 2 more",
            ),
            ("user,item\n100,three\n", "this catalog's item ids are 64-bit integers"),
            ("user,item,as_of\n100,3,soon\n", "row 1: `as_of` is 'soon', expected a 64-bit integer"),
            ("user,item,probability\n100,3,1\n", "already has a column 'probability'"),
            ("user,item\n", "has no rows"),
            ("", "empty, expected a header line"),
            ("user,item,item\n100,3,3\n", "column 'item' appears 2 times in the header"),
            ('user,item\n100,"3\n', "line 2: unexpected end of data"),
            ("user,item\n007,3\n", "row 1: user '007': this catalog's user ids are 64-bit integers"),
            ("user,item\n100,3\n100,03\n", "row 2: item '03': this catalog's item ids are 64-bit integers"),
            ("user,item\n1_00,3\n", "row 1: user '1_00'"),
            ("user,item\n100,3\n9223372036854775808,3\n", "row 2: user '9223372036854775808'"),
        ],
    )
    def test_bad_rows_write_nothing(self, run: Run, place: Path, text: str, expected: str) -> None:
        pairs, out = self.pairs(place, text=text), place / "scores.csv"
        one_line(run("score", place / "bundle", "--pairs", pairs, "--out", out), 2, "pairs.csv", expected)
        assert not out.exists()

    def test_not_a_parquet_file(self, run: Run, place: Path) -> None:
        pairs = self.pairs(place, "pairs.parquet")
        one_line(
            run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv"),
            2,
            "pairs.parquet: cannot be read as Parquet",
        )

    def test_missing_file_and_unknown_format(self, run: Run, place: Path) -> None:
        ended = run("score", place / "bundle", "--pairs", place / "no.csv", "--out", place / "o.csv")
        one_line(ended, 2, "no.csv: no such file")
        ended = run("score", place / "bundle", "--pairs", self.pairs(place), "--out", place / "o.xlsx")
        one_line(ended, 2, "ends in '.xlsx', expected .csv or .parquet")

    @pytest.mark.parametrize("out", ["missing/o.csv", "pairs.csv/o.csv"])
    def test_out_in_no_folder(self, run: Run, place: Path, out: str) -> None:
        one_line(
            run("score", place / "bundle", "--pairs", self.pairs(place), "--out", place / out), 2, "o.csv: cannot be written"
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that root cannot write to either")
    def test_unwritable_folder_is_found_before_scoring(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "open", lambda *words, **keywords: pytest.fail("scoring began"))
        one_line(
            run("score", place / "bundle", "--pairs", self.pairs(place), "--out", "/proc/o.csv"), 2, "/proc: cannot be written"
        )

    def test_full_disk_leaves_the_old_file_and_keeps_whole_rows(self, run: Run, place: Path) -> None:
        out = place / "scores.csv"
        out.write_text("old")
        users = [(user, as_of) for as_of in range(30, 50) for user in USER_IDS]
        pairs = self.pairs(place, text="user,item,as_of\n" + "".join(f"{u},3,{t}\n{u},8,{t}\n" for u, t in users))
        with largest_file(4096):
            ended = run("score", place / "bundle", "--pairs", pairs, "--out", out)
        note, error = ended.err.splitlines()
        assert (ended.code, ended.out) == (2, "")
        assert error.startswith("rexit: error: ") and error.endswith("scores.csv.partial: cannot be written: File too large")
        kept = pl.read_csv(place / "scores.csv.partial")
        assert kept["user"].to_list() == [u for u, _ in users for _ in range(2)][: kept.height] and kept.height > 20
        assert f"scores.csv.partial keeps the {kept.height} rows scored so far" in note
        assert out.read_text() == "old"
        assert {p.name for p in place.iterdir()} == {"bundle", "catalog", "pairs.csv", "scores.csv", "scores.csv.partial"}

    def test_full_disk_at_once_leaves_nothing(self, run: Run, place: Path) -> None:
        pairs = self.pairs(place, text="user,item\n" + "100,3\n" * 2000)
        with largest_file(4096):
            ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "scores.csv")
        one_line(ended, 2, "scores.csv.partial: cannot be written: File too large")
        assert {p.name for p in place.iterdir()} == {"bundle", "catalog", "pairs.csv"}

    def failing(self, monkeypatch: pytest.MonkeyPatch, user: int, error: BaseException) -> None:
        """Scoring this user fails."""
        real = runtime.Session.score

        def score(self: runtime.Session, one: Any, *words: Any, **keywords: Any) -> Any:
            if one == user:
                raise error
            return real(self, one, *words, **keywords)

        monkeypatch.setattr(runtime.Session, "score", score)

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendError("the device is gone")], ids=["ctrl-c", "failure"])
    def test_what_was_scored_is_kept(
        self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
    ) -> None:
        """Row 3 of the file is scored with row 1, so it is kept although row 2, before it, has no answer."""
        out = place / f"scores.{suffix}"
        out.write_text("old")
        self.failing(monkeypatch, 103, error)
        ended = run("score", place / "bundle", "--pairs", self.pairs(place), "--out", out)
        assert (ended.code, ended.out) == (130 if isinstance(error, KeyboardInterrupt) else 6, "")
        note, line = ended.err.splitlines()
        assert f"scores.{suffix}.partial keeps the 2 rows scored so far" in note
        assert line in ("rexit: interrupted; nothing was left half-written", "rexit: error: the device is gone")
        partial = place / f"scores.{suffix}.partial"
        kept = pl.read_csv(partial) if suffix == "csv" else pl.read_parquet(partial)
        assert kept["item"].to_list() == [3, -7] and kept["probability"].is_between(0, 1).all()
        assert out.read_text() == "old"

    def test_ctrl_c_before_the_first_answer_leaves_nothing(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = files(place)
        self.failing(monkeypatch, 100, KeyboardInterrupt())
        ended = run("score", place / "bundle", "--pairs", self.pairs(place), "--out", place / "o.csv")
        assert ended.code == 130
        (place / "pairs.csv").unlink()
        assert files(place) == before

    def test_rows_are_on_disk_while_later_ones_are_scored(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []
        real = runtime.Session.score

        def score(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            partial = place / "o.csv.partial"
            seen.append(partial.read_text() if partial.exists() else "")
            return real(self, *words, **keywords)

        monkeypatch.setattr(runtime.Session, "score", score)
        pairs = self.pairs(place, text="user,item\n100,3\n100,8\n103,8\n106,3\n")
        assert run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv").code == 0
        whole = (place / "o.csv").read_text()
        assert seen == ["", *("".join(whole.splitlines(keepends=True)[:n]) for n in (3, 4))]
        assert not (place / "o.csv.partial").exists()

    def test_a_slate_without_an_answer_costs_itself_alone(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = place / "o.csv"
        self.failing(monkeypatch, 103, DeadlineError("the deadline passed before candidate 0 had reached its first exit"))
        words = ("score", place / "bundle", "--pairs", self.pairs(place), "--out", out, "--deadline-ms", 1e6)
        ended = run(*words)
        assert ended.code == 7 and ended.out.startswith("Scored 2 of 3 slates (4 pairs)")
        (line,) = ended.err.splitlines()
        assert line.startswith("rexit: error: 1 of 3 slates have no answer, ")
        assert line.endswith(
            "o.csv has the others: user 103 at 30: the deadline passed before candidate 0 had reached its first exit"
        )
        scored = pl.read_csv(out)
        assert scored["item"].to_list() == [3, -7, 8] and scored["cut_short"].to_list() == [False] * 3
        report = run(*words, "--json").json
        assert (report["rows"], report["pairs"], [one["user"] for one in report["unanswered"]]) == (3, 4, [103])

    def test_no_answer_in_time_at_all(self, run: Run, place: Path) -> None:
        words = ("--pairs", self.pairs(place), "--out", place / "o.csv", "--deadline-ms", 0.001)
        one_line(run("score", place / "bundle", *words), 7, "3 of 3 slates have no answer, nothing was written: user 100 at 30: ")
        assert not (place / "o.csv").exists() and not (place / "o.csv.partial").exists()

    def test_prompt_too_long_costs_its_own_slate(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        error = InputError("the prompt has 99 tokens, the variant takes 96")
        error.status = "REXIT_TOO_LONG"
        self.failing(monkeypatch, 103, error)
        ended = run("score", place / "bundle", "--pairs", self.pairs(place), "--out", place / "o.csv")
        assert ended.code == 2 and "user 103 at 30: the prompt has 99 tokens" in ended.err
        assert pl.read_csv(place / "o.csv").height == 3

    def test_what_the_deadline_cut_short_is_marked(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = runtime.Session.score

        def score(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            scores = real(self, *words, **keywords)
            scores.cut_short[0] = True
            return scores

        monkeypatch.setattr(runtime.Session, "score", score)
        for suffix, read in (("csv", pl.read_csv), ("parquet", pl.read_parquet)):
            out = place / f"o.{suffix}"
            words = ("--pairs", self.pairs(place), "--out", out, "--deadline-ms", 1e6)
            assert run("score", place / "bundle", *words).code == 0
            assert read(out)["cut_short"].to_list() == [True, True, False, True]

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_top_k_of_each_slate_best_first(self, run: Run, place: Path, suffix: str) -> None:
        rows = [(user, item) for item in ITEM_IDS for user in USER_IDS[:3]]
        pairs = self.pairs(place, text="user,item\n" + "".join(f"{u},{i}\n" for u, i in rows))
        whole, top = place / "whole.csv", place / f"top.{suffix}"
        assert run("score", place / "bundle", "--pairs", pairs, "--out", whole).code == 0
        assert run("score", place / "bundle", "--pairs", pairs, "--out", top, "--top-k", 4).code == 0
        scored = pl.read_csv(whole)
        best = [scored.filter(pl.col("user") == user).sort("log_odds", descending=True).head(4) for user in USER_IDS[:3]]
        seen = pl.read_csv(top) if suffix == "csv" else pl.read_parquet(top)
        expected = pl.concat(best)
        assert seen["user"].to_list() == expected["user"].to_list() and seen["item"].to_list() == expected["item"].to_list()

    def test_unknown_users_are_said(self, run: Run, place: Path) -> None:
        users = [100, *range(1, 8), 103]
        pairs = self.pairs(place, text="user,item\n" + "".join(f"{u},3\n{u},8\n" for u in users))
        ended = run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv", "--json")
        assert ended.code == 0 and ended.json["unknown_users"] == [1, 2, 3, 4, 5, 6, 7]
        assert ended.err == (
            "rexit: 7 of 9 users are not in the catalog and are scored without any history: 1, 2, 3, 4, 5 and 2 more\n"
        )

    def test_text_ids_that_look_like_numbers(self, run: Run, place: Path) -> None:
        """`007` and `7` are two items, and two users, of a catalog whose ids are text."""
        from tiny_bundle import make_catalog, write_bundle

        info, tables = make_catalog(strings=True)
        for kind, count in (("users.safetensors", 12), ("items.safetensors", 20)):
            ids = sorted(b"%d" % n if n % 2 else b"00%d" % n for n in range(count))
            tables[kind] |= {
                "id_bytes": np.frombuffer(b"".join(ids), np.uint8),
                "id_offsets": np.cumsum([0, *map(len, ids)]).astype(np.int64),
            }
        bundle = write_bundle(place / "text", catalog_of=(info, tables))
        pairs = self.pairs(place, text="user,item,note\n004,0010,a\n7,0010,0x1F\n004,9,1.50\n")
        assert run("score", bundle, "--pairs", pairs, "--out", place / "o.csv").err == ""
        rows = [line.split(",")[:3] for line in (place / "o.csv").read_text().splitlines()[1:]]
        assert rows == [["004", "0010", "a"], ["7", "0010", "0x1F"], ["004", "9", "1.50"]]
        scored = pl.read_csv(place / "o.csv", infer_schema_length=0)
        with runtime.open(bundle) as session:
            alone = session.score("7", ["0010"]).log_odds[0]
        assert float(scored["log_odds"][1]) == pytest.approx(float(alone), abs=1e-4)
        pairs = self.pairs(place, text="user,item\n4,3\n")
        assert "1 of 1 users are not in the catalog" in run("score", bundle, "--pairs", pairs, "--out", place / "o.csv").err
        pairs = self.pairs(place, text="user,item\n004,10\n")
        ended = run("score", bundle, "--pairs", pairs, "--out", place / "o.csv")
        one_line(ended, 2, "1 item is not in the catalog: '10' (row 1)")

    def test_byte_order_mark_and_quotes(self, run: Run, place: Path) -> None:
        pairs = place / "pairs.csv"
        pairs.write_bytes('\ufeffuser,item,note\r\n100,3,"a, ""b"""\r\n\r\n'.encode())
        assert run("score", place / "bundle", "--pairs", pairs, "--out", place / "o.csv").code == 0
        header, row = (place / "o.csv").read_text().splitlines()
        assert header == "user,item,note,probability,log_odds,exit" and row.startswith('100,3,"a, ""b""",')

    def test_parquet_without_polars(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "polars", None)
        for words in (("--pairs", place / "p.parquet", "--out", "o.csv"), ("--pairs", self.pairs(place), "--out", "o.parquet")):
            one_line(
                run("score", place / "bundle", *words), 2, ".parquet: Parquet needs polars", "pip install 'rexit[calibrate]'"
            )

    def test_out_is_a_folder(self, run: Run, place: Path) -> None:
        (place / "o.csv").mkdir()
        ended = run("score", place / "bundle", "--pairs", self.pairs(place), "--out", place / "o.csv")
        one_line(ended, 2, "o.csv: cannot be written: it is a folder")


class TestVerify:
    def checks(self, ended: Ended) -> dict[str, str]:
        return {c["name"]: c["outcome"] for c in ended.json["checks"]}

    def test_whole_bundle_passes(self, run: Run, place: Path) -> None:
        calibrate(run, place)
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 0 and ended.json["ok"]
        assert self.checks(ended) == dict.fromkeys(("digests", "policy", "prompts", "log-odds", "exit decisions"), "ok")
        assert "All checks passed." in run("verify", place / "bundle").out

    def test_decisions_are_checked_with_a_cold_and_a_cached_prefix(self, run: Run, made: Path, reused: list[bool]) -> None:
        assert run("verify", made / "bundle").code == 0
        assert reused == [False, True] * 4

    def flip(self, path: Path, at: int = -5) -> None:
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)

    @pytest.mark.parametrize(
        "name", ["catalog/items.safetensors", "variants/cpu-fp32/segment-0.onnx.data", "variants/cpu-fp32/golden.safetensors"]
    )
    def test_edited_file(self, run: Run, place: Path, name: str) -> None:
        self.flip(place / "bundle" / name)
        ended = run("verify", place / "bundle")
        assert ended.code == 8
        failed = [line for line in ended.out.splitlines() if line.startswith("FAILED ")]
        assert failed and all(name in line and "(edited)" in line for line in failed)

    def test_truncated_file(self, run: Run, place: Path) -> None:
        path = place / "bundle" / "variants" / "cpu-fp32" / "segment-0.onnx.data"
        path.write_bytes(path.read_bytes()[:-1])
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8
        assert "(truncated or edited)" in ended.json["checks"][0]["failures"][0]

    def test_weights_that_are_not_the_exported_ones(self, run: Run, place: Path) -> None:
        """Digests recorded anew over a spoilt weight: only the golden samples can tell."""
        data = place / "bundle" / "variants" / "cpu-fp32" / "segment-1.onnx.data"
        weights = np.frombuffer(data.read_bytes(), np.float32).copy()
        weights[: len(weights) // 2] *= 1.5
        data.write_bytes(weights.tobytes())
        refresh(place / "bundle")
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8
        assert [n for n, outcome in self.checks(ended).items() if outcome != "ok"] == ["log-odds"]
        failures = ended.json["checks"][3]["failures"]
        assert len(failures) == 4 and all("log-odds" in line and "exit 0" not in line for line in failures)

    def test_prompt_that_is_not_the_exporters(self, run: Run, place: Path) -> None:
        from safetensors.numpy import load_file, save_file

        path = place / "bundle" / "variants" / "cpu-fp32" / "golden.safetensors"
        table = load_file(path)
        table["prefix_tokens"][2] += 1
        save_file(table, path)
        refresh(place / "bundle")
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8
        failures = ended.json["checks"][2]["failures"]
        assert len(failures) == 1 and "golden slate 0" in failures[0] and "token 2 is" in failures[0]

    def test_scores_that_are_not_the_traces(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However wide the tolerance for another machine's rounding: one session computes one thing."""
        variant = place / "bundle" / "variants" / "cpu-fp32" / "variant.json"
        value = json.loads(variant.read_text())
        value["parity"]["tolerance"] = 1.0
        variant.write_text(json.dumps(value))
        refresh(place / "bundle")
        real = runtime.Session.score

        def off(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            scores = real(self, *words, **keywords)
            return replace(scores, log_odds=scores.log_odds * np.float32(1.001) + np.float32(0.001))

        assert run("verify", place / "bundle").code == 0
        monkeypatch.setattr(runtime.Session, "score", off)
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8
        assert [n for n, outcome in self.checks(ended).items() if outcome != "ok"] == ["exit decisions"]
        assert "the trace has" in ended.json["checks"][4]["failures"][0]

    def test_runtime_that_stops_elsewhere(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_policy(place / "bundle", [{"a": 1.0, "b": 0.0, "upper": 5.0, "lower": 5.0}] * 3)
        real = runtime.Session.score

        def always_deepest(self: runtime.Session, *words: Any, **keywords: Any) -> Any:
            return real(self, *words, **keywords, force_exit=2)

        assert run("verify", place / "bundle").code == 0
        monkeypatch.setattr(runtime.Session, "score", always_deepest)
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8
        assert self.checks(ended)["exit decisions"] == "FAILED"
        assert "stopped at exit 2, expected" in ended.json["checks"][4]["failures"][0]

    def test_policy_of_another_variant(self, run: Run, place: Path) -> None:
        Policy.full_depth(3, "f" * 64).write(place / "bundle" / "variants" / "cpu-fp32" / "policy.json")
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8 and self.checks(ended) == {"digests": "ok", "policy": "FAILED"}

    def test_backend_that_is_not_here(self, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*words: Any, **keywords: Any) -> Any:
            error = BackendError("no TensorRT on this machine")
            error.status = "REXIT_BACKEND_MISSING"
            raise error

        monkeypatch.setattr(runtime, "open", missing)
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 0 and self.checks(ended)["golden samples"] == "skipped"
        assert run("verify", place / "bundle", "--variant", "cpu-fp32").code == 8

    def test_device(self, run: Run, place: Path) -> None:
        bundle = add_tensorrt_variant(place / "bundle")
        ended = run("verify", bundle, "--json")
        skipped = {c["name"]: c for c in ended.json["checks"] if c["outcome"] == "skipped"}
        assert ended.code == 0 and {c["variant"] for c in skipped.values()} == {VARIANT}
        assert list(skipped) == ["engines", "golden samples"]
        assert skipped["golden samples"]["detail"].endswith("; --device cpu checks the graphs on the CPU")
        ended = run("verify", bundle, "--device", "cpu", "--json")
        assert ended.code == 0 and [c["name"] for c in ended.json["checks"] if c["outcome"] == "skipped"] == ["engines"]
        assert run("verify", bundle, "--variant", VARIANT).code == 8
        assert run("verify", bundle, "--device", "cuda").code == 8
        words = ("--variant", VARIANT, "--device", "cpu", "--json")
        assert run("score", bundle, "--user", USER_IDS[0], "--items", ITEM_IDS[1], *words).json["variant"] == VARIANT
        assert run("bench", bundle, "--requests", 2, "--slate", 3, *words).json["device"] == "cpu"
        one_line(run("score", bundle, "--user", USER_IDS[0], "--items", ITEM_IDS[1], "--device", "npu"), 2, "`npu`")

    def test_no_bundle_and_no_variant(self, run: Run, place: Path) -> None:
        assert run("verify", place / "none").code == 8
        one_line(run("verify", place / "bundle", "--variant", "gpu"), 2, "no variant 'gpu'")


class TestInspect:
    def test_bundle(self, run: Run, place: Path) -> None:
        calibrate(run, place)
        shown = run("inspect", place / "bundle", "--json").json
        assert shown["model"]["exits"] == [1, 2, 4]
        (variant,) = shown["variants"]
        assert [s["depth"] for s in variant["segments"]] == ["0-1", "1-2", "2-4"]
        assert variant["policy"]["exits"][2]["layers"] == 4
        assert shown["catalog"]["counts"]["items"] == ITEMS
        text = run("inspect", place / "bundle")
        assert text.code == 0 and "segment-2.onnx" in text.out and "history(recent, 4)" in text.out

    def test_catalog_and_policy(self, run: Run, place: Path) -> None:
        assert run("inspect", place / "catalog", "--json").json["catalog"]["splits"]["test"] == 120
        assert "Not calibrated" in run("inspect", place / "bundle").out
        calibrate(run, place)
        shown = run("inspect", place / "bundle" / "variants" / "cpu-fp32" / "policy.json", "--json").json
        assert shown["kind"] == "policy" and len(shown["policy"]["exits"]) == 3

    def test_prompt_is_the_runtimes(self, run: Run, made: Path) -> None:
        shown = run("inspect", made / "bundle", "--user", 103, "--item=-7", "--as-of", 30, "--json").json
        with runtime.open(made / "bundle") as session:
            prefix, (candidate,) = session.prompt(103, [-7], as_of=30)
        assert shown["prefix"]["tokens"] == prefix.tolist()
        assert shown["candidates"] == [{"item": -7, "tokens": candidate.tolist()}]

    def test_neither(self, run: Run, tmp_path: Path) -> None:
        one_line(run("inspect", tmp_path), 4, "not a bundle (manifest.json), a catalog (catalog.json) or a policy file")

    def test_report_is_no_policy(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "other.json"
        path.write_text('{"schema": 1}')
        one_line(run("inspect", path), 4, "not a policy")

    def test_user_without_items_and_catalog_without_runtime(self, run: Run, made: Path) -> None:
        one_line(run("inspect", made / "bundle", "--user", 103), 2, "needs both --user and --items")
        one_line(run("inspect", made / "catalog", "--user", 103, "--items", "3"), 2, "catalog: is not a bundle")


class TestBench:
    def test_counts_and_orders_what_it_measures(self, run: Run, place: Path) -> None:
        calibrate(run, place)
        report = run("bench", place / "bundle", "--slate", 5, "--requests", 3, "--json").json
        names = [(m["mode"], m["prefix"]) for m in report["modes"]]
        modes = ("full depth", "calibrated", "1 layer", "2 layers")
        assert names == [(mode, prefix) for mode in modes for prefix in ("cold", "warm")]
        depth = {m["mode"]: m["mean_layers"] for m in report["modes"]}
        assert (depth["full depth"], depth["1 layer"], depth["2 layers"]) == (4, 1, 2)
        for m in report["modes"]:
            assert 0 < m["p50_ms"] <= m["p90_ms"] <= m["p99_ms"] and 0 < m["retrieval_share"] < 1
        assert report["peak_rss_bytes"] > 10e6 and report["session_bytes"] > 0

    def test_cold_is_cold_and_warm_is_warm(self, run: Run, made: Path, reused: list[bool]) -> None:
        assert run("bench", made / "bundle", "--slate", 5, "--requests", 2, "--sessions", "").code == 0
        assert reused == [False, *([False, True] * 3 * 2)]

    def test_table_without_a_policy(self, run: Run, made: Path) -> None:
        ended = run("bench", made / "bundle", "--slate", 5, "--requests", 2)
        assert ended.code == 0 and "Not calibrated" in ended.out and "Open to first score" in ended.out

    def test_sessions_at_once_and_arrivals(self, run: Run, made: Path) -> None:
        report = run(
            "bench", made / "bundle", "--slate", 5, "--requests", 8, "--sessions", "1,3", "--rates", "0.3", "--json"
        ).json
        assert [row["sessions"] for row in report["throughput"]] == [1, 3]
        assert all(row["requests_per_s"] > 0 for row in report["throughput"])
        (load,) = report["load"]
        best = max(report["throughput"], key=lambda row: row["requests_per_s"])
        assert load["requests_per_s"] == pytest.approx(0.3 * best["requests_per_s"]) and load["sessions"] == best["sessions"]
        assert load["waiting_ms"] >= 0 and 0 < load["p50_ms"] <= load["p99_ms"]
        stages = [m["stages_ms"] for m in report["modes"]]
        assert all(set(s) == {"retrieval", "prefix", "slate"} and min(s.values()) >= 0 for s in stages)

    def test_profile_that_calibration_uses(self, run: Run, place: Path) -> None:
        path = place / "profile.json"
        report = run("bench", place / "bundle", "--slate", 5, "--requests", 3, "--sessions", "", "--profile", path, "--json").json
        written = json.loads(path.read_text())
        assert report["profile"] == {k: v for k, v in written.items() if k not in ("schema", "requires", "producer")}
        assert len(written["segments"]) == 3 and written["variant_sha256"] == report["variant_sha256"]
        calibrate(run, place, "--profile", path)
        used = json.loads((place / "bundle" / "variants" / "cpu-fp32" / "report.json").read_text())["profile"]
        assert used == report["profile"]

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"variant_sha256": "0" * 64}, "measured with variant 000000000000…"),
            ({"device": "cuda"}, "measured with device cuda, here cpu: measure it again with `rexit bench --profile`"),
            ({"threads": 64}, "measured with threads 64, here "),
        ],
    )
    def test_profile_that_was_measured_otherwise(self, run: Run, place: Path, change: dict[str, Any], line: str) -> None:
        path = place / "profile.json"
        assert run("bench", place / "bundle", "--slate", 5, "--requests", 3, "--sessions", "", "--profile", path).code == 0
        value = json.loads(path.read_text())
        path.write_text(json.dumps(value | change))
        ended = run("calibrate", place / "bundle", "--catalog", place / "catalog", "--profile", path)
        one_line(ended, 4, line)
        assert not (place / "bundle" / "variants" / "cpu-fp32" / "policy.json").exists()

    @pytest.mark.parametrize(
        ("option", "value", "line"),
        [
            ("--sessions", "0", "--sessions 0, expected numbers from 1 to 64"),
            ("--sessions", "two", "--sessions 'two', expected numbers separated by commas"),
            ("--rates", "0.5,1", "--rates 0.5,1.0, expected shares above 0 and below 1"),
            ("--profile", "/nowhere/at/all.json", "/nowhere/at: cannot be written"),
        ],
    )
    def test_bad_option(self, run: Run, made: Path, option: str, value: str, line: str) -> None:
        one_line(run("bench", made / "bundle", "--slate", 5, "--requests", 2, option, value), 2, line)

    def test_slate_larger_than_the_catalog(self, run: Run, made: Path) -> None:
        one_line(run("bench", made / "bundle", "--slate", 21), 2, "--slate 21, the catalog has 20 items")


@pytest.mark.parametrize("command", ["calibrate", "score", "verify", "inspect", "bench"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    ended = run(command, "--help")
    assert ended.code == 0 and f"rexit {command} " in ended.out.split("Usage:")[1].split("\n", 1)[1]
