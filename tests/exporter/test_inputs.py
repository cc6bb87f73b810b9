"""`{input.NAME}` from the template to an exported bundle: slates, golden samples, and a newer catalog."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.data.indexed_catalog import USERS, WITH_INPUTS, byte_tokenizer, moment, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.data.slates import Slate, cut
from rexit.errors import CheckpointError, InputError
from rexit.exporter.catalog.draws import with_draws
from rexit.exporter.catalog.input_columns import InputRule, known_inputs, with_codes
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.template import read_template
from rexit.format.bundle import Bundle, Catalog
from rexit.format.bundle.inputs import Input
from rexit.format.candidates import Candidates
from rexit.progress import silent
from rexit.upkeep.checks import check_golden
from rexit.upkeep.refresh import RefreshOptions, refresh
from running.program import run_program

EDGES = (0, 5, 12, 18)


def decode(tokens: Any) -> str:
    return str(byte_tokenizer().decode([int(token) for token in tokens]))


def inputs_at(time: int) -> tuple[str, int | None, str, str]:
    """Device, the hour's bin by its lower edge, query and note of an interaction, as a slate has them."""
    device, hour, query, note = moment(time)
    return device, max((edge for edge in EDGES[:-1] if edge <= hour), default=None) if hour < EDGES[-1] else None, query, note


def inputs_of(slate: Slate) -> tuple[Any, Any, str, str]:
    query, note = (decode(slate.inputs.get(name, ())) for name in ("query", "note"))
    return slate.inputs["device"], slate.inputs.get("hour"), query.strip(), note


def codes_of(inputs: Any) -> tuple[tuple[int, ...], str, tuple[int, ...], str]:
    """Codes of the inputs in the program's order, with those of texts decoded."""
    device, query, hour, note = inputs
    return tuple(device.tolist()), decode(query), tuple(hour.tolist()), decode(note)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog and its sources."""
    return write_indexed_catalog(tmp_path_factory.mktemp("request"), template=WITH_INPUTS).parent


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
    assert catalog.inputs.entries == (
        Input(name="device", values=("phone", "tv", "web")),
        Input(name="query", max_tokens=10, spaced=True),
        Input(name="hour", bins=EDGES, optional=True),
        Input(name="note", max_tokens=3, optional=True),
    )
    split = catalog.split("test")
    assert {codes_of(split.codes_of(n)) for n in range(len(split))} == {((1,), " blue sky", (), "")}, "interactions 18 and 19"
    prompt = catalog.info["prompt"]
    op = next(op for op in prompt["candidate"] if op["op"] == "input")
    offsets, tokens = catalog.piece_table["offsets"], catalog.piece_table["tokens"]
    texts = [decode(tokens[offsets[p] : offsets[p + 1]]) for p in [*op["pieces"], op["missing"]]]
    assert texts == ["a", "b", "c", "!"]
    assert prompt["max_prefix_tokens"] >= 10


@pytest.mark.parametrize(("split", "times"), [("train", range(16)), ("validation", (16, 17)), ("test", (18, 19))])
def test_a_slate_ends_where_one_of_them_changes(catalog: Catalog, split: str, times: Any) -> None:
    slates = cut(catalog, split, 20)
    expected = [(values, len(list(group))) for values, group in itertools.groupby(times, inputs_at)]
    assert [(inputs_of(slate), len(slate.items)) for slate in slates] == USERS * expected
    assert all(("note" in slate.inputs) == (note != "") for slate in slates for *_, note in [inputs_of(slate)])


def test_training_prompts_have_those_of_their_interactions(catalog: Catalog) -> None:
    """Device and query, in the prefix, end a slate. Behind it each candidate has its own hour and note."""
    rows = [row for row in packed_rows(catalog, "train", 20).rows if row.user == 100]
    prefixes = [decode(row.prompt.prefix).partition("@")[2] for row in rows]
    candidates = [[decode(c).partition("~")[2].partition(" ")[0] for c in row.prompt.candidates] for row in rows]
    expected = itertools.groupby(range(16), lambda time: "{0}? {2}|".format(*inputs_at(time)))
    words = dict(zip(EDGES, "abc", strict=False))
    assert list(zip(prefixes, candidates, strict=True)) == [
        (prefix, [f"{words[hour]}/{note or '-'}" for _, hour, _, note in map(inputs_at, times) if hour is not None])
        for prefix, times in expected
    ]


def test_other_prompts_are_those_of_requests(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    rows = packed_rows(catalog, "validation", 20).rows
    for row, slate in zip(rows, cut(catalog, "validation", 20), strict=True):
        prompt = builder.prompt(slate.user, slate.items, slate.as_of, inputs=slate.inputs)
        assert row.user == slate.user and (row.liked == slate.liked).all()
        assert (row.prompt.prefix == prompt.prefix).all()
        assert [c.tolist() for c in row.prompt.candidates] == [c.tolist() for c in prompt.candidates]


@pytest.mark.slow
def test_a_request_by_text_gives_the_tokens_of_the_index(exported: Path, catalog: Catalog) -> None:
    """The space before the placeholder belongs to the text, in the index and in requests."""
    slate = next(slate for slate in cut(catalog, "train", 20) if {"query", "note"} <= slate.inputs.keys())
    _, _, query, note = inputs_of(slate)
    with runtime.open(exported) as session:
        by_tokens = session.prompt(slate.user, slate.items, inputs=slate.inputs)
        by_text = session.prompt(slate.user, slate.items, inputs={**slate.inputs, "query": query, "note": note})
    assert decode(by_text[0]).endswith(f"? {query}|")
    assert by_text[0].tolist() == by_tokens[0].tolist()
    assert [c.tolist() for c in by_text[1]] == [c.tolist() for c in by_tokens[1]]


@pytest.mark.medium
def test_golden_samples_keep_them(exported: Path) -> None:
    bundle = Bundle.open(exported)
    slates = bundle.golden().slates
    assert {codes_of(slate.inputs) for slate in slates} == {((2,), " blue sky", (2,), "n4")}, (
        "interactions 16 and 17 of each user"
    )
    with runtime.open(exported) as session:
        checks = check_golden(bundle.variant.name, session, silent)
    assert len(checks) == 3 and not any(check.failures for check in checks)
    assert verify(exported)[0] == 0


def update(place: Path, folder: Path, lines: list[str], template: str = WITH_INPUTS) -> Catalog:
    (folder / "new.csv").write_text("\n".join(["user_id,item_id,rating,timestamp,device,hour,query,note,page", *lines]))
    (folder / "new.toml").write_text(template)
    files = (folder / "new.csv", None, str(place / "tokenizer.json"), folder / "new.toml", folder / "newer")
    build_catalog(*files, old=place / "catalog")
    return Catalog.open(folder / "newer")


@pytest.mark.medium
def test_a_newer_catalog_keeps_old_ones_and_takes_new_ones(place: Path, exported: Path, catalog: Catalog, tmp_path: Path) -> None:
    newer = update(
        place, tmp_path, [f"{100 + user},{1000 + user},5,1000,phone,{user + 10},new {user},x,p" for user in range(USERS)]
    )
    assert newer.inputs == catalog.inputs
    before, after = catalog.split("train"), newer.split("train")
    kept = np.flatnonzero(after.times < 1000)
    assert [codes_of(after.codes_of(row)) for row in kept.tolist()] == [codes_of(before.codes_of(n)) for n in range(len(before))]
    added = [
        codes_of(split.codes_of(n))
        for split in map(newer.split, ("train", "validation", "test"))
        for n in np.flatnonzero(split.times == 1000).tolist()
    ]
    hours = [(1,) if user + 10 < 12 else (2,) if user + 10 < 18 else () for user in range(USERS)]
    assert sorted(added) == sorted(((0,), f" new {user}", hours[user], "x") for user in range(USERS))

    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    assert refresh(bundle, tmp_path / "newer", RefreshOptions(golden_slates=20)).swapped
    slates = Bundle.open(bundle).golden().slates
    devices, queries = {slate.inputs[0].item() for slate in slates}, {decode(slate.inputs[1]) for slate in slates}
    assert any(query.startswith(" new") for query in queries) and devices == {0, 2}, "old and new ones"
    assert (bundle / "tokenizer.json").is_file()
    code, text = verify(bundle)
    assert code == 0, text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("101,1001,5,1000,radio,3,new,,p", "'input.device' is 'radio', expected one of phone, tv, web"),
        ("101,1001,5,1000,tv,3,a long query,,p", "'input.query' is 'a long query', expected at most 10 tokens"),
    ],
)
def test_an_update_with_an_unknown_value(place: Path, tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=f"new.csv: row 2: {message}"):
        update(place, tmp_path, ["100,1001,5,1000,tv,3,new,,p", line])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("bins = [0, 5, 12, 18]", "bins = [0, 5, 12, 20]"), "input 'hour' is bins"),
        (("@{input.device}", "@{input.page}"), "is another template than that of"),
        (("max_tokens = 10", "max_tokens = 11"), "is another template than that of"),
        (("? {input.query}", "?{input.query}"), "is another template than that of"),
    ],
)
def test_an_update_with_other_rules_is_another_template(place: Path, tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        update(place, tmp_path, ["100,1001,5,1000,tv,3,a,,home"], WITH_INPUTS.replace(*edit))


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


DEVICE, QUERY = "{input.device}", "{input.query}"
KINDS = "expected one of `values`, `bins`, `digits` and `max_tokens`"


@pytest.mark.parametrize(
    ("prompt", "section", "message"),
    [
        (DEVICE, "[input.page]", "input.page: the prompt places no {input.page}"),
        (DEVICE, '[input.device]\nvalues = ["tv"]\nbins = [0, 1]', f"input.device: {KINDS}"),
        (DEVICE, '[input.device]\nvalues = [7, "7"]', "input.device: values: `7` appears twice"),
        (DEVICE, '[input.device]\nvalues = [" tv"]', "input.device.values has ' tv', expected texts without outer spaces"),
        (DEVICE, "[input.device]\nbins = [0, inf]", "input.device: bins: expected 2 to 4097 ascending numbers"),
        (DEVICE, '[input.device]\nbins = [0, 1, 2]\nwords = ["low"]', "words has 1 texts, expected one for each of 2 values"),
        (DEVICE, '[input.device]\nwords = ["low"]', "words has 1 texts, expected one for each of 0 values or bins"),
        (DEVICE, '[input.device]\nwords = "low"', "input.device.words is 'low', expected a list of texts"),
        (DEVICE, '[input.device]\nunknown = "refuse"', "unknown key input.device.unknown, known are: values"),
        (DEVICE, '[input]\ndevice = "tv"', "input.device is 'tv', expected a section [input.device]"),
        ("{input.}", "", "{input.}: expected a name, as in {input.device}"),
        ("{input.device:3}", "", "{input.device:3}: only lists and their rates take a limit"),
        (QUERY, "[input.query]\nmax_tokens = 5000", "input.query max_tokens: is 5000, expected"),
        (QUERY, "[input.query]\nmax_tokens = 5\nmissing = 7", "input.query.missing is 7, expected a text"),
        (f"{QUERY} {QUERY}", "[input.query]\nmax_tokens = 5", f"{QUERY} is behind a space and without one, expected either"),
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
        ([("@{input.device}", "@{input.page}")], r"no column 'page' \({input.page} of the template\), the file has: user_id"),
        ([("{input.query}", "{input.page}"), ("[input.query]", "[input.page]")], r"no column 'page' \({input.page} of"),
        ([('missing = "-"', 'missing = "-"\ncolumn = "memo"')], r"no column 'memo' \({input.note} of the template\)"),
        ([("{item.title}{verdict}", "{input.query}{verdict}")], r"entry: unknown placeholder {input.query}"),
    ],
)
def test_an_index_that_is_refused(place: Path, tmp_path: Path, edits: list[tuple[str, str]], message: str) -> None:
    template = WITH_INPUTS
    for edit in edits:
        template = template.replace(*edit)
    (tmp_path / "prompt.toml").write_text(template)
    arguments = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml")
    with pytest.raises(InputError, match=message):
        build_catalog(*arguments, tmp_path / "catalog", IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=1)))


def rule(missing: str | None = None, column: str | None = None, **entry: Any) -> InputRule:
    described = Input(name="device", optional=missing is not None, **entry) if entry else None
    return InputRule("device", described, column, missing=missing)


@pytest.mark.parametrize(
    ("rule_", "columns", "column"),
    [
        (rule("-", max_tokens=3), ["user_id"], None),
        (rule("-", max_tokens=3), ["device"], "device"),
        (rule(max_tokens=3), ["user_id"], "device"),
        (rule("-", "memo", max_tokens=3), ["user_id"], "memo"),
        (rule("-", values=("tv",)), ["user_id"], "device"),
        (rule("-"), ["user_id"], "device"),
    ],
)
def test_a_file_may_lack_the_column_of_a_text_that_may_be_missing(
    rule_: InputRule, columns: list[str], column: str | None
) -> None:
    assert rule_.column_in(columns) == column


def codes_of_cells(cells: list[Any], rule_: InputRule) -> list[str]:
    frame = pl.DataFrame({"input.device": cells}, strict=False)
    return with_codes(frame, known_inputs([rule_], frame, Path("a.csv")), byte_tokenizer(), Path("a.csv"))[
        "input.device"
    ].to_list()


@pytest.mark.parametrize(
    ("cells", "rule_", "codes"),
    [
        (["b ", "a", None, "b"], rule("-"), ["1", "0", "", "1"]),
        (["10", "9", "10"], rule(), ["1", "0", "1"]),  # whole numbers by size
        ([10, 9], rule(values=("9", "10")), ["1", "0"]),
        ([0.5, 2, 7.9], rule(bins=(0, 1, 8)), ["0", "1", "1"]),
        ([1.99, 20, 0.0004, 99.96], rule(digits=3), ["1 10 9 9", "2 0", "0", "1 0 0"]),
        ([1e7, -1.0, np.nan, None, 5.0], rule("-", digits=3), ["", "", "", "", "5"]),
        (pl.Series([0.7], dtype=pl.Float32), rule(bins=(0, 0.7, 1)), ["0"]),  # 0.69999999 in requests, too
        ([13.0, None, 14], rule("?", values=("13", "14")), ["0", "", "1"]),  # 13.0 is 13
        ([7.0, 7.5], rule(max_tokens=4), ["23 14 16", "23 14 21"]),
        (["9" * 5000, "5"], rule(), ["1", "0"]),
        (["tv", "radio", ""], rule("-", values=("tv",)), ["0", "", ""]),
        ([True, False], rule(), ["1", "0"]),  # false and true as text
        (["ab", " ab\t", "a b", "ab"], rule(max_tokens=4), ["65 66", "65 66", "65 0 66", "65 66"]),  # without outer spaces
        (["ab", None, "", "  "], rule("-", max_tokens=4), ["65 66", "", "", ""]),
    ],
)
def test_cells_become_codes(cells: list[Any], rule_: InputRule, codes: list[str]) -> None:
    assert codes_of_cells(cells, rule_) == codes


@pytest.mark.parametrize(
    ("cells", "rule_", "message"),
    [
        (["tv", "radio"], rule(values=("tv",)), "row 2: 'input.device' is 'radio', expected one of tv"),
        (["tv", None], rule(), "row 2: 'input.device' is None, expected one of tv"),
        ([3, 24], rule(bins=(0, 24)), "row 2: 'input.device' is 24, expected a number from 0 to below 24"),
        ([0.5], rule(), "column 'device' holds Float64: give [input.device] bins or digits"),
        (list(range(4097)), rule(), "column 'device' has 4097 values, an input takes 1 to 4096"),
        ([13.0, 13.5], rule(values=("13",)), "row 2: 'input.device' is 13.5, expected one of 13"),
        ([{"a": 1}], rule(), "column 'input.device' holds Struct({'a': Int64}), which has no text form"),
        ([None, ""], rule(), "column 'device' has 0 values"),
        (["ab", "abcde"], rule(max_tokens=4), "row 2: 'input.device' is 'abcde', expected at most 4 tokens"),
        (["ab", None], rule(max_tokens=4), "row 2: 'input.device' is None, expected at most 4 tokens"),
    ],
)
def test_cells_that_are_refused(cells: list[Any], rule_: InputRule, message: str) -> None:
    with pytest.raises(InputError) as raised:
        codes_of_cells(cells, rule_)
    assert str(raised.value).startswith(f"a.csv: {message}")


def test_sampled_items_have_the_inputs_of_their_interaction() -> None:
    frame = pl.DataFrame(
        {
            "user": [0, 0, 1, 1],
            "item": [0, 1, 1, 2],
            "time": [1, 2, 1, 2],
            "liked": [True, True, True, False],
            "input.device": ["4", "5", "6", "7"],
        }
    )
    rows = with_draws(frame.with_columns(split=pl.lit("train")), 9, Candidates("uniform", 2), 0, Path("a.csv"))
    negatives = rows.filter(~pl.col("liked"))
    expected = dict(zip(zip(frame["user"], frame["time"], strict=True), frame["input.device"], strict=True))
    assert len(negatives) == 6 + 1
    assert all(row["input.device"] == expected[row["user"], row["time"]] for row in negatives.iter_rows(named=True))
