"""examples/embeddings.py: what it writes is what `rexit index` reads, and it learns from earlier interactions alone."""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from builders.data import ratings
from rexit.exporter.retriever.external import read_embeddings
from running.scripts import scripts_of

scripts = scripts_of("examples")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    import embeddings

    ratings.interactions().write_csv(tmp_path / "ratings.csv")

    def run(*words: object) -> Path:
        command = ["embeddings.py", tmp_path / "ratings.csv", "--out", tmp_path / "out", "--dim", 4, "--epochs", 3, *words]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        embeddings.main()
        return tmp_path / "out"

    return run


@pytest.mark.parametrize("method", ["lightgcn", "factorization"])
def test_files_are_those_of_index(run: Callable[..., Path], method: str) -> None:
    out = run("--method", method, "--before", 200)
    liked = ratings.interactions().filter((pl.col("rating") >= 4) & (pl.col("timestamp") < 200))
    for name in ("user", "item"):
        table = read_embeddings(out / f"{name}s.parquet", f"{name}_id")
        assert table.ids.to_list() == liked[f"{name}_id"].cast(pl.String).unique().sort().to_list()
        assert table.rows.shape == (len(table.ids), 4)


def test_nothing_before_the_moment_is_one_line(run: Callable[..., Path]) -> None:
    with pytest.raises(SystemExit, match=r"embeddings: .*no like before 3, nothing to learn from$"):
        run("--before", 3)
