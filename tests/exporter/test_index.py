"""`rexit index` as it is called: what it writes and prints, and one clear line for everything that can be wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

import tiny_data
from limits import largest_file
from rexit.bundle import Catalog
from rexit.bundle.catalog import SPLITS
from rexit.cli import main
from rexit.exporter import index as index_module
from rexit.exporter.options import LightGCNOptions
from rexit.slates import cut

Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_data.write(tmp_path)


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on `data`; `extra` options come last and win. Gives exit code, stdout and stderr."""

    def call(*extra: str, users: bool = True) -> Outcome:
        options = ["--interactions", "ratings.csv", "--items", "items.csv", "--tokenizer", "tok", "--template", "prompt.toml"]
        options += ["--out", "catalog", "--dim", "8", "--epochs", "5", *(["--users", "users.csv"] if users else []), *extra]
        monkeypatch.chdir(data)
        monkeypatch.setattr(sys, "argv", ["rexit", "index", *options])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def refused(outcome: Outcome, data: Path, message: str) -> None:
    """Exit code 2, one line that holds `message`, nothing on stdout and nothing written."""
    code, out, err = outcome
    assert (code, out) == (2, "") and err.startswith("rexit: error: ") and err.count("\n") == 1, err
    assert message in err
    nothing_written(data)


def nothing_written(data: Path) -> None:
    assert sorted(p.name for p in data.iterdir()) == ["items.csv", "prompt.toml", "ratings.csv", "tok", "users.csv"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_it_prints_what_it_made(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    for word in ("users", "items", "interactions", "prefix", "candidate", "LightGCN", "popularity", "recall@20"):
        assert word in out
    assert "{similar_liked:6}: " in out and "item.title of item " in out, "what makes the longest prompt long"


def test_an_id_that_looks_like_markup_is_printed_as_it_is(run: Run, data: Path) -> None:
    """The item with the longest title stands in the table of lengths."""
    edit(data / "items.csv", "\n7,Film 7,", "\n[/b],Film 7 and a longer title than all the others,")
    (data / "ratings.csv").write_text((data / "ratings.csv").read_text().replace(",7,", ",[/b],"))
    code, out, err = run()
    assert (code, err) == (0, "") and "item.title of item [/b]: " in out


def test_json_is_one_document_and_the_catalog_says_the_same(run: Run, data: Path) -> None:
    code, out, _ = run("--json")
    told, info = json.loads(out), Catalog.open(data / "catalog").info
    assert code == 0
    assert told["prompt"] == {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens", "lengths")}
    assert told["counts"] == info["counts"] and told["retrieval"] == info["retrieval"] and told["splits"] == info["splits"]
    assert info["counts"] | {"pieces": 0} == {"users": 24, "items": 40, "interactions": 480, "pieces": 0}
    assert 0 < info["retrieval"]["recall@20"] <= 1 and 0 < info["retrieval"]["popularity_recall@20"] <= 1
    assert {name: split["rows"] for name, split in info["splits"].items()} == {
        "graph": 216,
        "train": 168,
        "validation": 48,
        "test": 48,
    }
    assert info["label"] == {"column": "rating", "positive_at": 4.0} and info["ids"] == {"user": "int64", "item": "int64"}


def test_every_tensor_is_as_the_format_says(run: Run, data: Path) -> None:
    run("--neighbours", "3")
    catalog = Catalog.open(data / "catalog")
    shapes = {
        name: (str(tensor.dtype), tensor.shape)
        for table in (catalog.user_table, catalog.item_table)
        for name, tensor in table.items()
    }
    assert shapes == {
        "ids": ("int64", (40,)),
        "embeddings": ("float16", (40, 8)),
        "fold_in": ("float16", (40, 8)),
        "similar": ("int32", (24, 3)),
        "history_offsets": ("int64", (25,)),
        "history_items": ("int32", (480,)),
        "history_times": ("int64", (480,)),
        "history_liked": ("uint8", (480,)),
        "history_by_item": ("int32", (480,)),
        "rating_offsets": ("int64", (41,)),
        "rating_times": ("int64", (480,)),
        "rating_likes": ("int32", (480,)),
        "field.job": ("int32", (24,)),
        "field.title": ("int32", (40,)),
        "field. title": ("int32", (40,)),
        "field. year": ("int32", (40,)),
    }
    pieces = catalog.piece_table
    assert {name: str(tensor.dtype) for name, tensor in pieces.items()} == {"offsets": "int64", "tokens": "int32"}
    assert len(pieces["offsets"]) == catalog.info["counts"]["pieces"] + 1 and pieces["offsets"][-1] == len(pieces["tokens"])


def test_the_same_input_and_seed_give_the_same_bytes(run: Run, data: Path) -> None:
    run()
    run("--out", "again")
    names = [str(p.relative_to(data / "catalog")) for p in sorted((data / "catalog").rglob("*")) if p.is_file()]
    assert len(names) == 8
    for name in names:
        assert (data / "catalog" / name).read_bytes() == (data / "again" / name).read_bytes(), name


def test_string_ids_and_other_formats_give_the_same_catalog(run: Run, data: Path) -> None:
    """RecBole's headers, Parquet, string ids and other column names: all at once, rows in order of the ids' bytes."""
    rated = pl.read_csv(data / "ratings.csv").with_columns(user_id=pl.format("ü{}", pl.col("user_id") + 100))
    rated.rename({"rating": "stars"}).write_parquet(data / "ratings.parquet")
    pl.read_csv(data / "items.csv").rename({"item_id": "item_id:token", "title": "title:token_seq"}).write_csv(
        data / "films.item", separator="\t"
    )
    pl.read_csv(data / "users.csv").with_columns(user_id=pl.format("ü{}", pl.col("user_id") + 100)).write_csv(data / "users.csv")
    code, _, err = run("--interactions", "ratings.parquet", "--items", "films.item", "--rating-column", "stars")
    assert (code, err) == (0, "")
    catalog = Catalog.open(data / "catalog")
    assert catalog.info["ids"] == {"user": "string", "item": "int64"}
    assert [catalog.users.id(row) for row in (0, 23)] == ["ü101", "ü124"]
    assert catalog.split("test").items.tolist()


def test_users_are_optional(run: Run, data: Path) -> None:
    edit(data / "prompt.toml", "{user.job}|", "")
    code, _, err = run(users=False)
    assert (code, err) == (0, "")
    assert len(Catalog.open(data / "catalog").users) == tiny_data.USERS


def test_users_and_items_without_interactions_have_rows(run: Run, data: Path) -> None:
    with open(data / "users.csv", "a") as file:
        file.write("77,pilot\n")
    with open(data / "items.csv", "a") as file:
        file.write("99,Unseen,2001\n")
    assert run()[0] == 0
    catalog = Catalog.open(data / "catalog")
    row = catalog.users.row(77)
    assert row == 24 and catalog.items.row(99) == 40
    similar = catalog.user_table["similar"]
    assert not catalog.user_table["embeddings"][row].any()
    assert similar.shape == (25, 20) and (similar[row] == row).all(), "nothing is known of them: nobody is similar"
    assert row not in similar[:row], "and they are similar to nobody"


def test_too_few_interactions_to_hold_any_out(run: Run, data: Path) -> None:
    tiny_data.interactions().group_by("user_id", maintain_order=True).head(9).write_csv(data / "ratings.csv")
    message = "ratings.csv: the validation split is empty: 216 interactions of 24 users are too few for this --split"
    refused(run(), data, message)


def test_a_validation_split_without_a_like(run: Run, data: Path) -> None:
    late = pl.col("timestamp") >= 260
    tiny_data.interactions().with_columns(rating=pl.when(late).then(1).otherwise("rating")).write_csv(data / "ratings.csv")
    code, out, _ = run()
    assert code == 0 and "No user has a like" in out
    assert Catalog.open(data / "catalog").info["retrieval"]["recall@20"] is None


def test_the_catalog_says_how_it_was_split_and_what_trained_the_retriever(run: Run, data: Path) -> None:
    code, out, _ = run("--json", "--graph-share", "0.5", "--negatives", "2", "--learning-rate", "0.01", "--seed", "3")
    info = Catalog.open(data / "catalog").info
    assert code == 0 and json.loads(out)["split"] == info["split"]
    assert info["split"] == {"by": "user", "shares": [0.8, 0.9], "graph_share": 0.5}
    assert info["order"] == {"by": "time", "column": "timestamp"}
    assert info["label"] == {"column": "rating", "positive_at": 4.0}
    graph = Catalog.open(data / "catalog").split("graph")
    chosen = LightGCNOptions(dim=8, epochs=5, learning_rate=0.01, negatives=2, seed=3)
    assert info["lightgcn"] == {"split": "graph", "likes": int(graph.liked.sum()), **asdict(chosen)}


def parts(data: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(data / f"catalog/splits/{name}.parquet") for name in SPLITS}


def test_global_borders(run: Run, data: Path) -> None:
    assert run("--split", "time:0.7,0.9")[0] == 0
    made, info = parts(data), Catalog.open(data / "catalog").info["split"]
    assert info == {"by": "time", "shares": [0.7, 0.9], "borders": [240, tiny_data.LATE + 18], "graph_share": 0.6}
    assert max(made["train"]["time"]) < 240 <= min(made["validation"]["time"])
    assert max(made["validation"]["time"]) < tiny_data.LATE + 18 <= min(made["test"]["time"])


def test_leave_last(run: Run, data: Path) -> None:
    assert run("--split", "leave-last:2,3")[0] == 0
    made = parts(data)
    assert {name: set(part["user"].value_counts()["count"]) for name, part in made.items()} == {
        "graph": {9}, "train": {6}, "validation": {2}, "test": {3},
    }  # fmt: skip
    assert Catalog.open(data / "catalog").info["split"] == {"by": "leave-last", "counts": [2, 3], "graph_share": 0.6}


@pytest.mark.parametrize("names", [("graph", "train", "validation", "test"), ("train", "train", "valid", "test")])
def test_a_split_column(run: Run, data: Path, names: tuple[str, ...]) -> None:
    borders = [150, 250, tiny_data.LATE]
    which = pl.sum_horizontal([(pl.col("timestamp") >= border).cast(pl.Int64) for border in borders])
    rated = tiny_data.interactions().with_columns(fold=which.replace_strict(dict(enumerate(names)), return_dtype=pl.String))
    rated.write_csv(data / "ratings.csv")
    assert run("--split-column", "fold")[0] == 0
    made, told = parts(data), Catalog.open(data / "catalog").info["split"]
    assert sum(map(len, made.values())) == len(rated)
    for name, fold in zip(("train", "validation", "test"), names[1:], strict=True):
        expected = rated.filter(fold=fold) if fold != "train" or "graph" in names else None
        assert expected is None or len(made[name]) == len(expected)
    assert told == {"by": "column", "column": "fold", "graph_share": None if "graph" in names else 0.6}
    if "graph" in names:
        assert max(made["graph"]["time"]) < 150 <= min(made["train"]["time"])


@pytest.mark.parametrize("order", ["file", "random"])
def test_data_without_times(run: Run, data: Path, order: str) -> None:
    rated = pl.read_csv(data / "ratings.csv").drop("timestamp")
    rated.write_csv(data / "ratings.csv")
    assert run("--order", order, "--seed", "7")[0] == 0
    info, made = Catalog.open(data / "catalog").info, parts(data)
    assert info["order"] == ({"by": "file"} if order == "file" else {"by": "random", "seed": 7})
    whole = pl.concat(list(made.values())).sort("time")
    assert whole["time"].to_list() == list(range(len(rated)))
    assert (whole["item"].to_list() == rated["item_id"].to_list()) == (order == "file")


def test_implicit_feedback(run: Run, data: Path) -> None:
    rated = pl.read_csv(data / "ratings.csv").drop("rating")
    rated.write_csv(data / "ratings.csv")
    assert run("--implicit", "--implicit-negatives", "3")[0] == 0
    catalog, made = Catalog.open(data / "catalog"), parts(data)
    assert catalog.info["label"] == {"sampled": 3, "seed": 0} and catalog.info["counts"]["interactions"] == len(rated)
    assert made["graph"]["liked"].all()
    assert all(len(made[name].filter(~pl.col("liked"))) == 3 * made[name]["liked"].sum() for name in SPLITS[1:])
    assert catalog.user_table["history_liked"].all(), "what was sampled is nobody's history"
    met = set(rated.select("user_id", "item_id").iter_rows())
    sampled = pl.concat([part.filter(~pl.col("liked")) for part in made.values()])
    assert not met & set(sampled.select("user", "item").iter_rows())
    assert cut(catalog, "train")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "ratings.csv",
            "rating",
            "stars",
            "ratings.csv: no column 'rating' (--rating-column; --implicit if there are no ratings), the file has: user_id",
        ),
        ("items.csv", "item_id", "film", "items.csv: no column 'item_id' (--item-column), the file has: film, title, year"),
        ("users.csv", "user_id", "who", "users.csv: no column 'user_id' (--user-column), the file has: who, job"),
        ("items.csv", "Film 7,", "Film, 7,", "items.csv: line 8 has 4 fields, the header has 3"),
        ("items.csv", "7,Film 7,1956", "70,Film 7,1956", "ratings.csv: item 7 is not in items.csv (1 such items in"),
        ("users.csv", "\n7,", "\n70,", "ratings.csv: user 7 is not in users.csv (1 such users in 20 interactions)"),
        (
            "prompt.toml",
            "{item.year}",
            "{item.yaer}",
            "prompt.toml: prompt: unknown placeholder {item.yaer}, known are: user",
        ),
        (
            "prompt.toml",
            "{item.title}{verdict}",
            "{user.job}",
            "prompt.toml: entry: unknown placeholder {user.job}, known are: ",
        ),
        (
            "prompt.toml",
            "[bins]",
            "[limits]\nitem.titel = 9\n[bins]",
            "prompt.toml: limits.item.titel: the template places no such column, it places: user.job, item.title, item.year",
        ),
        ("prompt.toml", '" yes"', '" certainly"', "prompt.toml: labels.yes: ' certainly' is"),
        ("prompt.toml", '" no"', '" yes"', "labels.yes and labels.no are the same token"),
        ("prompt.toml", "entry =", 'bos = "<bos>"\nentry =', "prompt.toml: bos: '<bos>' is"),
    ],
)
def test_bad_input_is_one_line(run: Run, data: Path, file: str, old: str, new: str, message: str) -> None:
    edit(data / file, old, new)
    refused(run(), data, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interactions", "none.csv"], "none.csv: cannot be read: No such file or directory"),
        (["--tokenizer", "items.csv"], "tokenizer items.csv: neither a tokenizer.json"),
        (["--template", "none.toml"], "none.toml: cannot be read"),
        (["--positive-at", "9"], "ratings.csv: no rating is a like: 'rating' is 1 to 5, a like is at least 9: choose another"),
        (["--positive-at", "1"], "ratings.csv: every rating is a like: 'rating' is 1 to 5"),
        (["--split", "user:0.9,0.8"], "split 'user:0.9,0.8', expected `user:A,B` or `time:A,B` with shares 0 < A < B < 1, or"),
        (
            ["--split", "time:0.8,0.9", "--split-column", "fold"],
            "split 'time:0.8,0.9' and split column 'fold' exclude each other",
        ),
        (["--split-column", "rating"], "ratings.csv: row 1: 'rating' is '"),
        (["--split", "time:0.1,0.95"], "ratings.csv: the"),
        (["--split", "leave-last:19,1"], "ratings.csv: the validation split is empty: 480 interactions of 24 users are too few"),
        (["--graph-share", "1"], "graph share is 1.0, expected between 0 and 1"),
        (["--graph-share", "nan"], "graph share is nan, expected between 0 and 1"),
        (["--graph-share", "0.01"], "ratings.csv: the graph split is empty: no user has training interactions at two times, or"),
        (["--order", "size"], "order is 'size', expected one of time, file, random"),
        (["--implicit", "--implicit-negatives", "0"], "implicit negatives is 0, expected at least 1"),
        (["--implicit", "--implicit-negatives", "21"], "ratings.csv: a user met all but 20 of 40 items, expected at least 21"),
        (["--negatives", "0"], "negatives is 0, expected at least 1"),
        (["--learning-rate", "0"], "learning rate is 0.0, expected above 0"),
        (["--weight-decay", "-1"], "weight decay is -1.0, expected at least 0"),
        (["--patience", "0"], "patience is 0, expected at least 1"),
        (["--seed", "-1"], "seed is -1, expected at least 0"),
        (["--dim", "0"], "dim is 0, expected at least 1"),
        (["--neighbours", "0"], "neighbours is 0, expected at least 1"),
        (["--out", "items.csv/catalog"], "items.csv/catalog: cannot be written: "),
        (["--out", "tok"], "tok: exists and is no catalog"),
        (["--out", "."], "exists and is no catalog"),
    ],
)
def test_bad_options_are_one_line(run: Run, data: Path, options: list[str], message: str) -> None:
    refused(run(*options), data, message)


def test_an_empty_history_file(run: Run, data: Path) -> None:
    (data / "ratings.csv").write_text("user_id,item_id,rating,timestamp\n")
    refused(run(), data, "ratings.csv: has a header and no rows")


def test_a_prompt_that_may_end_in_nothing(run: Run, data: Path) -> None:
    (data / "prompt.toml").write_text(
        'prompt = "{similar_verdict:3}"\n[labels]\nyes = " yes"\nno = " no"\n[words]\nunseen = ""\n'
    )
    refused(run(), data, "can be without a token: end the prompt with a text")


def test_an_older_catalog_is_replaced_only_by_a_whole_one(run: Run, data: Path) -> None:
    run()
    before = (data / "catalog" / "catalog.json").read_bytes()
    edit(data / "prompt.toml", "{item.year}", "{item.yaer}")
    assert run()[0] == 2
    assert (data / "catalog" / "catalog.json").read_bytes() == before
    edit(data / "prompt.toml", "{item.yaer}", "{item.year}")
    assert run("--neighbours", "2")[0] == 0
    assert Catalog.open(data / "catalog").user_table["similar"].shape[1] == 2
    assert not list(data.glob(".*"))


def test_a_full_disk_leaves_nothing(run: Run, data: Path) -> None:
    with largest_file(5000):
        ended = run()
    refused(ended, data, "users.safetensors: cannot be written: File too large")


@pytest.fixture
def heeds_signals() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and Python leaves it so."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeds_signals")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", ["assign", "similar_users", "write_json"])
def test_signals_leave_nothing(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: signal.Signals, expected: int
) -> None:
    """A real signal while reading, while training has just ended, and with all tables already written."""

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(index_module, step, interrupted)
    code, out, err = run()
    assert (code, out) == (expected, "")
    assert err == "rexit: interrupted; nothing was left half-written\n"
    nothing_written(data)
