"""Embeddings from elsewhere: tables, retrieval and training prompts are those that the files say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from oracles.assembler import Assembler, Space
from rexit.exporter.index import build_catalog
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.format.bundle import Catalog
from running.command import Run
from running.indexing import assert_refused

DIM = 8
TASTE = np.eye(DIM)[0]  # even items and users lie along it, odd ones against it


def rows(count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, DIM))
    return (np.where(np.arange(1, count + 1) % 2 == 1, 1, -1)[:, None] * TASTE + 0.1 * noise).astype(np.float32)


ITEM_ROWS, USER_ROWS = rows(ratings.ITEMS, 0), rows(ratings.USERS, 1)


def parquet(path: Path, column: str, ids: object, table: np.ndarray) -> Path:
    pl.DataFrame({column: ids, "embedding": table.tolist()}, {column: pl.Int64, "embedding": pl.List(pl.Float32)}).write_parquet(
        path
    )
    return path


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the embeddings' files."""
    return tmp_path_factory.mktemp("given")


def indexed(run: Run, *words: object, **settings: object) -> str:
    """Runs the command, which succeeds; what it said on stderr."""
    code, _, err = run(*map(str, words), **settings)
    assert code == 0, err
    return err


@pytest.fixture
def files(place: Path) -> tuple[str, ...]:
    """The options that name the files."""
    items = parquet(place / "items.parquet", "item_id", range(1, ratings.ITEMS + 1), ITEM_ROWS)
    users = parquet(place / "users.parquet", "user_id", range(1, ratings.USERS + 1), USER_ROWS)
    return "--item-embeddings", str(items), "--user-embeddings", str(users)


def unit(table: np.ndarray) -> np.ndarray:
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def test_tables_are_the_files_rows(run: Run, data: Path, files: tuple[str, ...]) -> None:
    indexed(run, *files)
    catalog = Catalog.open(data / "catalog")
    np.testing.assert_allclose(catalog.user_embeddings, unit(USER_ROWS), atol=1e-3)
    np.testing.assert_allclose(catalog.item_table["embeddings"], unit(ITEM_ROWS), atol=1e-3)
    ratio = catalog.item_table["fold_in"].astype(float) / ITEM_ROWS
    assert np.ptp(ratio) < 0.01 * ratio.mean(), "the items' rows over one number"
    assert "lightgcn" not in catalog.info and catalog.info["embedding"]["users"] == "given"
    assert catalog.info["retrieval"]["recall@20"] > 0.5


def test_known_users_are_near_by_their_own_rows(run: Run, data: Path, files: tuple[str, ...]) -> None:
    indexed(run, *files)
    near = unit(USER_ROWS).astype(np.float16).astype(float)
    products = near @ near.T
    np.fill_diagonal(products, -np.inf)
    expected = np.argsort(-products, 1, kind="stable")[:, :5]
    assert (Catalog.open(data / "catalog").user_table["similar"][:, :5] == expected).all()


def test_both_forms_are_one_catalog(run: Run, data: Path, place: Path, files: tuple[str, ...]) -> None:
    indexed(run, *files)
    expected = Catalog.open(data / "catalog")
    order = np.random.default_rng(0).permutation(ratings.ITEMS)
    np.save(place / "given.npy", ITEM_ROWS[order])
    np.save(place / "given.ids.npy", order + 1)
    indexed(run, "--item-embeddings", place / "given.npy", *files[2:])
    catalog = Catalog.open(data / "catalog")
    for name in ("embeddings", "fold_in"):
        assert (catalog.item_table[name] == expected.item_table[name]).all()


def test_users_are_folded_in_without_a_file_of_theirs(run: Run, data: Path, files: tuple[str, ...]) -> None:
    indexed(run, *files[:2])
    catalog = Catalog.open(data / "catalog")
    assert catalog.info["embedding"]["users"] == "folded in"
    even = catalog.user_embeddings[1::2, 0].astype(float)
    assert (even < 0).mean() > 0.9


def test_what_has_no_row_is_unknown(run: Run, data: Path, place: Path, files: tuple[str, ...]) -> None:
    parquet(place / "items.parquet", "item_id", range(1, ratings.ITEMS), ITEM_ROWS[:-1])
    parquet(place / "users.parquet", "user_id", range(2, ratings.USERS + 1), USER_ROWS[1:])
    indexed(run, *files)
    catalog = Catalog.open(data / "catalog")
    assert not catalog.item_table["embeddings"][-1].any() and not catalog.user_embeddings[0].any()
    assert catalog.info["embedding"]["without_embedding"] == {"users": 1, "items": 1}


def test_training_prompts_before_the_moment_retrieve_nothing(run: Run, data: Path, files: tuple[str, ...]) -> None:
    moment = 200
    indexed(run, *files, "--embeddings-as-of", moment)
    catalog = Catalog.open(data / "catalog")
    builder = PromptBuilder.of(catalog, "train")
    before, after = builder.prompts(RowSlate(0, [1, 2], time) for time in (moment - 1, moment))
    assert (before.part, after.part) == (0, 1)
    space = Space(*(catalog.snapshots[name][0] for name in ("users", "items", "fold_in")))
    for prompt, time, known in ((before, moment - 1, None), (after, moment, space)):
        book = Assembler(catalog, 0, time, space=known)
        assert [part.tolist() for part in prompt.candidates] == [book.tokens("candidate", item) for item in (1, 2)]


def test_what_is_not_known_of_the_embeddings_is_said(run: Run, data: Path, files: tuple[str, ...]) -> None:
    warning = "rexit: warning: these embeddings may have learned from the interactions that are to be predicted"
    assert warning in indexed(run, *files)
    assert "warning" not in indexed(run, *files, "--embeddings-as-of", 101)
    late = indexed(run, *files, "--embeddings-as-of", ratings.LATE + 10**6)
    assert "96 interactions of validation and test happened before --embeddings-as-of" in late


Damage = Callable[[Path], tuple[str, ...]]


def _npy(place: Path) -> tuple[str, ...]:
    np.save(place / "given.npy", ITEM_ROWS)
    return "--item-embeddings", str(place / "given.npy")


def _with(column: str, ids: object, table: np.ndarray) -> Damage:
    def damage(place: Path) -> tuple[str, ...]:
        parquet(place / f"{column[:4]}s.parquet", column, ids, table)
        return ()

    return damage


def _lists(lists: list[list[float]], kind: type[pl.DataType] = pl.Float32) -> Damage:
    """The embeddings of items 1 and 2."""

    def damage(place: Path) -> tuple[str, ...]:
        frame = pl.DataFrame({"item_id": [1, 2], "embedding": lists}, {"item_id": pl.Int64, "embedding": pl.List(kind)})
        frame.write_parquet(place / "items.parquet")
        return ()

    return damage


def _beside(name: str, content: object, table: np.ndarray = ITEM_ROWS) -> Damage:
    """given.npy, with a file of ids beside it."""

    def damage(place: Path) -> tuple[str, ...]:
        np.save(place / "given.npy", table)
        if isinstance(content, bytes):
            (place / name).write_bytes(content)
        else:
            np.save(place / name, np.asarray(content))
        return "--item-embeddings", str(place / "given.npy")

    return damage


@pytest.mark.medium
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with("user_id", [1], np.ones((1, 3))), "users.parquet: embeddings of 3 numbers, those of"),
        (_lists([[1.0, 2.0], [3.0]]), "items.parquet: the embedding of 2 has 1 numbers, that of 1 has 2"),
        (_lists([[], []]), "items.parquet: the embedding of 1 has no number: leave out what is not known"),
        (_lists([[1.0, 2.0], [1.0, 1e39]]), "items.parquet: the embedding of 2 has a number that is not finite"),
        (_beside("given.ids.npy", np.ones((ratings.ITEMS, 1), int)), ", 1], expected one dimension"),
        (_beside("given.ids.npy", np.ones(ratings.ITEMS)), "given.npy: column 'id' holds Float64, expected integers or strings"),
        (_beside("given.ids.npy", [1, 2]), f"given.npy: 2 ids and {ratings.ITEMS} embeddings, expected as many"),
        (_beside("given.ids.npy", b"PK\x03\x04"), "given.ids.npy: not a NumPy array: File is not a zip file"),
        (_lists([[1, 2], [3, 4]], pl.Int64), "items.parquet: column 'embedding' holds List(Int64), expected lists of floats"),
        (_with("user_id", [1, 7], np.diag([1, 0])), "the embedding of 7 is zero: leave out what is not known"),
        (_with("item_id", [1, 1], np.ones((2, 8))), "items.parquet: id 1 appears 2 times, expected once"),
        (_with("item_id", [1, 99], np.ones((2, 8))), "items.parquet: item 99 is not in"),
        (_with("user_id", [77], np.ones((1, 8))), "users.parquet: user 77 is not in"),
        (_npy, "given.npy: its ids are missing, expected given.ids.npy beside it"),
        (lambda _: ("--embeddings-as-of", "soon"), "--embeddings-as-of is 'soon', expected"),
    ],
)
def test_bad_input_is_one_line(run: Run, data: Path, place: Path, files: tuple[str, ...], damage: Damage, message: str) -> None:
    assert_refused(run(*files, *damage(place)), data, message)


def test_users_alone_are_not_enough(run: Run, data: Path, files: tuple[str, ...]) -> None:
    assert_refused(run(*files[2:]), data, "--user-embeddings is given without --item-embeddings")


def test_an_update_finds_similar_users_as_the_catalog_did(run: Run, data: Path, files: tuple[str, ...]) -> None:
    """By the users' own embeddings, not by those that their likes fold in."""
    indexed(run, *files)
    old = Catalog.open(data / "catalog")
    (data / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,2,5,20000\n")
    fields = data / "new.csv", None, str(data / "tok"), data / "prompt.toml", data / "newer"
    build_catalog(*fields, old=old.path)
    assert (Catalog.open(data / "newer").user_table["similar"] == old.user_table["similar"]).mean() > 0.95
