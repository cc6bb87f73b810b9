"""`rexit refresh --checkpoint`: a bundle whose prompts have vectors, from export through an update to scores of new items."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle_files import contents
from builders.data.indexed_catalog import ITEMS, USERS, WITH_ENCODED, WITH_VECTORS, look, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.options import ExportOptions, IndexOptions, LightGCNOptions
from rexit.format.bundle import Bundle, Catalog
from running.command import Run, assert_one_line
from running.fast import fast

TABLES = {"gcn": (WITH_VECTORS, {"gcn", "title:2"}), "look": (WITH_ENCODED, {"look", "title:2"})}
"""A template, and the tables it has, by the one that tells them apart."""
NEW = 1000 + ITEMS
LATE = 10_000


def new_items(column: str = "look:float_seq", numbers: str = look(NEW)) -> str:
    return f"item_id,title,{column}\n{NEW},New film,{numbers}\n"


def update(place: Path, out: str, items: str) -> None:
    """Everybody met the new film and one of the old ones; users with an even number liked both."""
    lines = [f"{100 + user},{item},{5 - 4 * (user % 2)},{LATE + user}" for user in range(USERS) for item in (NEW, 1001)]
    (place / "today.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]))
    (place / "new-items.csv").write_text(items)
    files = (place / "today.csv", place / "new-items.csv", str(place / "tokenizer.json"), place / "prompt.toml", place / out)
    build_catalog(*files, old=place / "catalog")


@pytest.fixture(scope="module", params=fast(TABLES, "gcn"))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """`bundle`, what it was made of, and `newer`: the catalog a day later."""
    place, (template, _) = tmp_path_factory.mktemp("refreshed"), TABLES[request.param]
    catalog = Catalog.open(write_indexed_catalog(place, template=template))
    tiny_checkpoint(place / "checkpoint", (1,), catalog=catalog, num_hidden_layers=1)
    options = ExportOptions(precisions=["fp32", "int8"], golden_slates=4, accept_loss=True)
    export_bundle(place / "checkpoint", catalog.path, place / "bundle", options)
    update(place, "newer", new_items())
    return place, request.param


@pytest.fixture
def place(exported: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[0], tmp_path / "place"))


@pytest.fixture
def table(exported: tuple[Path, str]) -> str:
    return exported[1]


def refresh(run: Run, place: Path, *more: object) -> Any:
    return run("refresh", place / "bundle", "--catalog", place / "newer", "--checkpoint", place / "checkpoint", *more)


@pytest.mark.medium
def test_a_new_item_has_its_vectors(run: Run, place: Path, table: str) -> None:
    """Those that an export of the new catalog would make, in the place of the old; known items keep theirs."""
    before = Bundle.open(place / "bundle").vectors()
    done = refresh(run, place, "--json")
    assert done.code == 0, done.err
    assert done.json["items"] == [ITEMS + 1, 1] and [variant["variant"] for variant in done.json["variants"]] == [
        "cpu-fp32",
        "cpu-int8",
    ]
    assert all(variant["new_candidates"] > 0 for variant in done.json["variants"])
    after, newer = Bundle.open(place / "bundle").vectors(), Catalog.open(place / "newer")
    assert before is not None and after is not None and after.tables.keys() == TABLES[table][1]
    export_bundle(place / "checkpoint", newer.path, place / "exported", ExportOptions(golden_slates=1))
    anew = Bundle.open(place / "exported").vectors()
    assert anew is not None and after.user is not None and before.user is not None
    for name, rows in after.tables.items():
        assert rows.shape[0] == ITEMS + 1 and (rows == anew.tables[name]).all()
        assert (rows[:ITEMS] == before.tables[name]).all(), "the new id is the last"
    assert (after.user == anew.user).all() and (after.user[:ITEMS] == before.user).all()
    verified = run("verify", place / "bundle", "--json")
    assert verified.code == 0 and {check["outcome"] for check in verified.json["checks"]} == {"ok"}, verified.out
    assert run("score", place / "bundle", "--user", 100, "--items", NEW).code == 0


@pytest.mark.medium
def test_back_to_the_exported_catalog(run: Run, place: Path) -> None:
    """The vectors that the export left beside the manifest are gone by then."""
    assert refresh(run, place).code == 0
    update(place, "third", new_items().replace("New", "Old"))
    for name in ("third", "catalog"):
        done = run("refresh", place / "bundle", "--catalog", place / name, "--checkpoint", place / "checkpoint")
        assert done.code == 0, done.err
        assert run("verify", place / "bundle").code == 0
    assert run("score", place / "bundle", "--user", 100, "--items", 1001).code == 0


@pytest.mark.medium
def test_only_the_bundles_own_checkpoint_makes_vectors(run: Run, place: Path) -> None:
    before = contents(place / "bundle")
    assert_one_line(run("refresh", place / "bundle", "--catalog", place / "newer"), 2, "give --checkpoint", "nothing was swapped")
    other = tiny_checkpoint(place / "other", catalog=Catalog.open(place / "catalog"), intermediate_size=64)
    ended = run("refresh", place / "bundle", "--catalog", place / "newer", "--checkpoint", other)
    assert_one_line(ended, 2, "is not the checkpoint that ", "was exported from", "nothing was swapped")
    assert_one_line(run("refresh", place / "bundle", "--catalog", place / "newer", "--checkpoint", place / "none"), 3, "none")
    assert contents(place / "bundle") == before


@pytest.mark.medium
def test_a_reload_takes_the_new_vectors_over(run: Run, place: Path) -> None:
    with runtime.open(place / "bundle", "cpu-fp32") as session:
        session.score(100, [1001])
        assert refresh(run, place).code == 0
        newer = session.reloaded()
        assert newer is not None
        with newer, runtime.open(place / "bundle", "cpu-fp32") as fresh:
            for items in ([1001], [NEW, 1001]):
                np.testing.assert_array_equal(newer.trace(100, items), fresh.trace(100, items))


@pytest.mark.medium
@pytest.mark.parametrize("exported", ["look"], indirect=True)
def test_an_encoder_of_another_width_is_refused(run: Run, place: Path) -> None:
    """A catalog that was indexed anew, with vectors of three numbers."""
    shutil.rmtree(place / "newer")
    text = (place / "items.csv").read_text().splitlines()
    cut = [line if n == 0 or not line.rpartition(",")[2] else " ".join(line.split()[:-2]) for n, line in enumerate(text)]
    (place / "items.csv").write_text("\n".join(cut))
    data = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), place / "prompt.toml")
    build_catalog(*data, place / "newer", IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=2)))
    before = contents(place / "bundle")
    assert_one_line(refresh(run, place), 2, "vectors of prompts are", "'dim': 3", "'dim': 5", "nothing was swapped")
    assert contents(place / "bundle") == before
