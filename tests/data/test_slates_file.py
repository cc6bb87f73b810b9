"""Files of slates: both forms say the same, and every kind of damage is one line that names the row."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.reranker import PROMPT, ids, words_tokenizer
from builders.data.token_slates import write_slates
from rexit.data.slates import parts
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import TextEncoder
from rexit.errors import InputError
from rexit.format.bundle import RerankerPrompt

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], Path]


def encoder(max_positions: int = 64, max_tokens: int = 32) -> TextEncoder:
    return TextEncoder(words_tokenizer(), PROMPT, max_positions, max_tokens)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(rows: Sequence[Row]) -> Path:
        path = tmp_path / "slates.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return writer


def token_rows(groups: int = 10) -> list[Row]:
    return [
        {"group": f"g{n}", "prefix": [1, n], "candidates": [[5, n], [6], [7, 8, 9]], "label": [n % 2, 0, 1]}
        for n in range(groups)
    ]


def content(file: SlatesFile) -> dict[str, list[Any]]:
    return {
        name: [
            (slate.user, slate.prefix.tolist(), [c.tolist() for c in slate.candidates], slate.liked.tolist()) for slate in slates
        ]
        for name, slates in file.slates.items()
    }


def test_rows_are_slates(write: Write) -> None:
    file = SlatesFile.read(write(token_rows()))
    sizes = {name: len(slates) for name, slates in file.slates.items()}
    assert sizes == {"train": 4, "validation": 3, "test": 3}
    slate = next(slate for slate in file.all_slates if slate.user == "g3")
    assert (slate.prefix.tolist(), [c.tolist() for c in slate.candidates]) == ([1, 3], [[5, 3], [6], [7, 8, 9]])
    assert slate.liked.tolist() == [True, False, True] and slate.prefix.dtype == np.int32
    assert file.lengths == (2, 3) and slate.scores == {} and file.score_names == []


def as_pairs(rows: list[Row]) -> list[Row]:
    """A row for each candidate: the first of every slate, then the second ones, then the third."""
    names = {"candidates": "candidate", "label": "label", **{f"score.{name}": f"score.{name}" for name in ("age", "bm25")}}

    def pair(row: Row, n: int) -> Row:
        return {names.get(name, name): value[n] if name in names else value for name, value in row.items()}

    return [pair(row, n) for n in range(3) for row in rows]


@pytest.mark.parametrize("form", [list, as_pairs])
def test_scores_of_the_first_stage_stay_with_their_candidates(write: Write, form: Callable[[list[Row]], list[Row]]) -> None:
    stages = {"score.bm25": [1.5, -2.0, 0.0], "score.age": [None, 3, None]}
    file = SlatesFile.read(write(form([{**row, **stages} for row in token_rows()])))
    assert file.score_names == ["age", "bm25"]
    for slate in file.all_slates:
        assert slate.scores["bm25"].tolist() == [1.5, -2.0, 0.0] and slate.scores["age"].dtype == np.float32
        np.testing.assert_array_equal(slate.scores["age"], [np.nan, 3, np.nan])
    first, second = parts(next(file.all_slates), 2)
    assert (first.scores["bm25"].tolist(), second.scores["bm25"].tolist()) == ([1.5, -2.0], [0.0])
    assert first.first(1).scores["bm25"].tolist() == [1.5]


def test_pairs_in_any_order_make_the_same_slates(write: Write, tmp_path: Path) -> None:
    rows = token_rows()
    whole = SlatesFile.read(write(rows))
    pairs = as_pairs(rows)
    assert content(SlatesFile.read(write(pairs))) == content(whole)
    pl.DataFrame(pairs).write_parquet(tmp_path / "pairs.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    for name in ("pairs", "rows"):
        assert content(SlatesFile.read(tmp_path / f"{name}.parquet")) == content(whole)


def test_splits_do_not_depend_on_the_order_of_rows(write: Write) -> None:
    splits = [{name: {s.user for s in slates} for name, slates in SlatesFile.read(write(rows)).slates.items()}
              for rows in (token_rows(), token_rows()[::-1])]  # fmt: skip
    assert splits[0] == splits[1]


def test_named_splits(write: Write) -> None:
    names = ["test", "validation", "train", "validation"]
    file = SlatesFile.read(write([{**row, "split": name} for row, name in zip(token_rows(4), names, strict=True)]))
    assert {name: [s.user for s in slates] for name, slates in file.slates.items()} == {
        "train": ["g2"],
        "validation": ["g1", "g3"],
        "test": ["g0"],
    }


def test_graded_and_boolean_labels(write: Write) -> None:
    rows = [
        {**row, "label": labels}
        for row, labels in zip(token_rows(3), [[0, 1, 3], [True, False, True], [0.9, -1, 1.0]], strict=True)
    ]
    liked = {slate.user: slate.liked.tolist() for slate in SlatesFile.read(write(rows)).all_slates}
    assert liked == {"g0": [False, True, True], "g1": [True, False, True], "g2": [False, False, True]}


def test_whole_texts_and_token_ids_mix(write: Write) -> None:
    rows = [{**row, "prefix": "<s> wing", "candidates": ["drag ?", [10], "heat"]} for row in token_rows(3)]
    slate = next(iter(SlatesFile.read(write(rows), encoder).all_slates))
    assert slate.prefix.tolist() == ids("<s> wing"), "a special token of a whole text is recognized, and none is added"
    assert [c.tolist() for c in slate.candidates] == [ids("drag ?"), [10], ids("heat")]


def test_queries_and_documents_go_through_the_template(write: Write) -> None:
    rows = [{"group": n, "query": "wing drag", "candidates": ["heat flow", "layer"], "label": [1, 0]} for n in range(3)]
    slate = next(iter(SlatesFile.read(write(rows), encoder).all_slates))
    assert slate.prefix.tolist() == ids("<s> A : wing drag")
    assert [c.tolist() for c in slate.candidates] == [ids("B : heat flow ? </s>"), ids("B : layer ? </s>")]


def test_a_document_is_cut_to_fit_and_what_follows_it_is_not() -> None:
    prefix, (long, short) = encoder(max_positions=14).prompt("wing drag", ["heat " * 30, "flow"])
    assert len(prefix) + len(long) == 14 and long == ids("B : heat heat heat heat heat ? </s>")
    assert short == ids("B : flow ? </s>")
    _, (long,) = encoder(max_tokens=6).prompt("wing", ["heat " * 30])
    assert long == ids("B : heat heat ? </s>")


def test_text_after_a_document_is_never_cut() -> None:
    prompt = RerankerPrompt(("{query}",), ("B : {document} ? {instruction}",), "heat")
    encoder = TextEncoder(words_tokenizer(), prompt, 64, 7)
    assert encoder.prompt("wing", ["drag " * 30, "drag"])[1] == [ids("B : drag drag drag ? heat"), ids("B : drag ? heat")]
    assert encoder.prompt("wing", ["drag"], "flow")[1] == [ids("B : drag ? flow")]


def test_placeholders_in_values_stay() -> None:
    """A query that spells out a placeholder is a query."""
    prompt = RerankerPrompt(("{query}", "{instruction}"), ("{document}",), "heat")
    prefix, _ = TextEncoder(words_tokenizer(), prompt, 64, 32).prompt("{instruction}", ["drag"])
    assert prefix == ids("<unk> heat")


def test_slates_without_labels(tmp_path: Path) -> None:
    """Single candidates, too."""
    for rows in (every(label=...), every(label=None)):
        write_slates(tmp_path / "log.jsonl", rows)
        source = SlatesFile.read(tmp_path / "log.jsonl", labels=False)
        assert not source.labelled and not any(slate.liked.any() for slate in source.all_slates)


def test_some_slates_without_labels(tmp_path: Path) -> None:
    """They are kept aside, where validation can use them."""
    rows = [
        {**row, "split": split} for row, split in zip(change(1, label=...), ("train", "validation", *["test"] * 2), strict=True)
    ]
    write_slates(tmp_path / "some.jsonl", rows)
    with pytest.raises(InputError, match=r"1 of 4 slates have no `label` .*, expected labels of all"):
        SlatesFile.read(tmp_path / "some.jsonl")
    for split, count in (("validation", 1), ("train", 0)):
        rows[1]["split"] = split
        write_slates(tmp_path / "some.jsonl", rows)
        source = SlatesFile.read(tmp_path / "some.jsonl", labels=False)
        assert source.labelled and sum(1 for _ in source.all_slates) == 3 and len(source.unlabelled) == count


def test_a_query_is_its_own_group(tmp_path: Path) -> None:
    """So one that was asked twice is in one split."""
    rows = [{"query": f"wing {n % 30}", "candidates": ["heat", "drag"]} for n in range(90)]
    source = SlatesFile.read(write_slates(tmp_path / "log.jsonl", rows), encoder, labels=False)
    groups = [{slate.user for slate in slates} for slates in source.slates.values()]
    assert sum(map(len, groups)) == 30 and all(groups) and sum(map(len, source.slates.values())) == 90


def change(n: int, **columns: Any) -> list[Row]:
    rows = token_rows(4)
    rows[n] = {name: value for name, value in {**rows[n], **columns}.items() if value is not ...}
    return rows


def every(**columns: Any) -> list[Row]:
    return [{name: value for name, value in {**row, **columns}.items() if value is not ...} for row in token_rows(4)]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "is empty, expected at least one row"),
        (every(group=...), "no column `group` .*the file has: candidates, label, prefix$"),
        (every(group=..., id="q1"), "no column `group` .*, label, prefix; `id` may be meant: rename it$"),
        (every(label=...), r"4 of 4 slates have no `label` .*, expected labels of all"),
        (change(1, label=None), r"1 of 4 slates have no `label` .*, expected labels of all"),
        (every(prefix=...), "no column `prefix` or `query`"),
        (every(query="a"), "both `prefix` and `query`, expected one"),
        (every(candidate=[1]), "both `candidate` and `candidates`"),
        (every(label=[0, 0, 0]), "all 12 labels are below 1, expected both kinds"),
        (every(label=[1, 2, 3]), "all 12 labels are 1 or more, expected both kinds"),
        (change(1, group=None), "line 2: `group` is None, expected a string or an integer"),
        (change(1, group=True), "line 2: `group` is true"),
        (change(1, prefix=[1, -1]), r"line 2: `prefix`\[1\] is -1, expected a token id"),
        (change(1, prefix=[1, 2.5]), r"line 2: `prefix`\[1\] is 2.5"),
        (change(1, prefix=7), "line 2: `prefix` is 7, expected text or a list"),
        (change(1, prefix="wing"), "line 2: holds text, which needs the model's tokenizer"),
        (change(2, candidates=[]), r"line 3: `candidates` is \[\], expected a list with at least one"),
        (change(2, candidates=[[1], [], [2]]), "line 3: candidate 1 has no tokens"),
        (change(2, candidates=[[1], None, [2]]), r"line 3: candidates\[1\] is None"),
        (change(2, candidates=[[1], [1 << 31], [2]]), r"line 3: candidates\[1\]\[0\] is 2147483648"),
        (change(2, label=[0, 1]), "line 3: `label` is 2 of them, expected a list of 3"),
        (change(2, label=1), "line 3: `label` is 1, expected a list of 3"),
        (every(score=[1, 2, 3]), "the column `score` does not say whose it is, expected `score.NAME`, such as `score.bm25`"),
        (every(**{"score.bm25": [1, 2]}), "line 1: `score.bm25` is 2 of them, expected a list of 3"),
        (every(**{"score.bm25": [1, 2, float("inf")]}), "line 1: `score\\.bm25` is inf, expected a finite number"),
        (every(**{"score.bm25": [1, 2, 1e39]}), "line 1: `score\\.bm25` is 1e\\+39, expected a finite number"),
        (every(**{"score.bm25": [1, "1_000", 2]}), "line 1: `score\\.bm25` is '1_000', expected a finite number"),
        (every(**{"score.bm25": [1, True, 2]}), "line 1: `score\\.bm25` is true, expected a finite number"),
        (change(2, label=[0, None, 1]), "line 3: 1 of 3 candidates have no label, expected all or none"),
        (change(2, label=[0, float("nan"), 1]), "line 3: a label is nan"),
        (change(2, candidate=[1]), "both `candidate` and `candidates`"),
        (change(3, split="dev"), "line 1: `split` is None"),
        (every(split="dev"), "line 1: `split` is 'dev', expected one of train"),
        ([*every(split="test"), {**token_rows(1)[0], "split": "train"}], "line 5: group 'g0' is in train and in test"),
    ],
)
def test_bad_file(write: Write, rows: list[Row], problem: str) -> None:
    with pytest.raises(InputError, match=rf"slates.jsonl: .*{problem}") as caught:
        SlatesFile.read(write(rows))
    assert "\n" not in str(caught.value)


def test_a_label_beyond_float64_is_relevant(write: Write) -> None:
    liked = [slate.liked.tolist() for slate in SlatesFile.read(write(change(2, label=[0, 10**400, 1]))).all_slates]
    assert [False, True, True] in liked


def test_queries_as_token_ids(write: Write) -> None:
    rows = [{**row, "query": [1, 2]} for row in every(prefix=...)]
    with pytest.raises(InputError, match="line 1: `query` and its candidates must be text"):
        SlatesFile.read(write(rows), encoder)


def test_unreadable_files(tmp_path: Path) -> None:
    for name, text, problem in (
        ("a.csv", b"", "ends in '.csv', expected .parquet or .jsonl"),
        ("b.jsonl", b"{", "line 1: not JSON"),
        ("c.jsonl", b"[1]", "line 1: is \\[1\\], expected an object"),
        ("d.jsonl", b"\xff\n", "not UTF-8"),
        ("e.parquet", b"PAR1", "not a readable table"),
        ("f.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(InputError, match=problem):
            SlatesFile.read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        SlatesFile.read(tmp_path / "none.jsonl")


def test_limits_of_the_model(write: Write) -> None:
    file = SlatesFile.read(write(token_rows()))
    file.check_fits(vocabulary=10, max_positions=5, max_tokens=3)
    file.check_fits(vocabulary=10, max_positions=5)
    for limits, problem in (
        ((9, 5, 3), r"group 'g\d': (candidates\[2\]\[2\]|prefix\[1\]) is 9, expected a token id from 0 to 8"),
        ((10, 4, 3), r"candidates\[2\]: has 2 \+ 3 tokens \(prefix \+ candidate\), the model takes 4"),
        ((10, 5, 2), r"candidates\[2\]: has 3 tokens, more than the 2 of --max-tokens"),
    ):
        with pytest.raises(InputError, match=problem):
            file.check_fits(*limits)


def test_cut_into_slates_of_a_size(write: Write) -> None:
    file = SlatesFile.read(write(token_rows()))
    parts = file.cut("test", 2)
    assert [len(part.items) for part in parts] == [2, 1] * 3
    assert [c.tolist() for part in parts[:2] for c in part.candidates] == [c.tolist() for c in file.cut("test")[0].candidates]
    with pytest.raises(InputError, match="slate size 0, expected at least 1"):
        file.cut("test", 0)
    with pytest.raises(InputError, match="the train split is empty"):
        SlatesFile.read(write([{**row, "split": "test"} for row in token_rows()])).cut("train")
