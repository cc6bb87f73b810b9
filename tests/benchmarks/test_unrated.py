"""benchmarks/ranking/unrated.py: what is added to each like, and what never is."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """User `few` likes one item at 5 and does not like one at 6; `most` rated all but two of the 40, at 100 and on; item i has
    one rating more the smaller i."""
    random = np.random.default_rng(0)
    rows = [("few", "i0", 5.0, 5), ("few", "i1", 1.0, 6), *(("most", f"i{n}", 4.0, 100 + n) for n in range(38))]
    rows += [(f"u{n}", f"i{item}", 3.0, 50) for n in range(40) for item in range(40 - n)]
    path = tmp_path / "ratings.tsv"
    shuffled = pl.DataFrame(rows, ["user_id:token", "item_id:token", "rating:float", "timestamp:float"], orient="row")
    shuffled[random.permutation(len(rows))].write_csv(path, separator="\t")
    return path


def run(monkeypatch: pytest.MonkeyPatch, ratings: Path, *options: str) -> pl.DataFrame:
    import unrated

    out = ratings.with_name("out.tsv")
    monkeypatch.setattr(sys, "argv", ["unrated.py", str(ratings), str(out), "--positive-at", "4", *options])
    unrated.main()
    return unrated.read(out)


def test_each_like_brings_items_that_its_user_never_rated_at_its_own_time(monkeypatch, ratings: Path, capsys) -> None:
    import unrated

    before, after = unrated.read(ratings), run(monkeypatch, ratings)
    assert after.head(len(before)).equals(before)
    added = after.tail(len(after) - len(before))
    assert added.join(before, on=["user_id", "item_id"], how="inner").is_empty()
    assert not added.select(pl.struct("user_id", "item_id").is_duplicated()).to_series().any()
    assert set(added["rating"]) == {0.0}
    few, most = (added.filter(user_id=user) for user in ("few", "most"))
    assert len(few) == 9 and set(few["timestamp"]) == {5}
    assert set(most["item_id"]) == {"i38", "i39"} and set(most["timestamp"]) == {100, 101}  # what is left, one like after another
    assert len(added) == 11  # who likes nothing gets nothing
    assert f"{len(before)} ratings, 39 of them likes; 11 items added" in capsys.readouterr().out


def test_popular_items_are_drawn_more_often(monkeypatch, ratings: Path) -> None:
    drawn = [
        run(monkeypatch, ratings, "--seed", str(seed), "--each", "5").filter(user_id="few", rating=0.0) for seed in range(60)
    ]
    numbers = np.array([int(item[1:]) for one in drawn for item in one["item_id"]])
    assert len(numbers) == 300
    assert np.mean(numbers < 21) > 0.65  # i2 to i20 have 72 % of the ratings of what may be drawn, and are half of it


def test_seed_decides(monkeypatch, ratings: Path) -> None:
    one, same, other = (run(monkeypatch, ratings, "--seed", seed) for seed in ("1", "1", "2"))
    assert one.equals(same) and not one.equals(other)


def test_missing_column_is_named(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("user_id\titem_id\trating\n1\t2\t3\n")
    with pytest.raises(
        SystemExit, match=r"^unrated: .*bad\.tsv: no column 'timestamp', expected user_id, item_id, rating, timesta"
    ):
        run(monkeypatch, path)
