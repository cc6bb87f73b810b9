"""`{request.NAME}` from the template to an exported bundle: its tokens, its slates, golden samples, and a newer catalog."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.data.indexed_catalog import QUERIES, WITH_REQUEST, byte_tokenizer, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.bundle import Bundle, Catalog
from rexit.bundle.request_text import RequestText
from rexit.checks.golden import check_golden
from rexit.errors import CheckpointError, InputError
from rexit.exporter.catalog.request_texts import RequestRule, with_request_tokens
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import ExportOptions, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.template import read_template
from rexit.exporter.update import update_catalog
from rexit.progress import silent
from rexit.refresh import RefreshOptions, refresh
from rexit.slates import cut
from running.program import run_program


def decode(tokens: Any) -> str:
    return str(byte_tokenizer().decode([int(token) for token in tokens]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with request texts and its sources."""
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


def test_the_index_stores_the_interactions_texts_as_tokens(catalog: Catalog) -> None:
    assert catalog.info["requires"] == ["request-text"]
    assert catalog.request_texts.entries == (
        RequestText("query", 10, spaced=True, required=True),
        RequestText("note", 3, spaced=False, required=False),
    )
    split = catalog.split("test")
    assert [numbers.shape for numbers in split.texts] == [(len(split),)] * 2
    assert {tuple(map(decode, split.request(n))) for n in range(len(split))} == {(" blue sky", "n18"), (" blue sky", "")}
    prompt = catalog.info["prompt"]
    assert prompt["max_prefix_tokens"] >= 10 and prompt["lengths"]["prefix"]["max"] > 5


def test_a_slate_ends_where_the_text_changes(catalog: Catalog) -> None:
    train = [slate for slate in cut(catalog, "train", 20) if slate.user == 100]
    assert [decode(slate.request["query"]) for slate in train] == [f" {QUERIES[n // 4 % 3]}" for n in range(16)]
    assert ["note" in slate.request for slate in train] == [True, False] * 8, "an empty cell is missing"
    assert sum(len(slate.items) for slate in cut(catalog, "train", 20)) == len(catalog.split("train"))


def test_training_prompts_have_the_texts_of_their_interactions(catalog: Catalog) -> None:
    """The query, in the prefix, ends a slate. The note stands behind it: each candidate has its own."""
    rows = [row for row in packed_rows(catalog, "train", 20).rows if row.user == 100]
    assert [len(row.prompt.candidates) for row in rows] == [4, 4, 4, 4]
    assert [decode(row.prompt.prefix).partition("?")[2] for row in rows] == [f" {QUERIES[n]}|" for n in (0, 1, 2, 0)]
    candidates = [decode(candidate) for row in rows for candidate in row.prompt.candidates]
    notes = [text.partition("~")[2].partition(" ")[0] for text in candidates]
    assert notes == ["-" if n % 2 else f"n{n}" for n in range(16)]


def test_other_prompts_are_those_of_requests(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    rows = packed_rows(catalog, "validation", 20).rows
    for row, slate in zip(rows, cut(catalog, "validation", 20), strict=True):
        prompt = builder.prompt(slate.user, slate.items, slate.as_of, request=slate.request)
        assert (row.prompt.prefix == prompt.prefix).all()
        assert [c.tolist() for c in row.prompt.candidates] == [c.tolist() for c in prompt.candidates]


@pytest.mark.slow
def test_a_request_by_text_gives_the_tokens_of_the_index(exported: Path, catalog: Catalog) -> None:
    """The space before the placeholder belongs to the text, in the index and in requests."""
    slate = next(slate for slate in cut(catalog, "test", 20) if slate.request.keys() == {"query", "note"})
    with runtime.open(exported) as session:
        by_tokens = session.prompt(slate.user, slate.items, request=slate.request)
        by_text = session.prompt(slate.user, slate.items, request={"query": "blue sky", "note": "n18"})
    assert decode(by_text[0]).endswith("? blue sky|")
    assert by_text[0].tolist() == by_tokens[0].tolist()
    assert [c.tolist() for c in by_text[1]] == [c.tolist() for c in by_tokens[1]]


@pytest.mark.slow
def test_golden_samples_keep_their_texts(exported: Path) -> None:
    bundle = Bundle.open(exported)
    texts = {tuple(map(decode, slate.request)) for slate in bundle.golden().slates}
    assert texts <= {(" red", ""), (" red", "n16"), (" blue sky", ""), (" blue sky", "n16")} and texts
    with runtime.open(exported) as session:
        checks = check_golden(bundle, session, silent)
    assert len(checks) == 3 and not any(check.failures for check in checks)
    ended = run_program("verify", exported)
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.slow
def test_golden_samples_notice_another_text(exported: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from builders.bundles.bundle_files import refresh as write_digests

    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    path = folder / "variants" / "cpu-fp32" / "golden.safetensors"
    table = load_file(path)
    table["request_tokens"][1] += 1
    save_file(table, path)
    write_digests(folder)
    ended = run_program("verify", folder)
    assert ended.code == 8 and "the prompt of the prefix differs from the exporter's" in ended.out


def update(place: Path, folder: Path, lines: list[str]) -> Catalog:
    (folder / "new.csv").write_text("\n".join(["user_id,item_id,rating,timestamp,query,note", *lines]))
    arguments = (folder / "new.csv", str(place / "tokenizer.json"), place / "prompt.toml", folder / "newer")
    update_catalog(place / "catalog", *arguments)
    return Catalog.open(folder / "newer")


NEW = [f"{100 + user},{1000 + user},5,1000,new {user},x" for user in range(12)]


def test_a_newer_catalog_keeps_old_texts_and_takes_new_ones(place: Path, catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"new.csv: row 2: 'request.query' is 'a long query', expected at most 10 tokens"):
        update(place, tmp_path, ["100,1001,5,1000,new,", "101,1001,5,1000,a long query,"])
    newer = update(place, tmp_path, NEW)
    assert newer.request_texts == catalog.request_texts
    before, after = catalog.split("train"), newer.split("train")
    kept = [n for n in range(len(after)) if after.times[n] < 1000]
    assert [decode(t) for n in kept for t in after.request(n)] == [
        decode(t) for n in range(len(before)) for t in before.request(n)
    ]
    added = [
        tuple(map(decode, split.request(n)))
        for split in map(newer.split, ("train", "validation", "test"))
        for n in range(len(split))
        if split.times[n] == 1000
    ]
    assert sorted(added) == sorted((f" new {user}", "x") for user in range(12))


@pytest.mark.slow
def test_a_refreshed_bundle_has_golden_samples_with_new_texts(place: Path, exported: Path, tmp_path: Path) -> None:
    update(place, tmp_path, NEW)
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    assert refresh(bundle, tmp_path / "newer", RefreshOptions(golden_slates=20)).swapped
    queries = {decode(slate.request[0]) for slate in Bundle.open(bundle).golden().slates}
    assert any(query.startswith(" new") for query in queries) and len(queries) > 1, "old slates and new ones"
    assert (bundle / "tokenizer.json").is_file()
    ended = run_program("verify", bundle)
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.parametrize(
    "edit",
    [("max_tokens = 10", "max_tokens = 11"), ('missing = "-"', 'missing = "+"'), ("? {request.query}", "?{request.query}")],
)
def test_an_update_with_other_rules_is_another_template(place: Path, tmp_path: Path, edit: tuple[str, str]) -> None:
    (tmp_path / "prompt.toml").write_text(WITH_REQUEST.replace(*edit))
    (tmp_path / "new.csv").write_text("user_id,item_id,rating,timestamp,query\n100,1001,5,1000,a")
    arguments = (tmp_path / "new.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml", tmp_path / "newer")
    with pytest.raises(InputError, match="is another template than that of"):
        update_catalog(place / "catalog", *arguments)


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


LABELS = '[labels]\nyes = "y"\nno = "n"\n'


@pytest.mark.parametrize(
    ("prompt", "section", "message"),
    [
        ("{request.query}", "", "request.query.max_tokens is missing, expected a whole number from 1 to 4096"),
        ("{request.query}", "[request.query]\nmax_tokens = 0", "request.query.max_tokens is 0, expected a whole number"),
        ("{request.query}", "[request.query]\nmax_tokens = true", "request.query.max_tokens is True, expected a whole number"),
        ("{request.query}", "[request.query]\nmax_tokens = 5000", "request.query.max_tokens is 5000, expected a whole number"),
        ("{request.query}", "[request.query]\nmax_tokens = 5\nmissing = 7", "request.query.missing is 7, expected a text"),
        ("{request.query}", '[request.query]\nmax_tokens = 5\ncolumn = ""', "request.query.column is '', expected a text"),
        (
            "{request.query}",
            "[request.query]\nmax_tokens = 5\nunknown = 1",
            "unknown key request.query.unknown, known are: max_tokens, missing, column",
        ),
        ("{request.query}", "[request.page]\nmax_tokens = 5", "request.page: the prompt places no {request.page}"),
        ("{request.query}", "[request]\nquery = 5", "request.query is 5, expected a section [request.query]"),
        ("{request.}", "", "{request.}: expected a name, as in {request.query}"),
        ("{request.query:3}", "", "{request.query:3}: only lists and their rates take a limit"),
        (
            "{request.query} {request.query}",
            "[request.query]\nmax_tokens = 5",
            "{request.query} stands behind a space and without one, expected either",
        ),
    ],
)
def test_a_template_that_is_refused(tmp_path: Path, prompt: str, section: str, message: str) -> None:
    (tmp_path / "prompt.toml").write_text(f'prompt = "{prompt} {{item.title}}:"\n{LABELS}{section}')
    with pytest.raises(InputError) as raised:
        read_template(tmp_path / "prompt.toml")
    assert str(raised.value).startswith(f"{tmp_path}/prompt.toml: ") and message in str(raised.value)


def test_a_text_stands_in_the_prompt_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.toml").write_text(WITH_REQUEST.replace("{item.title}{verdict}", "{request.query}{verdict}"))
    arguments = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml")
    with pytest.raises(InputError, match=r"entry: unknown placeholder {request.query}"):
        build_catalog(*arguments, tmp_path / "catalog", IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=1)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("{request.query}", "{request.page}"), r"no column 'page' \({request.page} of the template\), the file has: user_id"),
        (('missing = "-"', 'missing = "-"\ncolumn = "memo"'), r"no column 'memo' \({request.note} of the template\)"),
    ],
)
def test_a_column_that_is_missing(place: Path, tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    text = WITH_REQUEST.replace(*edit).replace("[request.query]", f"[request.{'page' if 'page' in edit[1] else 'query'}]")
    (tmp_path / "prompt.toml").write_text(text)
    arguments = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml")
    with pytest.raises(InputError, match=message):
        build_catalog(*arguments, tmp_path / "catalog", IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=1)))


def test_a_file_may_lack_a_column_of_texts_that_may_be_missing() -> None:
    rule = RequestRule("note", 3, False, missing="-")
    assert rule.column_of(["user_id"]) is None and rule.column_of(["note"]) == "note"
    assert RequestRule("note", 3, False).column_of(["user_id"]) == "note", "one that is required"
    assert RequestRule("note", 3, False, "-", "memo").column_of(["user_id"]) == "memo", "one that is named"


def tokens_of(cells: list[Any], **options: Any) -> list[str]:
    frame = pl.DataFrame({"request.query": cells}, strict=False)
    rule = RequestRule("query", **{"max_tokens": 4, "spaced": False, **options})
    return with_request_tokens(frame, [rule], byte_tokenizer(), Path("a.csv"))["request.query"].to_list()


def test_cells_become_tokens() -> None:
    assert tokens_of(["ab", " ab\t", "a b", "ab"]) == ["65 66", "65 66", "65 0 66", "65 66"], "without outer spaces"
    assert tokens_of(["ab", "abc"], spaced=True) == ["0 65 66", "0 65 66 67"]
    assert tokens_of(["ab", None, "", "  "], missing="-") == ["65 66", "", "", ""]
    assert tokens_of([12, 7]) == ["17 18", "23"], "numbers as text"


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["ab", "abcde"], {}, "a.csv: row 2: 'request.query' is 'abcde', expected at most 4 tokens"),
        (["abcd"], {"spaced": True}, "a.csv: row 1: 'request.query' is 'abcd', expected at most 4 tokens"),
        (["ab", None], {}, "a.csv: row 2: 'request.query' is None, expected a text"),
        (["ab", " "], {}, "a.csv: row 2: 'request.query' is ' ', expected a text"),
        ([[1], [2]], {}, "a.csv: column 'query' holds List(Int64), which has no text form"),
    ],
)
def test_cells_that_are_refused(cells: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        tokens_of(cells, **options)
    assert str(raised.value) == message
