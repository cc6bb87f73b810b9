"""One clear line for everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rexit.format.bundle import Catalog
from running.command import Run
from running.indexing import assert_refused, edit


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("items.csv", "7,Film 7,1956", "70,Film 7,1956", "ratings.csv: item 7 is not in items.csv (1 such items in"),
        ("users.csv", "\n7,", "\n70,", "ratings.csv: user 7 is not in users.csv (1 such users in 20 interactions)"),
        ("prompt.toml", "[bins]", "[limits]\nitem.titel = 9\n[bins]", "limits.item.titel: the template places no such column"),
        ("prompt.toml", '" yes"', '" certainly"', "prompt.toml: labels.yes: ' certainly' is"),
        ("prompt.toml", '" no"', '" yes"', "labels.yes and labels.no are the same token"),
        ("prompt.toml", "entry =", 'bos = "<bos>"\nentry =', "prompt.toml: bos: '<bos>' is"),
    ],
)
def test_bad_input_is_one_line(run: Run, data: Path, file: str, old: str, new: str, message: str) -> None:
    edit(data / file, old, new)
    assert_refused(run(), data, message)


def test_a_column_that_nothing_reads_may_be_anything(run: Run, data: Path) -> None:
    header, first, *rest = (data / "items.csv").read_text().splitlines()
    (data / "items.csv").write_text("\n".join([f"{header},look:float_seq", f"{first},x", *(f"{row},3 4" for row in rest)]))
    code, _, err = run()
    assert code == 0, err
    assert not (data / "catalog" / "encoded.safetensors").exists()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenizer", "tokk"], "tokenizer tokk: no such file or folder, and not the id of a model on the Hub, OWNER/NAME"),
        (["--positive-at", "3", "--implicit"], "positive at 3 and implicit exclude each other: implicit reads no ratings"),
        (["--split", "time:0.8,0.9", "--column", "split=fold"], "and split column 'fold' exclude each other"),
        (
            ["--column", "film=sku"],
            "--column film=sku: no role 'film', expected one of user, item, rating, time, weight, split",
        ),
        (["--column", "sku"], "--column 'sku', expected NAME=VALUE, as in user=name_in_the_file"),
        (["--column", "item=a", "--column", "item=b"], "--column item: given twice, expected once"),
        (["--order", "size"], "order is 'size', expected one of time, file, random"),
        (["--implicit"], "candidates rated with implicit, where all that is rated is liked: choose retrieved:100"),
        (["--candidates", "liked"], "candidates 'liked', expected rated, uniform[:N], popularity[:N] or retrieved[:N]"),
        (["--candidates", "retrieved:0"], "candidates 'retrieved:0': N is '0', expected a whole number from 1 to 65536"),
        (["--candidates", "retrieved:41"], "candidates retrieved:41, expected at most the 40 items of the catalog"),
        (["--candidates", "uniform:25"], "ratings.csv: a user met all but 20 of 40 items, expected at least 25 others to draw"),
        (["--seed", "-1"], "seed is -1, expected at least 0"),
        (["--out", "items.csv/catalog"], "items.csv/catalog: cannot be written: "),
        (["--out", "tok"], "tok: exists and is no catalog"),
        (["--out", "."], "exists and is no catalog"),
    ],
)
def test_bad_options_are_one_line(run: Run, data: Path, options: list[str], message: str) -> None:
    assert_refused(run(*options), data, message)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 2}, "retriever.json: unknown key 'layer', expected some of dim, layers, epochs, patience"),
        ({"dim": "8"}, "retriever.json: dim is '8', expected a whole number"),
        ({"dim": True}, "retriever.json: dim is True, expected a whole number"),
        ({"learning_rate": "fast"}, "retriever.json: learning_rate is 'fast', expected a number"),
        ({"dim": 0}, "dim is 0, expected at least 1"),
        ({"dim": 100_000}, "dim is 100000, expected at most 65536"),
        ({"layers": 0}, "layers is 0, expected at least 1"),
        ({"epochs": -1}, "epochs is -1, expected at least 0"),
        ({"negatives": 0}, "negatives is 0, expected at least 1"),
        ({"patience": 0}, "patience is 0, expected at least 1"),
        ({"learning_rate": 0}, "learning rate is 0, expected above 0"),
        ({"learning_rate": float("nan")}, "learning rate is nan, expected above 0"),
        ({"weight_decay": -1}, "weight decay is -1, expected at least 0"),
        ({"snapshots": 1}, "snapshots is 1, expected at least 2: the first part of a history has nothing before it"),
        ({"neighbours": 0}, "neighbours is 0, expected at least 1"),
        ({"neighbours": 65537}, "neighbours is 65537, expected at most 65536"),
    ],
)
def test_a_bad_retriever_config_is_one_line(run: Run, data: Path, settings: dict[str, object], message: str) -> None:
    assert_refused(run(**settings), data, message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.toml", None, "none.toml: cannot be read: No such file or directory"),
        ("bad.toml", "dim = ", "bad.toml: not TOML: Invalid value (at end of document)"),
        ("bad.json", "{", "bad.json: not JSON: Expecting property name"),
        ("list.json", "[]", "list.json: expected an object"),
    ],
)
def test_an_unreadable_retriever_config(
    run: Run, data: Path, tmp_path_factory: pytest.TempPathFactory, name: str, text: str | None, message: str
) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / name
    if text is not None:
        path.write_text(text)
    assert_refused(run("--retriever-config", str(path)), data, message)


def test_a_retriever_config_may_be_toml(run: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "retriever.toml"
    path.write_text("dim = 4\nlearning_rate = 1\nepochs = 0\n")
    assert run("--retriever-config", str(path))[0] == 0
    lightgcn = Catalog.open(data / "catalog").info["lightgcn"]
    assert (lightgcn["dim"], lightgcn["learning_rate"], lightgcn["layers"]) == (4, 1, 3)


def test_every_missing_column_is_named_at_once(run: Run, data: Path) -> None:
    """Of all files, before any of them is read."""
    edit(data / "ratings.csv", "rating,timestamp", "stars,when")
    edit(data / "items.csv", "title", "name")
    edit(data / "users.csv", "user_id,job", "who,work")
    message = (
        "rexit: error: ratings.csv: no columns 'rating' (--column rating=NAME; --implicit if there are no ratings), 'timestamp' "
        "(--column time=NAME; --order if there are no times), the file has: user_id, item_id, stars, when; "
        "items.csv: no column 'title' (prompt.toml: {item.title}), the file has: item_id, name, year; "
        "users.csv: no columns 'user_id' (--column user=NAME), 'job' (prompt.toml: {user.job}), the file has: who, work"
    )
    assert_refused(run(), data, message)


def test_a_prompt_that_may_end_in_nothing(run: Run, data: Path) -> None:
    (data / "prompt.toml").write_text(
        'prompt = "{similar_verdict:3}"\n[labels]\nyes = " yes"\nno = " no"\n[words]\nunseen = ""\n'
    )
    assert_refused(run(), data, "can be without a token: end the prompt with a text")
