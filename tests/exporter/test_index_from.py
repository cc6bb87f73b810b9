"""`rexit index --from`: what stays, what is added, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.data import slates
from rexit.errors import InputError
from rexit.exporter.graph import chain
from rexit.exporter.index import build_catalog
from rexit.exporter.options import Columns, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.pieces import load_tokenizer
from rexit.exporter.retriever import neighbours as lists
from rexit.exporter.retriever.neighbours import Lists, similar_users
from rexit.format.bundle import Catalog
from rexit.format.candidates import Candidates
from running.command import Ended, Run

OPTIONS = IndexOptions(neighbours=5, lightgcn=LightGCNOptions(dim=8, epochs=5))
NEW_ITEM, BETWEEN, NEW_USER = 100, 0, 90


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = ratings.write(tmp_path_factory.mktemp("indexed"))
    ratings.index_files(data, OPTIONS)
    return data


@pytest.fixture
def data(indexed: Path, tmp_path: Path) -> Path:
    """Beside the catalog what happened since: everybody met item 100, user 90 is new, and so is item 0, which sorts first."""
    shutil.copytree(indexed, tmp_path, dirs_exist_ok=True)
    rows = [(user, NEW_ITEM, 5 if user % 2 else 1, 20_000) for user in range(1, ratings.USERS + 1)]
    rows += [(NEW_USER, 1, 5, 20_001), (NEW_USER, NEW_ITEM, 5, 20_002), (3, BETWEEN, 4, 20_003)]
    pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp"], orient="row").write_csv(tmp_path / "new.csv")
    (tmp_path / "new-items.csv").write_text("item_id,title,year\n100,Film 100,\n0,Film 7,1956\n2,New 2,1951\n")
    (tmp_path / "new-users.csv").write_text("user_id,job\n90,pilot\n")
    return tmp_path


@pytest.fixture
def run(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*extra: str, users: bool = True, catalog: str = "catalog") -> Ended:
        options = ["--from", catalog, "--interactions", "new.csv", "--items", "new-items.csv", "--tokenizer", "tok"]
        options += ["--template", "prompt.toml", "--out", "new", *(["--users", "new-users.csv"] if users else []), *extra]
        monkeypatch.chdir(data)
        return run("index", *options)

    return call


@pytest.fixture
def both(data: Path, run: Run) -> tuple[Catalog, Catalog]:
    code, out, err = run("--json")
    assert code == 0, err
    updated = json.loads(out)["updated"]
    assert {key: updated[key] for key in ("users", "items", "interactions")} == {"users": 1, "items": 2, "interactions": 27}
    return Catalog.open(data / "catalog"), Catalog.open(data / "new")


def test_what_is_known_stays(both: tuple[Catalog, Catalog]) -> None:
    old, new = both
    users, items = (b.rows(a.take(np.arange(len(a)))) for a, b in ((old.users, new.users), (old.items, new.items)))
    assert (new.user_embeddings[users] == old.user_embeddings).all()
    for name in ("embeddings", "fold_in"):
        known = old.item_table["embeddings"].any(1)
        assert known.any() and (new.item_table[name][items][known] == old.item_table[name][known]).all()
    for key in ("prompt", "tokenizer", "labels", "ids", "columns", "label", "split"):
        assert new.info[key] == old.info[key], key
    assert new.traits == old.traits, "a model that was trained on the old one may be exported with it"
    assert new.space == old.sha256 == old.space and new.info["updated"]["catalog_sha256"] == old.sha256


def test_splits_stay(both: tuple[Catalog, Catalog]) -> None:
    old, new = both
    for name in ("validation", "test"):
        split, stored = old.split(name), new.split(name)
        assert set(zip(old.users.take(split.users), old.items.take(split.items), split.times, strict=True)) <= set(
            zip(new.users.take(stored.users), new.items.take(stored.items), stored.times, strict=True)
        )


def test_what_the_catalog_holds_already_is_not_added(run: Run, data: Path) -> None:
    """An export of everything so far would stand twice, in the old splits and in the new ones."""
    known = ratings.interactions().head(50)
    pl.concat([pl.read_csv(data / "new.csv"), known]).write_csv(data / "new.csv")
    code, out, err = run("--json")
    assert code == 0, err
    updated = json.loads(out)["updated"]
    assert (updated["interactions"], updated["repeats"]) == (27, 50)


def rows_of_splits(catalog: Catalog) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(catalog.path.glob("splits/*"))])


@pytest.mark.medium
@pytest.mark.parametrize("candidates", ["uniform:2", "popularity:2", "retrieved:12"])
def test_new_interactions_have_the_candidates_of_the_old_ones(data: Path, run: Run, candidates: str) -> None:
    """New rows of the splits: of drawn candidates the interactions and two for each like, of retrieved ones the held-out users'
    slates, and the likes that are in none, since there is no snapshot to train with."""
    old = ratings.index_files(data, replace(OPTIONS, split="user:0.6,0.8", candidates=Candidates.parse(candidates)))
    assert run()[0] == 0
    new = Catalog.open(data / "new")
    before, after = rows_of_splits(old), rows_of_splits(new)
    assert before.join(after, on=before.columns, how="anti").is_empty() and new.candidates == old.candidates
    added = after.join(before, on=["user", "item", "time"], how="anti")
    likes, interactions = added.filter("liked"), pl.read_csv(data / "new.csv")
    assert len(new.user_table["history_items"]) == new.info["counts"]["interactions"] == old.info["counts"]["interactions"] + 27
    if new.candidates.retrieved:
        slates = added.filter("candidate").group_by("user").len()
        assert len(slates) == 2 * ((ratings.USERS + 1) // 10) and set(slates["len"]) == {12}
        assert set(likes.filter(~pl.col("candidate"))["time"]) <= set(interactions["timestamp"])
    else:
        assert len(added) == 27 + 2 * len(likes) and len(likes) == (interactions["rating"] >= 4).sum()
    # The same interactions again are none: no rows are added.
    shutil.copytree(new.path, data / "again")
    assert run(catalog="again")[0] == 0
    again = Catalog.open(data / "new")
    assert again.info["updated"]["interactions"] == 0 and again.info["counts"] == new.info["counts"]
    assert rows_of_splits(again).sort(after.columns).equals(after.sort(after.columns))


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, implicit=True, candidates=Candidates.parse("uniform:2"))])
def test_items_without_an_embedding_are_those_without_a_training_like(data: Path, run: Run, options: IndexOptions) -> None:
    """User 6 is held out, so that item 0 has a like, as all have where interactions are likes, and none to learn from."""
    (data / "new.csv").write_text((data / "new.csv").read_text().replace(f"3,{BETWEEN},4", f"6,{BETWEEN},4"))
    ratings.index_files(data, options)
    code, out, err = run()
    assert code == 0, err
    items, train = Catalog.open(data / "new").items, pl.read_parquet(data / "new" / "splits" / "train.parquet")
    assert set(items.take(np.arange(len(items)))) - set(train.filter("liked")["item"]) == {BETWEEN}
    assert f"\n1 of {len(items)} items have no like in the train split, so they get no neighbours.\n" in out


def test_new_times_are_read_in_the_catalogs_unit(data: Path, run: Run) -> None:
    """Else interactions of today would lie in 1970, before all others, or in the year 50,000."""
    begin, new = 1_700_000_000, pl.read_csv(data / "new.csv")
    ratings.interactions().with_columns(pl.col("timestamp") + begin).write_csv(data / "ratings.csv")
    ratings.index_files(data, OPTIONS)
    when = new["timestamp"] + begin
    for values in (when, pl.from_epoch(when), pl.from_epoch(when).dt.strftime("%Y-%m-%dT%H:%M:%S")):
        new.with_columns(timestamp=values).write_csv(data / "new.csv", datetime_format="%Y-%m-%d %H:%M:%S")
        assert run()[0] == 0
        info, catalog = Catalog.open(data / "catalog").info, Catalog.open(data / "new")
        assert catalog.info["order"] == {**info["order"], "last": begin + 20_003}
        assert catalog.item_table["rating_times"].max() == begin + 20_003
    for values, message in (
        (when * 1000, "look like milliseconds, those of catalog are seconds"),
        (
            new["timestamp"],
            "20003 (1970-01-01T05:33:23Z) are before the first interaction of catalog, 1700000100 (2023-11-14T22:15:00Z)",
        ),
    ):
        new.with_columns(timestamp=values).write_csv(data / "new.csv")
        code, out, err = run("--out", "refused")
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1 and not (data / "refused").exists()


def test_new_rows_are_placed(both: tuple[Catalog, Catalog]) -> None:
    """Odd users liked the new item, so it is near to what odd users like."""
    _, new = both
    item = new.item_table["embeddings"][new.items.row(NEW_ITEM)].astype(np.float64)
    scores = new.user_embeddings.astype(np.float64) @ item
    ids = np.array(new.users.take(np.arange(len(new.users))))
    known = ids <= ratings.USERS
    assert scores[known & (ids % 2 == 1)].mean() > scores[known & (ids % 2 == 0)].mean()
    assert np.linalg.norm(item) == pytest.approx(1, abs=1e-2)
    assert new.user_embeddings[new.users.row(NEW_USER)].any()


def test_similar_users_are_those_that_a_search_finds(both: tuple[Catalog, Catalog]) -> None:
    _, new = both
    users = new.user_table
    expected = similar_users(new.user_embeddings, new.item_table["fold_in"], users, users["similar"].shape[1])
    assert (users["similar"] == expected).all()


def test_lists_keep_their_centres(data: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And searches in them are correct, although a new catalog of so few users would have no lists."""
    with monkeypatch.context() as patched:
        patched.setattr(lists, "EXACT", 20)
        patched.setattr(lists, "PROBES", 3)
        ratings.index_files(data, OPTIONS)
    assert run()[0] == 0
    old, new = Catalog.open(data / "catalog"), Catalog.open(data / "new")
    before, after = Lists.of(old), Lists.of(new)
    assert before is not None and after is not None
    assert after.probes == before.probes == 3
    assert (after.centres == before.centres).all()
    assert (after.owner[new.users.rows(old.users.take(np.arange(len(old.users))))] == before.owner).all()
    assert after.owner[new.users.row(NEW_USER)] >= 0
    users = new.user_table
    expected_similar = similar_users(new.user_embeddings, new.item_table["fold_in"], users, users["similar"].shape[1], after)
    assert (users["similar"] == expected_similar).all()


def test_texts(both: tuple[Catalog, Catalog], data: Path) -> None:
    """New ones are spelled, a known text is the same piece, a changed one is replaced, a missing one says so."""
    old, new = both
    tokenizer, offsets, tokens = load_tokenizer(str(data / "tok")), new.piece_table["offsets"], new.piece_table["tokens"]

    def text(item: int, name: str) -> str:
        piece = new.item_table[f"field.{name}"][new.items.row(item)]
        return str(tokenizer.decode(tokens[offsets[piece] : offsets[piece + 1]].tolist())).strip()

    assert [text(item, "title") for item in (100, 0, 2, 3)] == ["Film 100", "Film 7", "New 2", "Film 3"]
    assert text(100, " year") == "unknown"
    same = new.item_table["field.title"]
    assert same[new.items.row(0)] == same[new.items.row(7)]
    assert len(offsets) - len(old.piece_table["offsets"]) == 4  # Film 100 and New 2, with and without a space before them


def test_a_column_may_be_called_row(data: Path, run: Run) -> None:
    """Its texts are read, not numbers of rows."""
    for name in ("items.csv", "new-items.csv", "prompt.toml"):
        (data / name).write_text((data / name).read_text().replace("title", "row"))
    ratings.index_files(data, OPTIONS)
    assert run()[0] == 0
    new = Catalog.open(data / "new")
    tokens = load_tokenizer(str(data / "tok")).encode("Film 100").ids
    piece = new.item_table["field.row"][new.items.row(NEW_ITEM)]
    assert new.piece_table["tokens"][slice(*new.piece_table["offsets"][piece : piece + 2])].tolist() == tokens


def test_without_times_news_come_behind_all_that_was_known(data: Path, run: Run) -> None:
    """Places stand for times, and those of a new file begin at 0 again."""
    ratings.index_files(data, replace(OPTIONS, order="file"))
    code, _, err = run()
    assert code == 0, err
    old, new = Catalog.open(data / "catalog"), Catalog.open(data / "new")
    news = old.info["counts"]["interactions"] + np.arange(pl.read_csv(data / "new.csv").height)
    times = new.user_table["history_times"]
    last = new.user_table["history_offsets"][1:] - 1
    assert np.sort(times[times >= news[0]]).tolist() == news.tolist()
    assert (times[last[new.users.rows(range(1, ratings.USERS + 1))]] >= news[0]).all()


def test_a_text_longer_than_all_is_cut(data: Path, run: Run) -> None:
    (data / "new-items.csv").write_text("item_id,title,year\n100," + "zq" * 60 + ",\n0,Film 7,1956\n")
    code, out, err = run("--json")
    assert code == 0, err
    assert json.loads(out)["updated"]["cut_texts"] >= 1
    old, new = Catalog.open(data / "catalog"), Catalog.open(data / "new")
    for name in ("max_prefix_tokens", "max_candidate_tokens"):
        assert new.info["prompt"][name] == old.info["prompt"][name]
    lengths = [
        np.diff(c.piece_table["offsets"])[next(v for k, v in c.item_table.items() if "title" in k)].max() for c in (old, new)
    ]
    assert lengths[0] == lengths[1]


def test_without_news_nothing_but_the_records_changes(data: Path, run: Run) -> None:
    """One interaction of known user and item, disliked: no embedding, no text and no prompt of an earlier moment moves."""
    (data / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,2,1,30000\n")
    code, _, err = run("--items", "none.csv", users=False)
    assert code == 2 and "none.csv" in err
    (data / "none.csv").write_text("item_id,title,year\n2,Film 2,1951\n")
    assert run("--items", "none.csv", users=False)[0] == 0
    old, new = Catalog.open(data / "catalog"), Catalog.open(data / "new")
    for name in ("embeddings", "fold_in", "field.title"):
        for key in (name, name.replace("field.", "field. ")):
            if key in old.item_table:
                assert (old.item_table[key] == new.item_table[key]).all()
    assert (old.piece_table["tokens"] == new.piece_table["tokens"]).all()
    assert len(new.user_table["history_items"]) == len(old.user_table["history_items"]) + 1
    for user in range(1, ratings.USERS + 1):
        a, b = (PromptBuilder(source).prompt(user, [1, 2, 5], 30_000) for source in (old, new))
        assert (a.prefix == b.prefix).all() and all((x == y).all() for x, y in zip(a.candidates, b.candidates, strict=True))


@pytest.fixture
def looks(data: Path) -> Path:
    """The same with a column of vectors in the items' file, which prompts place. Item 2 has another since, item 0 none."""
    numbers = [f"{n} 1 {n % 3}" for n in range(ratings.ITEMS)]
    ratings.items().with_columns(pl.Series("look:float_seq", numbers)).write_csv(data / "items.csv")
    (data / "prompt.toml").write_text(ratings.TEMPLATE.replace("{item.title} of", "{item.title} {item.look} of"))
    (data / "new-items.csv").write_text(LOOKS)
    ratings.index_files(data, OPTIONS)
    return data


LOOKS = "item_id,title,year,look:float_seq\n100,Film 100,,0 3 4\n0,Film 7,1956,\n2,New 2,1951,0 0 2\n"


def test_vectors_of_new_items(looks: Path, run: Run) -> None:
    """Known ones keep theirs, unless the file has others."""
    code, _, err = run()
    assert code == 0, err
    old, new = Catalog.open(looks / "catalog"), Catalog.open(looks / "new")
    before, after = old.encoded["look"], new.encoded["look"]
    at = {item: after[new.items.row(item)].tolist() for item in (100, 0, 2)}
    assert at[100] == pytest.approx([0, 0.6, 0.8], abs=1e-3) and at[0] == [0, 0, 0] and at[2] == [0, 0, 1]
    stored = [item for item in range(1, ratings.ITEMS + 1) if item != 2]
    assert (after[new.items.rows(stored)] == before[old.items.rows(stored)]).all()
    assert new.info["prompt"]["vectors"] == old.info["prompt"]["vectors"] == [{"name": "look", "count": 1, "dim": 3}]


def test_vectors_of_another_width_are_refused(looks: Path, run: Run) -> None:
    (looks / "new-items.csv").write_text(LOOKS.replace("0 3 4", "3 4"))
    code, out, err = run()
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert "the items file: column 'look': item '100' has 2 numbers, each of the catalog's has 3" in err


def test_items_without_a_text_need_their_row_for_the_vector(looks: Path, run: Run) -> None:
    """Prompts that name no column of items but one of vectors."""
    template = ratings.TEMPLATE.replace("{item.title} of {item.year}", "{item.look}").replace("{item.title}", "{item.look}")
    (looks / "prompt.toml").write_text(template)
    ratings.index_files(looks, OPTIONS)
    assert run()[0] == 0
    (looks / "new-items.csv").write_text("item_id,look:float_seq\n0,1 2 3\n")
    code, _, err = run("--out", "newer")
    assert code == 2 and "item 100 is not in new-items.csv" in err


BAD = {
    "another tokenizer": ("tok/tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true', "was made with"),
    "another template": ("prompt.toml", "Answer:", "Now:", "is another template than that of catalog: candidate op"),
    "an unknown item": ("new.csv", "90,1,5", "90,999,5", "item 999 is not in new-items.csv"),
    "an id of another kind": (
        "new-items.csv",
        "100,Film 100",
        "x100,Film 100",
        "new-items.csv: item 'x100': the item ids of catalog are integers",
    ),
    "an item's id of another kind": ("new.csv", "90,1,5", "90,x9,5", "new.csv: item 'x9': the item ids of catalog are integers"),
    "a column missing": ("new-items.csv", "title", "name", "new-items.csv: no column 'title' (prompt.toml: {item.title})"),
    "a bad time": ("new.csv", "20002", "soon", "a whole number"),
    "a user without texts": ("new-users.csv", "90,pilot", "91,pilot", "user 90 is not in new-users.csv"),
}


@pytest.mark.parametrize(("name", "old", "new", "message"), BAD.values(), ids=BAD)
def test_refused(data: Path, run: Run, name: str, old: str, new: str, message: str) -> None:
    text = (data / name).read_text()
    assert old in text
    (data / name).write_text(text.replace(old, new))
    code, out, err = run()
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err
    assert not (data / "new").exists()


def test_columns_have_the_catalogs_names(data: Path, run: Run) -> None:
    names = {"user_id": "who", "item_id": "film", "rating": "stars", "timestamp": "when"}
    for name in ("ratings.csv", "items.csv", "users.csv", "new.csv", "new-items.csv", "new-users.csv"):
        header, _, rest = (data / name).read_text().partition("\n")
        (data / name).write_text(",".join(names.get(column, column) for column in header.split(",")) + "\n" + rest)
    ratings.index_files(data, replace(OPTIONS, columns=Columns("who", "film", "stars", "when")))
    code, _, err = run()
    assert code == 0, err
    old, new = (Catalog.open(data / name).info["columns"] for name in ("catalog", "new"))
    assert new == old == {"user": "who", "item": "film", "rating": "stars", "time": "when"}


@pytest.mark.parametrize("option", [["--implicit"], ["--seed", "1"], ["--positive-at", "3"]])
def test_options_of_another_catalog_are_its_own(data: Path, run: Run, option: list[str]) -> None:
    code, out, err = run(*option)
    assert (code, out) == (2, "") and "catalog: has options of its own" in err and err.count("\n") == 1


def test_a_first_catalog_needs_its_items(data: Path) -> None:
    with pytest.raises(InputError, match="no items file, which only a catalog made from another one may lack"):
        build_catalog(data / "ratings.csv", None, str(data / "tok"), data / "prompt.toml", data / "new")


def test_a_bundles_copy_cannot_be_updated(run: Run, data: Path) -> None:
    shutil.rmtree(data / "catalog" / "splits")
    code, _, err = run()
    assert code == 4 and err.count("\n") == 1 and "a bundle's catalog does not hold it" in err


def test_it_does_not_train(data: Path, run: Run) -> None:
    assert run()[0] == 0
    with pytest.raises(Exception, match="no snapshots to train with"):
        PromptBuilder.of(Catalog.open(data / "new"), "train")


def test_an_export_can_calibrate_on_it(data: Path, run: Run) -> None:
    """Without its prompts int8 cannot be exported: it observes what goes into linear layers."""
    assert run()[0] == 0
    catalog = Catalog.open(data / "new")
    (prompt, *_) = sampled = chain.draw(catalog)
    assert len(sampled) == chain.SLATES
    (slate, *_) = slates.draw(slates.cut(catalog, "train"), chain.SLATES, seed=1)
    assert (prompt.prefix == PromptBuilder(catalog).prompt(slate.user, [], slate.as_of).prefix).all(), "as the runtime asks it"
