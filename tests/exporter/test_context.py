"""`{context.NAME}` from the template to an exported bundle: its values, its slates, golden samples, and a newer catalog."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.data.indexed_catalog import DEVICES, USERS, WITH_CONTEXT, byte_tokenizer, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.bundle import Bundle, Catalog
from rexit.bundle.context import Context
from rexit.checks.golden import check_golden
from rexit.errors import InputError
from rexit.exporter.catalog.contexts import ContextRule, known_contexts, with_context_numbers
from rexit.exporter.catalog.negatives import with_negatives
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
from rexit.slates import cut
from running.program import run_program


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with contexts and its sources."""
    return write_indexed_catalog(tmp_path_factory.mktemp("context"), template=WITH_CONTEXT).parent


@pytest.fixture(scope="module")
def catalog(place: Path) -> Catalog:
    return Catalog.open(place / "catalog")


@pytest.fixture(scope="module")
def exported(place: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    checkpoint = tiny_checkpoint(out / "checkpoint", catalog=catalog)
    export_bundle(checkpoint, place / "catalog", out / "bundle", ExportOptions(golden_slates=6))
    return out / "bundle"


def test_the_index_stores_values_tokens_and_the_interactions_contexts(catalog: Catalog) -> None:
    assert catalog.info["requires"] == ["context"]
    assert catalog.contexts.entries == (
        Context(name="device", values=("phone", "tv", "web"), unknown="refuse"),
        Context(name="hour", edges=(0, 5, 12, 18), unknown="missing"),
    )
    split = catalog.split("test")
    assert split.contexts.shape == (len(split), 2)
    assert {tuple(row) for row in split.contexts.tolist()} == {(1, -1)}, "interactions 18 and 19 of each user"
    op = next(op for op in catalog.info["prompt"]["candidate"] if op["op"] == "context")
    offsets, tokens = catalog.piece_table["offsets"], catalog.piece_table["tokens"]
    texts = [byte_tokenizer().decode(tokens[offsets[p] : offsets[p + 1]].tolist()) for p in [*op["values"], op["missing"]]]
    assert texts == ["a", "b", "c", "!"]


def test_a_slate_ends_where_the_context_changes(catalog: Catalog) -> None:
    train = [slate for slate in cut(catalog, "train", 20) if slate.user == 100]
    assert [len(slate.items) for slate in train] == [3, 2, 1, 3, 3, 3, 1]
    assert [slate.context["device"] for slate in train] == [DEVICES[n] for n in (0, 1, 1, 2, 0, 1, 2)]
    assert [slate.context["hour"] for slate in train] == [0, 0, 5, 5, 5, 12, 12], "a bin by its lower edge"
    assert sum(len(slate.items) for slate in cut(catalog, "train", 20)) == len(catalog.split("train"))
    assert all("hour" not in slate.context for slate in cut(catalog, "test", 20)), "18 and 19 are outside the bins"


def test_training_prompts_have_the_context_of_their_interactions(catalog: Catalog) -> None:
    """The device, in the prefix, ends a slate. The hour stands behind it: each candidate has its own."""
    decode = byte_tokenizer().decode
    rows = [row for row in packed_rows(catalog, "train", 20).rows if row.user == 100]
    assert [len(row.prompt.candidates) for row in rows] == [3, 3, 3, 3, 3, 1]
    assert [f"@{DEVICES[n % 3]}|" in decode(row.prompt.prefix.tolist()) for n, row in enumerate(rows)] == [True] * 6
    candidates = [decode(candidate.tolist()) for row in rows for candidate in row.prompt.candidates]
    words = [text.partition("~")[2][0] for text in candidates]
    assert words == ["a"] * 5 + ["b"] * 7 + ["c"] * 4


def test_other_prompts_are_those_of_requests(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    rows = packed_rows(catalog, "validation", 20).rows
    for row, slate in zip(rows, cut(catalog, "validation", 20), strict=True):
        prompt = builder.prompt(slate.user, slate.items, slate.as_of, context=slate.context)
        assert row.user == slate.user and (row.liked == slate.liked).all()
        assert (row.prompt.prefix == prompt.prefix).all()
        assert [c.tolist() for c in row.prompt.candidates] == [c.tolist() for c in prompt.candidates]


def test_golden_samples_keep_their_context(exported: Path, catalog: Catalog) -> None:
    bundle = Bundle.open(exported)
    slates = bundle.golden().slates
    assert {tuple(slate.context.tolist()) for slate in slates} == {(2, 2)}, "interactions 16 and 17 of each user"
    with runtime.open(exported) as session:
        checks = check_golden(bundle, session, silent)
    assert len(checks) == 3 and not any(check.failures for check in checks)
    ended = run_program("verify", exported)
    assert ended.code == 0, ended.out + ended.err


def test_golden_samples_notice_another_context(exported: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from builders.bundles.bundle_files import refresh as write_digests

    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    path = folder / "variants" / "cpu-fp32" / "golden.safetensors"
    table = load_file(path)
    table["context"][:, 0] = 0
    save_file(table, path)
    write_digests(folder)
    ended = run_program("verify", folder)
    assert ended.code == 8 and "the prompt of the prefix differs from the exporter's" in ended.out


def test_a_newer_catalog_keeps_the_values(place: Path, exported: Path, tmp_path: Path) -> None:
    def update(lines: list[str]) -> None:
        (tmp_path / "new.csv").write_text("\n".join(["user_id,item_id,rating,timestamp,device,hour", *lines]))
        arguments = (tmp_path / "new.csv", str(place / "tokenizer.json"), place / "prompt.toml", tmp_path / "newer")
        update_catalog(place / "catalog", *arguments)

    with pytest.raises(InputError, match=r"new.csv: row 2: 'context.device' is 'radio', expected one of phone, tv, web"):
        update(["100,1001,5,1000,tv,3", "101,1001,5,1000,radio,3"])
    update([f"{100 + user},{1000 + user},5,1000,phone,{user + 10}" for user in range(USERS)])
    old, newer = Catalog.open(place / "catalog"), Catalog.open(tmp_path / "newer")
    assert newer.contexts == old.contexts
    added = np.concatenate(
        [newer.split(name).contexts[newer.split(name).times == 1000] for name in ("train", "validation", "test")]
    )
    assert sorted(added.tolist()) == sorted([0, 1 if user + 10 < 12 else 2 if user + 10 < 18 else -1] for user in range(USERS))
    assert (newer.split("train").contexts[newer.split("train").times < 1000] == old.split("train").contexts).all()

    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    assert refresh(bundle, tmp_path / "newer", RefreshOptions(golden_slates=20)).swapped
    contexts = {tuple(slate.context.tolist()) for slate in Bundle.open(bundle).golden().slates}
    assert (2, 2) in contexts and len(contexts) > 1, "old slates and new ones"
    ended = run_program("verify", bundle)
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("bins = [0, 5, 12, 18]", "bins = [0, 5, 12, 20]"), "context 'hour' is bins"),
        (('unknown = "missing"', 'unknown = "refuse"'), "is another template than that of"),
        (("@{context.device}", "@{context.page}"), "is another template than that of"),
    ],
)
def test_an_update_with_other_values_is_another_template(
    place: Path, tmp_path: Path, edit: tuple[str, str], message: str
) -> None:
    (tmp_path / "prompt.toml").write_text(WITH_CONTEXT.replace(*edit))
    text = "user_id,item_id,rating,timestamp,device,hour,page\n100,1001,5,1000,tv,3,home"
    (tmp_path / "new.csv").write_text(text)
    arguments = (tmp_path / "new.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml", tmp_path / "newer")
    with pytest.raises(InputError, match=message):
        update_catalog(place / "catalog", *arguments)


LABELS = '[labels]\nyes = "y"\nno = "n"\n'


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[context.page]", "context.page: the prompt places no {context.page}"),
        ('[context.device]\nvalues = ["tv"]\nbins = [0, 1]', "context.device has values and bins, expected one of them"),
        ('[context.device]\nvalues = ["tv", "tv"]', "context.device.values has 'tv' twice"),
        ('[context.device]\nvalues = [7, "7"]', "context.device.values has '7' twice"),
        ('[context.device]\nvalues = [" tv"]', "context.device.values has ' tv', expected texts without outer spaces"),
        ("[context.device]\nvalues = []", "context.device.values is [], expected a list of 1 to 4096"),
        ("[context.device]\nbins = [0]", "context.device.bins is [0], expected at least two edges, ascending"),
        ("[context.device]\nbins = [0, 2, 2]", "context.device.bins is [0, 2, 2], expected at least two edges, ascending"),
        ("[context.device]\nbins = [0, inf]", "context.device.bins has inf, expected finite numbers"),
        ('[context.device]\nbins = [0, 1, 2]\nwords = ["low"]', "context.device.words has 1 words for 2 bins"),
        ('[context.device]\nwords = ["low"]', "context.device.words has 1 words for no values and no bins"),
        ('[context.device]\nunknown = "guess"', "context.device.unknown is 'guess', expected 'refuse' or 'missing'"),
        (
            "[context.device]\nfallback = 1",
            "unknown key context.device.fallback, known are: column, values, bins, words, unknown",
        ),
        ('[context]\ndevice = "tv"', "context.device is 'tv', expected a section [context.device]"),
    ],
)
def test_a_section_that_is_refused(tmp_path: Path, section: str, message: str) -> None:
    (tmp_path / "prompt.toml").write_text(f'prompt = "{{context.device}} {{item.title}}:"\n{LABELS}{section}')
    with pytest.raises(InputError) as raised:
        read_template(tmp_path / "prompt.toml")
    assert str(raised.value).startswith(f"{tmp_path}/prompt.toml: ") and message in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{context.} {item.title}:", "{context.}: expected a name, as in {context.device}"),
        ("{context.device:3} {item.title}:", "{context.device:3}: only lists and their rates take a limit"),
    ],
)
def test_a_placeholder_that_is_refused(tmp_path: Path, prompt: str, message: str) -> None:
    (tmp_path / "prompt.toml").write_text(f'prompt = "{prompt}"\n{LABELS}')
    with pytest.raises(InputError) as raised:
        read_template(tmp_path / "prompt.toml")
    assert message in str(raised.value)


def test_a_column_that_is_missing(place: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.toml").write_text(WITH_CONTEXT.replace("@{context.device}", "@{context.page}"))
    arguments = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), tmp_path / "prompt.toml")
    with pytest.raises(InputError, match=r"no column 'page' \({context.page} of the template\), the file has: user_id"):
        build_catalog(*arguments, tmp_path / "catalog", IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=1)))


def rule(**options: Any) -> ContextRule:
    return ContextRule("device", "device", **options)


def numbered(values: list[Any], given: ContextRule) -> list[int]:
    frame = pl.DataFrame({"context.device": values}, strict=False)
    return with_context_numbers(frame, known_contexts([given], frame, Path("a.csv")), Path("a.csv"))["context.device"].to_list()


def test_cells_become_numbers_of_values() -> None:
    assert numbered(["b ", "a", None, "b"], rule(unknown="missing")) == [1, 0, -1, 1]
    assert numbered(["10", "9", "10"], rule()) == [1, 0, 1], "whole numbers by size"
    assert numbered([10, 9], rule(values=("9", "10"))) == [1, 0]
    assert numbered([0.5, 2, 7.9], rule(edges=(0, 1, 8))) == [0, 1, 1]
    assert numbered(["tv", "radio", ""], rule(values=("tv",), unknown="missing")) == [0, -1, -1]
    assert numbered([True, False], rule()) == [1, 0], "false and true as text"


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (["tv", "radio"], rule(values=("tv",)), "a.csv: row 2: 'context.device' is 'radio', expected one of tv"),
        (["tv", None], rule(), "a.csv: row 2: 'context.device' is None, expected one of tv"),
        ([3, 24], rule(edges=(0, 24)), "a.csv: row 2: 'context.device' is 24, expected a number from 0 to below 24"),
        (["noon"], rule(edges=(0, 24)), "a.csv: row 1: 'context.device' is 'noon', expected a number from 0 to below 24"),
        ([0.5], rule(), "a.csv: column 'device' holds Float64: give [context.device] bins"),
        (list(range(4097)), rule(), "a.csv: column 'device' has 4097 values, a context takes 1 to 4096"),
        ([None, ""], rule(), "a.csv: column 'device' has 0 values"),
    ],
)
def test_cells_that_are_refused(values: list[Any], given: ContextRule, message: str) -> None:
    with pytest.raises(InputError) as raised:
        numbered(values, given)
    assert str(raised.value).startswith(message)


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
