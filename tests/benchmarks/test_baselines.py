"""benchmarks/ranking/baselines.py: what the simple models find, and how scored files stand beside them."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.bundle import Catalog, Split
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everybody likes the items with an even number."""
    return write_indexed_catalog(tmp_path_factory.mktemp("baselines"), users=40, taste=True)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    import baselines

    monkeypatch.setattr(sys, "argv", ["baselines.py", *map(str, words)])
    baselines.main()
    return capsys.readouterr().out


def test_table_of_baselines_and_a_scored_file(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    run(monkeypatch, capsys, folder, "--pairs", tmp_path / "pairs.parquet")
    frame = pl.read_parquet(tmp_path / "pairs.parquet")
    # As `rexit score` writes it, but in another order.
    right = frame.with_columns(probability=pl.when("liked").then(0.9).otherwise(0.1)).drop("liked").reverse()
    right.write_csv(tmp_path / "right.csv")
    frame.with_columns(probability=pl.lit(0.5)).write_parquet(tmp_path / "even.parquet")
    scored = [f"{name}={tmp_path / file}" for name, file in (("right", "right.csv"), ("even", "even.parquet"))]
    figures = json.loads(
        run(monkeypatch, capsys, folder, *(w for one in scored for w in ("--scored", one)), "--ratings", "9,2", "--json")
    )
    models = {model["name"]: model for model in figures["models"]}
    assert figures["reference"] == "right" and figures["pairs"] == len(frame)
    assert models["right"]["auc"] == [1, 1, 1] and models["right"]["log_loss"][0] == pytest.approx(-np.log(0.9))
    assert models["even"]["auc"][0] == 0.5 and models["even"]["difference"]["auc"] == [-0.5, -0.5, -0.5]
    for name in ("user and item bias", "matrix factorization", "boosting, counts"):
        assert models[name]["auc"][0] > 0.99 and models[name]["log_loss"][0] < 0.4, name
    assert len(models) == 9
    parts = figures["by_ratings"]
    assert [part["least"] for part in parts] == sorted({part["least"] for part in parts})
    assert sum(part["pairs"] for part in parts) == len(frame)
    assert all(part["auc"]["right"][0] == 1 and part["difference"]["even"][0] == -0.5 for part in parts)

    (tmp_path / "report.json").write_text(json.dumps(figures))
    monkeypatch.setenv("COLUMNS", "160")
    shown = run(monkeypatch, capsys, tmp_path / "report.json")
    assert all(name in shown for name in models) and "difference from right" in shown
    assert f"more than 9: {parts[-1]['pairs']} pairs" in shown


def test_scored_files_alone(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    run(monkeypatch, capsys, folder, "--pairs", tmp_path / "pairs.parquet")
    pl.read_parquet(tmp_path / "pairs.parquet").with_columns(probability=pl.lit(0.5)).write_parquet(tmp_path / "even.parquet")
    scored = ("--scored", f"even={tmp_path / 'even.parquet'}")
    figures = json.loads(run(monkeypatch, capsys, folder, *scored, "--scored-alone", "--json"))
    assert [model["name"] for model in figures["models"]] == ["even"]
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, folder, "--scored-alone")
    assert "--scored-alone needs --scored" in capsys.readouterr().err


def test_files_of_one_name_are_seeds(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    run(monkeypatch, capsys, folder, "--pairs", tmp_path / "pairs.parquet")
    frame = pl.read_parquet(tmp_path / "pairs.parquet")
    frame.with_columns(probability=pl.when("liked").then(0.9).otherwise(0.1)).write_parquet(tmp_path / "right.parquet")
    frame.with_columns(probability=pl.lit(0.5)).write_parquet(tmp_path / "even.parquet")
    scored = [f"{name}={tmp_path / file}.parquet" for name, file in (("mine", "right"), ("mine", "even"), ("even", "even"))]
    words = [word for one in scored for word in ("--scored", one)]
    figures = json.loads(run(monkeypatch, capsys, folder, *words, "--scored-alone", "--ratings", "4", "--json"))
    mine, even = figures["models"]
    assert (mine["name"], mine["chosen"], even["chosen"]) == ("mine", "mean of 2 seeds", "")
    assert mine["auc"] == [0.75, 0.75, 0.75] and even["difference"]["auc"] == [-0.25, -0.25, -0.25]
    assert mine["log_loss"][0] == pytest.approx(-(np.log(0.9) + np.log(0.5)) / 2)
    assert all(part["auc"]["mine"][0] == 0.75 for part in figures["by_ratings"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("probability"), "no column 'probability'"),
        (lambda frame: frame.head(-1), "the test split has"),
        (lambda frame: frame.with_columns(pl.col("item_id").reverse()), "has no probability from 0 to 1"),
        (lambda frame: frame.with_columns(probability=pl.lit(1.5)), "has no probability from 0 to 1"),
    ],
)
def test_a_file_of_something_else_is_refused(folder: Path, tmp_path: Path, change, message: str) -> None:
    import baselines

    catalog = Catalog.open(folder)
    change(baselines.test_frame(catalog).with_columns(probability=pl.lit(0.5))).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(SystemExit, match=message):
        baselines.scored(catalog, "bad", tmp_path / "bad.parquet")


def test_slate_decides_as_of_when_a_pair_is_scored(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    pairs = {}
    for slate in (1, 2):
        run(monkeypatch, capsys, folder, "--pairs", str(tmp_path / "pairs.parquet"), "--slate", str(slate))
        pairs[slate] = pl.read_parquet(tmp_path / "pairs.parquet")
    own = pairs[1].with_columns(number=pl.int_range(pl.len()).over("user_id"))
    first = own.with_columns(pl.col("as_of").min().over("user_id", pl.col("number") // 2)).drop("number")
    assert pairs[2].equals(first) and not pairs[2].equals(pairs[1])


@pytest.mark.slow
def test_only_the_baselines_asked_for_are_fitted_and_as_they_are_among_all(folder: Path, monkeypatch, capsys) -> None:
    import baselines

    every = {model.name: model.score for model in baselines.baselines(Catalog.open(folder))}
    report = json.loads(run(monkeypatch, capsys, folder, "--only", "LightGCN,popularity", "--reference", "popularity", "--json"))
    assert [model["name"] for model in report["models"]] == ["popularity", "LightGCN"]
    for model in baselines.baselines(Catalog.open(folder), only=["matrix factorization", "boosting"]):
        assert np.array_equal(model.score, every.pop(model.name)), model.name
    assert set(every) == {"popularity", "user and item bias", "LightGCN"}
    with pytest.raises(SystemExit, match="--only: 'it', expected some of popularity"):
        run(monkeypatch, capsys, folder, "--only", "it")


def test_an_unknown_reference_is_refused(folder: Path, monkeypatch, capsys) -> None:
    import baselines

    monkeypatch.setattr(baselines, "baselines", lambda *_: iter(()))
    with pytest.raises(SystemExit, match="--reference is 'it'"):
        run(monkeypatch, capsys, folder, "--reference", "it")


def test_matrix_factorization_finds_what_biases_cannot() -> None:
    """Two kinds of users, two kinds of items: each likes its own."""
    import factorization

    random = np.random.default_rng(0)
    users, items = np.divmod(random.permutation(60 * 40), 40)
    liked = (users % 2 == items % 2) ^ (random.random(len(users)) < 0.1)
    parts = [
        Split(users[p], items[p], np.zeros(len(users[p]), int), liked[p], np.zeros((len(users[p]), 0), np.int32))
        for p in (slice(0, 1600), slice(1600, 2000), slice(2000, 2400))
    ]
    _, bias, constant = factorization.biases(*parts, 60, 40)
    _, factors, _ = factorization.matrix_factorization(*parts, 60, 40, constant)
    right = [((score > 0) == parts[2].liked).mean() for score in (bias, factors)]
    assert right[0] < 0.6 and right[1] > 0.85


def test_boosting_stops_where_validation_says() -> None:
    """Of noise nothing can be learned: the fewest rounds are best, and the answer is near the rate of likes."""
    import boosting

    random = np.random.default_rng(0)
    parts = [(random.normal(size=(600, 3)).astype(np.float32), random.random(600) < 0.7) for _ in range(3)]
    validation, test = boosting.boosted(parts[0], parts[1], parts[2][0], leaves=(4,))
    assert len(validation) == len(test) == 600
    assert np.abs(1 / (1 + np.exp(-test)) - 0.7).max() < 0.12
