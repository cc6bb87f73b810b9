"""benchmarks/ranking/words.py: words are found where they decide, and verdicts on items worded alike are counted right."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.bundle import Catalog, Split
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


def split(*rows: tuple[int, int, int, bool]) -> Split:
    users, items, times, liked = (np.array(column) for column in zip(*rows, strict=True))
    return Split(users, items, times, liked, np.zeros((len(users), 0), np.int32))


def test_words_that_decide_are_learned_beside_the_score() -> None:
    import as_of
    import words

    random = np.random.default_rng(0)
    table = csr_array(np.eye(2)[[0, 1, 0, 1]])  # items 1 and 3 have the word that is liked
    parts = []
    for _ in range(3):
        items = random.integers(0, 4, 200)
        rows = split(*((n, item, 0, bool(item % 2)) for n, item in enumerate(items)))
        parts.append((as_of.cut(rows, 20), random.normal(size=200)))
    score = words.beside(parts[0], parts[1:], table)
    assert words.auc(score, parts[2][0].liked) == 1 > words.auc(parts[2][1], parts[2][0].liked)


def test_verdicts_count_by_how_alike_the_words_are() -> None:
    import as_of
    import words

    table = csr_array(np.array([[1, 0], [0.6, 0.8], [0, 1]]))
    splits = {
        "train": split((0, 0, 1, True), (0, 2, 2, False), (1, 0, 1, True)),
        "validation": split((0, 1, 3, True)),
        "test": split((0, 0, 4, True), (1, 2, 1, False)),
    }
    catalog = SimpleNamespace(split=splits.get, users=range(2))
    validation, test = words.worded_alike(catalog, [as_of.cut(splits[name], 1) for name in ("validation", "test")], table)
    rate, total = 0.5, 0.6 + 0.8
    np.testing.assert_allclose(validation, [[total, (0.6 + words.PRIOR * rate) / (total + words.PRIOR) - rate]], rtol=1e-6)
    rate, total = 2 / 3, 0.6  # an interaction with the same item is left out; nothing at or after the moment is visible
    np.testing.assert_allclose(test, [[total, (0.6 + words.PRIOR * rate) / (total + words.PRIOR) - rate], [0, 0]], rtol=1e-6)


@pytest.mark.slow
def test_table_of_what_words_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import words

    folder = write_indexed_catalog(tmp_path, users=40, taste=True)
    catalog = Catalog.open(folder)
    ids = catalog.items.take(np.arange(len(catalog.items)))
    pl.DataFrame({"item_id": ids, "title": [f"word{n % 2} {n}" for n in range(len(ids))]}).write_csv(tmp_path / "items.csv")
    monkeypatch.setattr(sys, "argv", ["words.py", str(folder), "--items", str(tmp_path / "items.csv"), "--columns", "title"])
    words.main()
    printed = capsys.readouterr().out
    assert "| words of the item " in printed and "| likes of items worded alike " in printed

    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "title,author"])
    with pytest.raises(SystemExit, match=r"words: .*no column 'author', it has: title"):
        words.main()
