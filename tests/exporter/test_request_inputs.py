"""`{context.NAME}` and `{request.NAME}` from the template to an exported bundle: slates, golden samples, and a newer catalog."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import refresh as write_digests
from builders.data.indexed_catalog import USERS, WITH_REQUEST, byte_tokenizer, moment, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.bundle import Bundle, Catalog
from rexit.bundle.context import Context
from rexit.bundle.request_text import RequestText
from rexit.checks.golden import check_golden
from rexit.errors import CheckpointError, InputError
from rexit.exporter.catalog.contexts import ContextRule, known_contexts, with_context_numbers
from rexit.exporter.catalog.negatives import with_negatives
from rexit.exporter.catalog.request_texts import RequestRule, with_request_tokens
from rexit.exporter.catalog.unrated import with_unrated
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.template import read_template
from rexit.exporter.update import update_catalog
from rexit.progress import silent
from rexit.refresh import RefreshOptions, refresh
from rexit.slates import Slate, cut
from running.program import run_program

EDGES = (0, 5, 12, 18)


def decode(tokens: Any) -> str:
    return str(byte_tokenizer().decode([int(token) for token in tokens]))


def inputs(time: int) -> tuple[str, int | None, str, str]:
    """Device, the hour's bin by its lower edge, query and note of an interaction, as a slate has them."""
    device, hour, query, note = moment(time)
    return device, max((edge for edge in EDGES[:-1] if edge <= hour), default=None) if hour < EDGES[-1] else None, query, note


def inputs_of(slate: Slate) -> tuple[Any, Any, str, str]:
    query, note = (decode(slate.request.get(name, ())) for name in ("query", "note"))
    return slate.context["device"], slate.context.get("hour"), query.strip(), note


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog and its sources."""
    return write_indexed_catalog(tmp_path_factory.mktemp("request"), template=WITH_REQUEST).parent


@pytest.fixture(scope="module")
def catalog(place: Path) -> Catalog:
    return Catalog.open(place / "catalog")


@pytest.fixture(scope="module")
def exported(place: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    checkpoint = tiny_checkpoint(out / "checkpoint", catalog=catalog)
    shutil.copy(place / "tokenizer.json", checkpoint)
    export_bundle(checkpoint, place / "catalog", out / "bundle", ExportOptions(golden_slates=6, with_tokenizer=True))
    return out / "bundle"


def verify(bundle: Path) -> tuple[int, str]:
    ended = run_program("verify", bundle)
    return ended.code, ended.out + ended.err


def test_the_index_stores_values_and_tokens(catalog: Catalog) -> None:
    assert sorted(catalog.info["requires"]) == ["context", "request-text"]
    assert catalog.contexts.entries == (
        Context(name="device", values=("phone", "tv", "web"), unknown="refuse"),
        Context(name="hour", edges=EDGES, unknown="missing"),
    )
    assert catalog.request_texts.entries == (
        RequestText("query", 10, spaced=True, required=True),
        RequestText("note", 3, spaced=False, required=False),
    )
    split = catalog.split("test")
    assert {tuple(row) for row in split.contexts.tolist()} == {(1, -1)}, "interactions 18 and 19 of each user"
    assert {tuple(map(decode, split.request(n))) for n in range(len(split))} == {(" blue sky", "")}
    prompt = catalog.info["prompt"]
    op = next(op for op in prompt["candidate"] if op["op"] == "context")
    offsets, tokens = catalog.piece_table["offsets"], catalog.piece_table["tokens"]
    texts = [decode(tokens[offsets[p] : offsets[p + 1]]) for p in [*op["values"], op["missing"]]]
    assert texts == ["a", "b", "c", "!"]
    assert prompt["max_prefix_tokens"] >= 10 and prompt["lengths"]["prefix"]["max"] > 5


@pytest.mark.parametrize(("split", "times"), [("train", range(16)), ("validation", (16, 17)), ("test", (18, 19))])
def test_a_slate_ends_where_one_of_them_changes(catalog: Catalog, split: str, times: Any) -> None:
    slates = cut(catalog, split, 20)
    expected = [(values, len(list(group))) for values, group in itertools.groupby(times, inputs)]
    assert [(inputs_of(slate), len(slate.items)) for slate in slates] == USERS * expected
    assert all(("note" in slate.request) == (note != "") for slate in slates for *_, note in [inputs_of(slate)])


def test_training_prompts_have_those_of_their_interactions(catalog: Catalog) -> None:
    """Device and query, in the prefix, end a slate. Behind it each candidate has its own hour and note."""
    rows = [row for row in packed_rows(catalog, "train", 20).rows if row.user == 100]
    prefixes = [decode(row.prompt.prefix).partition("@")[2] for row in rows]
    candidates = [[decode(c).partition("~")[2].partition(" ")[0] for c in row.prompt.candidates] for row in rows]
    expected = itertools.groupby(range(16), lambda time: "{0}? {2}|".format(*inputs(time)))
    words = dict(zip(EDGES, "abc", strict=False))
    assert list(zip(prefixes, candidates, strict=True)) == [
        (prefix, [f"{words[hour]}/{note or '-'}" for _, hour, _, note in map(inputs, times) if hour is not None])
        for prefix, times in expected
    ]


def test_other_prompts_are_those_of_requests(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    rows = packed_rows(catalog, "validation", 20).rows
    for row, slate in zip(rows, cut(catalog, "validation", 20), strict=True):
        prompt = builder.prompt(slate.user, slate.items, slate.as_of, context=slate.context, request=slate.request)
        assert row.user == slate.user and (row.liked == slate.liked).all()
        assert (row.prompt.prefix == prompt.prefix).all()
        assert [c.tolist() for c in row.prompt.candidates] == [c.tolist() for c in prompt.candidates]


@pytest.mark.slow
def test_a_request_by_text_gives_the_tokens_of_the_index(exported: Path, catalog: Catalog) -> None:
    """The space before the placeholder belongs to the text, in the index and in requests."""
    slate = next(slate for slate in cut(catalog, "train", 20) if slate.request.keys() == {"query", "note"})
    _, _, query, note = inputs_of(slate)
    with runtime.open(exported) as session:
        by_tokens = session.prompt(slate.user, slate.items, context=slate.context, request=slate.request)
        by_text = session.prompt(slate.user, slate.items, context=slate.context, request={"query": query, "note": note})
    assert decode(by_text[0]).endswith(f"? {query}|")
    assert by_text[0].tolist() == by_tokens[0].tolist()
    assert [c.tolist() for c in by_text[1]] == [c.tolist() for c in by_tokens[1]]


def test_golden_samples_keep_them(exported: Path) -> None:
    bundle = Bundle.open(exported)
    slates = bundle.golden().slates
    assert {tuple(slate.context.tolist()) for slate in slates} == {(2, 2)}, "interactions 16 and 17 of each user"
    assert {tuple(map(decode, slate.request)) for slate in slates} == {(" blue sky", "n4")}
    with runtime.open(exported) as session:
        checks = check_golden(bundle, session, silent)
    assert len(checks) == 3 and not any(check.failures for check in checks)
    assert verify(exported)[0] == 0


@pytest.mark.parametrize("name", ["context", pytest.param("request_tokens", marks=pytest.mark.slow)])
def test_golden_samples_notice_another(exported: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    path = folder / "variants" / "cpu-fp32" / "golden.safetensors"
    table = load_file(path)
    if name == "context":
        table[name][:, 0] = 0
    else:
        table[name][1] += 1
    save_file(table, path)
    write_digests(folder)
    code, text = verify(folder)
    assert code == 8 and "the prompt of the prefix differs from the exporter's" in text


def update(place: Path, folder: Path, lines: list[str], template: str = WITH_REQUEST) -> Catalog:
    (folder / "new.csv").write_text("\n".join(["user_id,item_id,rating,timestamp,device,hour,query,note,page", *lines]))
    (folder / "new.toml").write_text(template)
    update_catalog(place / "catalog", folder / "new.csv", str(place / "tokenizer.json"), folder / "new.toml", folder / "newer")
    return Catalog.open(folder / "newer")


def test_a_newer_catalog_keeps_old_ones_and_takes_new_ones(place: Path, exported: Path, catalog: Catalog, tmp_path: Path) -> None:
    newer = update(
        place, tmp_path, [f"{100 + user},{1000 + user},5,1000,phone,{user + 10},new {user},x,p" for user in range(USERS)]
    )
    assert newer.contexts == catalog.contexts and newer.request_texts == catalog.request_texts
    before, after = catalog.split("train"), newer.split("train")
    kept = np.flatnonzero(after.times < 1000)
    assert (after.contexts[kept] == before.contexts).all()
    for n, row in enumerate(kept.tolist()):
        assert [decode(text) for text in after.request(row)] == [decode(text) for text in before.request(n)]
    added = [
        (split.contexts[n].tolist(), *map(decode, split.request(n)))
        for split in map(newer.split, ("train", "validation", "test"))
        for n in np.flatnonzero(split.times == 1000).tolist()
    ]
    hours = [1 if user + 10 < 12 else 2 if user + 10 < 18 else -1 for user in range(USERS)]
    assert sorted(added) == sorted(([0, hours[user]], f" new {user}", "x") for user in range(USERS))

    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    assert refresh(bundle, tmp_path / "newer", RefreshOptions(golden_slates=20)).swapped
    slates = Bundle.open(bundle).golden().slates
    queries, contexts = {decode(slate.request[0]) for slate in slates}, {tuple(slate.context.tolist()) for slate in slates}
    assert any(query.startswith(" new") for query in queries) and (2, 2) in contexts and len(contexts) > 1, "old and new ones"
    assert (bundle / "tokenizer.json").is_file()
    code, text = verify(bundle)
    assert code == 0, text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("101,1001,5,1000,radio,3,new,,p", "'context.device' is 'radio', expected one of phone, tv, web"),
        ("101,1001,5,1000,tv,3,a long query,,p", "'request.query' is 'a long query', expected at most 10 tokens"),
    ],
)
def test_an_update_with_an_unknown_value(place: Path, tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=f"new.csv: row 2: {message}"):
        update(place, tmp_path, ["100,1001,5,1000,tv,3,new,,p", line])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("bins = [0, 5, 12, 18]", "bins = [0, 5, 12, 20]"), "context 'hour' is bins"),
        (('unknown = "missing"', 'unknown = "refuse"'), "is another template than that of"),
        (("@{context.device}", "@{context.page}"), "is another template than that of"),
        (("max_tokens = 10", "max_tokens = 11"), "is another template than that of"),
        (('missing = "-"', 'missing = "+"'), "is another template than that of"),
        (("? {request.query}", "?{request.query}"), "is another template than that of"),
    ],
)
def test_an_update_with_other_rules_is_another_template(place: Path, tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        update(place, tmp_path, ["100,1001,5,1000,tv,3,a,,home"], WITH_REQUEST.replace(*edit))


def test_another_tokenizer_is_not_exported(place: Path, catalog: Catalog, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", catalog=catalog)
    arguments = (checkpoint, place / "catalog", tmp_path / "bundle", ExportOptions(with_tokenizer=True))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: no such file, which --with-tokenizer puts into the bundle"):
        export_bundle(*arguments)
    other = byte_tokenizer()
    other.add_special_tokens(["<s>"])
    other.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: is another tokenizer than that of .*catalog"):
        export_bundle(*arguments)
    assert not (tmp_path / "bundle").exists()


DEVICE, QUERY = "{context.device}", "{request.query}"


@pytest.mark.parametrize(
    ("prompt", "section", "message"),
    [
        (DEVICE, "[context.page]", "context.page: the prompt places no {context.page}"),
        (DEVICE, '[context.device]\nvalues = ["tv"]\nbins = [0, 1]', "context.device has values and bins, expected one of them"),
        (DEVICE, '[context.device]\nvalues = ["tv", "tv"]', "context.device.values has 'tv' twice"),
        (DEVICE, '[context.device]\nvalues = [7, "7"]', "context.device.values has '7' twice"),
        (DEVICE, '[context.device]\nvalues = [" tv"]', "context.device.values has ' tv', expected texts without outer spaces"),
        (DEVICE, "[context.device]\nvalues = []", "context.device.values is [], expected a list of 1 to 4096"),
        (DEVICE, "[context.device]\nbins = [0]", "context.device.bins is [0], expected at least two edges, ascending"),
        (
            DEVICE,
            "[context.device]\nbins = [0, 2, 2]",
            "context.device.bins is [0, 2, 2], expected at least two edges, ascending",
        ),
        (DEVICE, "[context.device]\nbins = [0, inf]", "context.device.bins has inf, expected finite numbers"),
        (DEVICE, '[context.device]\nbins = [0, 1, 2]\nwords = ["low"]', "context.device.words has 1 words for 2 bins"),
        (DEVICE, '[context.device]\nwords = ["low"]', "context.device.words has 1 words for no values and no bins"),
        (DEVICE, '[context.device]\nunknown = "guess"', "context.device.unknown is 'guess', expected 'refuse' or 'missing'"),
        (
            DEVICE,
            "[context.device]\nfallback = 1",
            "unknown key context.device.fallback, known are: column, values, bins, words, ",
        ),
        (DEVICE, '[context]\ndevice = "tv"', "context.device is 'tv', expected a section [context.device]"),
        ("{context.}", "", "{context.}: expected a name, as in {context.device}"),
        ("{context.device:3}", "", "{context.device:3}: only lists and their rates take a limit"),
        (QUERY, "", "request.query.max_tokens is missing, expected a whole number from 1 to 4096"),
        (QUERY, "[request.query]\nmax_tokens = 0", "request.query.max_tokens is 0, expected a whole number"),
        (QUERY, "[request.query]\nmax_tokens = true", "request.query.max_tokens is True, expected a whole number"),
        (QUERY, "[request.query]\nmax_tokens = 5000", "request.query.max_tokens is 5000, expected a whole number"),
        (QUERY, "[request.query]\nmax_tokens = 5\nmissing = 7", "request.query.missing is 7, expected a text"),
        (QUERY, '[request.query]\nmax_tokens = 5\ncolumn = ""', "request.query.column is '', expected a text"),
        (QUERY, "[request.query]\nmax_tokens = 5\nunknown = 1", "unknown key request.query.unknown, known are: max_tokens, "),
        (QUERY, "[request.page]\nmax_tokens = 5", "request.page: the prompt places no {request.page}"),
        (QUERY, "[request]\nquery = 5", "request.query is 5, expected a section [request.query]"),
        ("{request.}", "", "{request.}: expected a name, as in {request.query}"),
        ("{request.query:3}", "", "{request.query:3}: only lists and their rates take a limit"),
        (
            f"{QUERY} {QUERY}",
            "[request.query]\nmax_tokens = 5",
            f"{QUERY} stands behind a space and without one, expected either",
        ),
    ],
)
def test_a_template_that_is_refused(tmp_path: Path, prompt: str, section: str, message: str) -> None:
    labels = '[labels]\nyes = "y"\nno = "n"\n'
    (tmp_path / "prompt.toml").write_text(f'prompt = "{prompt} {{item.title}}:"\n{labels}{section}')
    with pytest.raises(InputError) as raised:
        read_template(tmp_path / "prompt.toml")
    assert str(raised.value).startswith(f"{tmp_path}/prompt.toml: ") and message in str(raised.value)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            [("@{context.device}", "@{context.page}")],
            r"no column 'page' \({context.page} of the template\), the file has: user_id",
        ),
        ([("{request.query}", "{request.page}"), ("[request.query]", "[request.page]")], r"no column 'page' \({request.page} of"),
        ([('missing = "-"', 'missing = "-"\ncolumn = "memo"')], r"no column 'memo' \({request.note} of the template\)"),
        ([("{item.title}{verdict}", "{request.query}{verdict}")], r"entry: unknown placeholder {request.query}"),
    ],
)
def test_an_index_that_is_refused(place: Path, tmp_path: Path, edits: list[tuple[str, str]], message: str) -> None:
    template = WITH_REQUEST
    for edit in edits:
        template = template.replace(*edit)
    (tmp_path / "prompt.toml").write_text(template)
    arguments = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml")
    with pytest.raises(InputError, match=message):
        build_catalog(*arguments, tmp_path / "catalog", IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=1)))


def test_a_file_may_lack_a_column_of_texts_that_may_be_missing() -> None:
    rule = RequestRule("note", 3, False, missing="-")
    assert rule.column_of(["user_id"]) is None and rule.column_of(["note"]) == "note"
    assert RequestRule("note", 3, False).column_of(["user_id"]) == "note", "one that is required"
    assert RequestRule("note", 3, False, "-", "memo").column_of(["user_id"]) == "memo", "one that is named"


def numbers_of(cells: list[Any], **options: Any) -> list[int]:
    rule, frame = ContextRule("device", "device", **options), pl.DataFrame({"context.device": cells}, strict=False)
    return with_context_numbers(frame, known_contexts([rule], frame, Path("a.csv")), Path("a.csv"))["context.device"].to_list()


def tokens_of(cells: list[Any], **options: Any) -> list[str]:
    frame = pl.DataFrame({"request.query": cells}, strict=False)
    rule = RequestRule("query", **{"max_tokens": 4, "spaced": False, **options})
    return with_request_tokens(frame, [rule], byte_tokenizer(), Path("a.csv"))["request.query"].to_list()


@pytest.mark.parametrize(
    ("cells", "options", "numbers"),
    [
        (["b ", "a", None, "b"], {"unknown": "missing"}, [1, 0, -1, 1]),
        (["10", "9", "10"], {}, [1, 0, 1]),  # whole numbers by size
        ([10, 9], {"values": ("9", "10")}, [1, 0]),
        ([0.5, 2, 7.9], {"edges": (0, 1, 8)}, [0, 1, 1]),
        (["tv", "radio", ""], {"values": ("tv",), "unknown": "missing"}, [0, -1, -1]),
        ([True, False], {}, [1, 0]),  # false and true as text
    ],
)
def test_cells_become_numbers_of_values(cells: list[Any], options: dict[str, Any], numbers: list[int]) -> None:
    assert numbers_of(cells, **options) == numbers


@pytest.mark.parametrize(
    ("cells", "options", "tokens"),
    [
        (["ab", " ab\t", "a b", "ab"], {}, ["65 66", "65 66", "65 0 66", "65 66"]),  # without outer spaces
        (["ab", "abc"], {"spaced": True}, ["0 65 66", "0 65 66 67"]),
        (["ab", None, "", "  "], {"missing": "-"}, ["65 66", "", "", ""]),
        ([12, 7], {}, ["17 18", "23"]),  # numbers as text
    ],
)
def test_cells_become_tokens(cells: list[Any], options: dict[str, Any], tokens: list[str]) -> None:
    assert tokens_of(cells, **options) == tokens


@pytest.mark.parametrize(
    ("read", "cells", "options", "message"),
    [
        (numbers_of, ["tv", "radio"], {"values": ("tv",)}, "row 2: 'context.device' is 'radio', expected one of tv"),
        (numbers_of, ["tv", None], {}, "row 2: 'context.device' is None, expected one of tv"),
        (numbers_of, [3, 24], {"edges": (0, 24)}, "row 2: 'context.device' is 24, expected a number from 0 to below 24"),
        (numbers_of, ["noon"], {"edges": (0, 24)}, "row 1: 'context.device' is 'noon', expected a number from 0 to below 24"),
        (numbers_of, [0.5], {}, "column 'device' holds Float64: give [context.device] bins"),
        (numbers_of, list(range(4097)), {}, "column 'device' has 4097 values, a context takes 1 to 4096"),
        (numbers_of, [None, ""], {}, "column 'device' has 0 values"),
        (tokens_of, ["ab", "abcde"], {}, "row 2: 'request.query' is 'abcde', expected at most 4 tokens"),
        (tokens_of, ["abcd"], {"spaced": True}, "row 1: 'request.query' is 'abcd', expected at most 4 tokens"),
        (tokens_of, ["ab", None], {}, "row 2: 'request.query' is None, expected a text"),
        (tokens_of, ["ab", " "], {}, "row 2: 'request.query' is ' ', expected a text"),
        (tokens_of, [[1], [2]], {}, "column 'query' holds List(Int64), which has no text form"),
    ],
)
def test_cells_that_are_refused(read: Any, cells: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        read(cells, **options)
    assert str(raised.value).startswith(f"a.csv: {message}")


def test_sampled_items_have_the_context_of_their_interaction() -> None:
    frame = pl.DataFrame(
        {
            "user": [0, 0, 1, 1],
            "item": [0, 1, 1, 2],
            "time": [1, 2, 1, 2],
            "liked": [True, True, True, False],
            "context.device": pl.Series([4, 5, 6, 7], dtype=pl.Int32),
        }
    )
    negatives = with_negatives(frame.with_columns(split=pl.lit("train")), 9, 2, 0, Path("a.csv")).filter(~pl.col("liked"))
    expected = dict(zip(zip(frame["user"], frame["time"], strict=True), frame["context.device"], strict=True))
    assert len(negatives) == 8 + 1
    assert all(row["context.device"] == expected[row["user"], row["time"]] for row in negatives.iter_rows(named=True))
    unrated = with_unrated(frame, pl.Series([1, 2]), pl.Series([1, 2, 3]), 1, 0, Path("a.csv"))[len(frame) :]
    assert len(unrated) > 0 and not unrated["liked"].any()
    assert all(row["context.device"] == expected[row["user"], row["time"]] for row in unrated.iter_rows(named=True))
