"""Sessions and training assemble the prompts of docs/format/prompt.md, to the token, and exit zero's numbers, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, ITEMS, NEIGHBOURS, USER_IDS, CatalogContents, in_lists, make_catalog
from builders.bundles.zero import COSINES, MISSING, NUMBERS, column_graph, with_numbers, write_zero
from builders.bundles.zero import with_vectors as with_item_vectors
from oracles.assembler import Assembler, Space
from rexit import runtime
from rexit.errors import InputError
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.exporter.retriever.neighbours import Lists, similar_users
from rexit.format.bundle import Catalog


def nothing_known_of_some() -> CatalogContents:
    """Half of the users and items have zero embeddings, half of the items zero `fold_in` rows."""
    info, tables = make_catalog()
    users, items = tables["users.safetensors"], tables["items.safetensors"]
    users["embeddings"][::2] = items["embeddings"][::2] = items["fold_in"][: ITEMS // 2] = 0
    users["similar"] = similar_users(users["embeddings"], items["fold_in"], users, NEIGHBOURS)
    return CatalogContents(info, tables)


def nearly_alike() -> CatalogContents:
    """Users that differ in the last bits of a half, and likes of very different weight: who is nearest hangs on the rounding."""
    info, tables = make_catalog()
    users, items, random = tables["users.safetensors"], tables["items.safetensors"], np.random.default_rng(0)
    alike = users["embeddings"][:1].view(np.int16) + random.integers(-1, 2, users["embeddings"].shape, np.int16)
    users["embeddings"] = alike.view(np.float16)
    scale = 2.0 ** random.integers(-16, 1, (ITEMS, 1))
    items["fold_in"] = (random.normal(size=items["fold_in"].shape) * scale).astype(np.float16)
    users["similar"] = similar_users(users["embeddings"], items["fold_in"], users, NEIGHBOURS)
    return CatalogContents(info, tables)


def with_vectors() -> CatalogContents:
    return make_catalog(vectors=True)


def in_strings() -> CatalogContents:
    return make_catalog(strings=True)


def lists_of_some() -> CatalogContents:
    """A search looks at two of four lists."""
    return listed(nothing_known_of_some())


def lists_nearly_alike() -> CatalogContents:
    """Of centres, too, rounding decides which are nearest."""
    return listed(nearly_alike(), 6)


def listed(contents: CatalogContents, lists: int = 4) -> CatalogContents:
    embeddings = contents.tables["users.safetensors"]["embeddings"]
    made = in_lists(contents, lists)
    users = made.tables["users.safetensors"]
    around = Lists.around(users["centres"], made.info["embedding"]["probes"], embeddings)
    users |= around.tensors(embeddings)
    fold_in = made.tables["items.safetensors"]["fold_in"]
    users["similar"] = similar_users(embeddings, fold_in, users, NEIGHBOURS, around)
    assert (users["similar"] != contents.tables["users.safetensors"]["similar"]).any(), "not all are looked at"
    return made


def more_asked(contents: CatalogContents) -> CatalogContents:
    """The rates of lists too, and the user's count."""
    asked = contents.info["prompt"]
    rate = {"limit": 2, "bins": [2, 3, 5], "missing": 4}
    prompt = {
        **asked,
        "prefix": [*asked["prefix"], {"op": "user_count", "bins": [0, 2, 3]}],
        "candidate": [{"op": "similar_like_rate", **rate}, {"op": "nearest_like_rate", **rate}, *asked["candidate"]],
    }
    return CatalogContents({**contents.info, "prompt": prompt}, contents.tables)


@pytest.mark.parametrize("catalog_of", [nothing_known_of_some, nearly_alike, lists_of_some, lists_nearly_alike])
def test_the_stored_lists_are_what_folding_in_finds_when_all_is_visible(
    tmp_path: Path, catalog_of: Callable[[], CatalogContents]
) -> None:
    """A request without `as_of` reads the list, one in the far future searches."""
    items = [int(item) for item in ITEM_IDS]
    with runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(catalog_of()))) as session:
        for user in USER_IDS:
            (prefix, parts), (folded_prefix, folded_parts) = (session.prompt(user, items, as_of=at) for at in (None, 1 << 40))
            np.testing.assert_array_equal(prefix, folded_prefix)
            assert all((a == b).all() for a, b in zip(parts, folded_parts, strict=True))


@pytest.mark.medium
@pytest.mark.parametrize(
    "catalog_of", [make_catalog, nothing_known_of_some, nearly_alike, with_vectors, lists_of_some, lists_nearly_alike]
)
@pytest.mark.parametrize("seed", range(3))
def test_prompts_are_those_of_the_page(tmp_path: Path, seed: int, catalog_of: Callable[[], CatalogContents]) -> None:
    contents, random = catalog_of(), np.random.default_rng(seed)
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(more_asked(contents)))
    catalog = Catalog.open(bundle / "catalog")
    prompts, space = PromptBuilder(catalog), Space.of(catalog)
    ops = {op["op"] for part in ("prefix", "candidate") for op in catalog.info["prompt"][part]}
    assert {"user_field", "history", "similar_verdict", "item_like_rate"} <= ops, "the tiny catalog exercises the program"
    seen = set()
    with runtime.open(bundle) as session:
        for _ in range(60):
            user = int(random.choice([*USER_IDS, 5]))  # 5 is nobody: folded in
            items = [int(item) for item in random.choice(ITEM_IDS, 6, replace=False)]
            fresh = [(int(item), bool(random.integers(2))) for item in random.choice(ITEM_IDS, random.integers(0, 5))]
            as_of = int(random.integers(0, 120)) if random.random() < 0.7 else None
            book = Assembler(catalog, catalog.users.row(user), as_of, by_row(catalog, fresh), space=space)
            expected = [book.tokens("prefix"), *(book.tokens("candidate", row) for row in catalog.items.rows(items).tolist())]
            prefix, candidates = session.prompt(user, items, as_of=as_of, recent=fresh or None)
            assert [part.tolist() for part in (prefix, *candidates)] == expected
            prompt = prompts.prompt(user, items, as_of, fresh)
            assert [part.tolist() for part in (prompt.prefix, *prompt.candidates)] == expected
            assert prompt.liked.tolist() == [item for item, liked in book.history if liked] and prompt.part is None
            seen.add(prefix.tobytes())
    assert len(seen) > 20, "the requests differ"


def by_row(catalog: Catalog, recent: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    rows = catalog.items.rows([item for item, _ in recent]).tolist()
    return [(row, liked) for row, (_, liked) in zip(rows, recent, strict=True)]


@pytest.mark.medium
@pytest.mark.parametrize("catalog_of", [make_catalog, nothing_known_of_some, nearly_alike, lists_nearly_alike, in_strings])
def test_items_are_retrieved_as_the_page_says(tmp_path: Path, catalog_of: Callable[[], CatalogContents]) -> None:
    """Known users, in the present and before, a new one, dislikes, ties, up to all items; a score, a trace and a prompt are those
    of the same items by name."""
    bundle, random = write_bundle(tmp_path / "bundle", BundleOptions(catalog_of())), np.random.default_rng(0)
    catalog = Catalog.open(bundle / "catalog")
    prompts, space, ids = PromptBuilder(catalog), Space.of(catalog), catalog.items
    users, refused, short = [*catalog.users.take(np.arange(len(catalog.users))), "nobody" if ids.kind == "string" else 5], 0, 0
    with runtime.open(bundle) as session:
        for _ in range(80):
            user, as_of = users[random.integers(len(users))], int(random.integers(0, 70)) if random.random() < 0.7 else None
            fresh = [(int(row), bool(random.integers(2))) for row in random.integers(0, len(ids), random.integers(0, 5))]
            recent = [(ids.id(row), liked) for row, liked in fresh]
            count, row = int(random.integers(1, len(ids) + 1)), catalog.users.row(user)
            expected = Assembler(catalog, row, as_of, fresh, space=space).retrieved(count)
            slate = RowSlate(row, (), as_of, fresh)
            assert [rows.tolist() for rows in prompts.retrieve([slate, slate], count)] == [expected, expected]
            if not expected:
                with pytest.raises(InputError, match=rf"^retrieve is {count}, but user .* likes no item that has an embedding"):
                    session.score(user, retrieve=count, as_of=as_of, recent=recent)
                refused += 1
                continue
            short += len(expected) < count
            items = [ids.id(row) for row in expected]
            answer = session.score(user, retrieve=count, as_of=as_of, recent=recent)
            assert answer.items.tolist() == items and answer == session.score(user, items, as_of=as_of, recent=recent)
            first = session.score(user, retrieve=count, as_of=as_of, recent=recent, top_k=3)
            assert first == session.score(user, items, as_of=as_of, recent=recent, top_k=3)
            trace = session.trace_with_stats(user, retrieve=count, as_of=as_of, recent=recent)
            assert list(trace.items) == items and trace.stats.candidates == len(items)
            np.testing.assert_array_equal(trace.log_odds, session.trace(user, items, as_of=as_of, recent=recent))
            parts = session.prompt(user, retrieve=count, as_of=as_of, recent=recent)[1]
            assert [part.tolist() for part in parts] == [
                part.tolist() for part in session.prompt(user, items, as_of=as_of, recent=recent)[1]
            ]
    assert refused and short


@pytest.mark.medium
@pytest.mark.parametrize("catalog_of", [nothing_known_of_some, nearly_alike, lists_of_some, lists_nearly_alike])
def test_same_numbers_to_the_bit(catalog_of: Callable[[], CatalogContents], tmp_path: Path) -> None:
    numbers = [*NUMBERS, *COSINES, {"op": "score", "name": "bm25"}]
    contents = with_numbers(with_item_vectors(catalog_of()), numbers)
    scores = np.linspace(-30, 30, len(ITEM_IDS), dtype=np.float32)
    sessions = []
    for column in range(len(numbers)):
        bundle = write_bundle(tmp_path / str(column), BundleOptions(contents))
        write_zero(bundle, column_graph(len(numbers), column))
        sessions.append(runtime.open(bundle))
    catalog = Catalog.open(tmp_path / "0" / "catalog")
    builder, space = PromptBuilder(catalog), Space.of(catalog)
    recent = [(ITEM_IDS[4], True), (ITEM_IDS[17], False), (ITEM_IDS[3], True)]
    for user in (*USER_IDS, -1):
        for fields in ({}, {"as_of": 40}, {"recent": recent}, {"as_of": 30, "recent": recent}):
            as_of, fresh = fields.get("as_of"), fields.get("recent", [])
            table = builder.numbers(user, ITEM_IDS, as_of, fresh, {"bm25": scores})
            book = Assembler(catalog, catalog.users.row(user), as_of, by_row(catalog, fresh), space=space)
            rows = zip(catalog.items.rows(ITEM_IDS).tolist(), scores.tolist(), strict=True)
            np.testing.assert_array_equal(table, np.float32([book.numbers(row, score) for row, score in rows]))
            for column, session in enumerate(sessions):
                values = session.score(user, ITEM_IDS, force_exit=0, scores={"bm25": scores}, **fields).log_odds
                values = np.where(values == MISSING, np.float32(np.nan), values)
                np.testing.assert_array_equal(values, table[:, column], f"{numbers[column]} of {user}, {fields}")
