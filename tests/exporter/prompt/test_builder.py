"""The assembler against docs/format.md read literally: plain lists of interactions, texts instead of tokens."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from builders.data import ratings
from oracles.assembler import Assembler, Space, shown_from
from rexit.errors import InputError
from rexit.exporter.prompt.builder import Prompt, PromptBuilder, RowSlate
from rexit.exporter.retriever.lightgcn import EVALUATE_EVERY
from rexit.format.bundle import Catalog

# A list of four drops two at a time.
SHOWN_FROM = [0, 0, 0, 0, 0, *(first for first in range(2, 40, 2) for _ in range(2))]
SHARED = ("job", "user.like_rate", "user.count", "recent", "similar_liked")
OWN = ("fields", "item.like_rate", "count", "similar_verdict", "nearest", "similar_like_rate", "nearest_like_rate")
NAMES = (*SHARED, *OWN)
TRAINING = 190  # the first time of the `train` split, for every user
Recent = list[tuple[int, bool]]


@dataclass
class Case:
    """A catalog, its builder, and the interactions it was made of: user -> [(time, item, liked)] in catalog order."""

    catalog: Catalog
    rated: pl.DataFrame

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.catalog.path.parent / "tok" / "tokenizer.json"))

    @cached_property
    def builder(self) -> PromptBuilder:
        return PromptBuilder(self.catalog)

    @cached_property
    def by_user(self) -> dict[int, list[tuple[int, int, bool]]]:
        rows = self.rated.sort("timestamp", "item_id").rows()
        return {u: [(t, i, r >= 4) for user, i, r, t in rows if user == u] for u in range(1, ratings.USERS + 1)}

    def parts(self, slate: Prompt) -> list[dict[str, str]]:
        """Each candidate's whole prompt, cut at the bars."""
        whole = [np.concatenate([slate.prefix, candidate]) for candidate in slate.candidates]
        return [dict(zip((*NAMES, "end"), self.tokenizer.decode(t).split("|"), strict=True)) for t in whole]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(ratings.index(tmp_path_factory.mktemp("prompts"), epochs=10), ratings.interactions())


def expected(case: Case, user: int | None, item: int, as_of: int | None, recent: Recent) -> dict[str, str]:
    def visible(of: int) -> list[tuple[int, int, bool]]:
        return [event for event in case.by_user[of] if as_of is None or event[0] < as_of]

    def entry(item: int, liked: bool) -> str:
        return f" Film {item}{' yes' if liked else ' no'};"

    def rate(verdicts: list[bool]) -> str:
        return f"{(sum(verdicts) + 1) * 10 // (len(verdicts) + 2) * 10}%" if verdicts else "unknown"

    def count(entries: list[Any]) -> str:
        return ["0", "2^0", "2^1", "2^2", "2^3", "2^4"][min(5, len(entries).bit_length())]

    users, items = case.catalog.user_table, case.catalog.item_table
    known = user is not None and user in case.by_user
    history = [(i, liked) for _, i, liked in visible(user)] if known else []  # type: ignore[arg-type]
    history += recent
    # Folded in for every user and moment: the stored lists are a cache of it.
    folded = sum((items["fold_in"][i - 1].astype(float) for i, liked in history if liked), np.zeros(8))
    folded = (folded / 2.0 ** np.frexp(abs(folded).max())[1]).astype(np.float16).astype(float)
    order = sorted(case.by_user, key=lambda u: (-float(users["embeddings"][u - 1].astype(float) @ folded), u))
    similar = [u for u in order if u != user and users["embeddings"][u - 1].any()][:6] if folded.any() else []
    liked_items: list[int] = []
    for neighbour in similar:
        likes = [i for _, i, liked in reversed(visible(neighbour)) if liked]
        new = [i for i in dict.fromkeys(likes) if i not in liked_items and i not in [i for i, _ in history]]
        liked_items = [*liked_items, *new[: -(-6 // len(similar))]][:6]
    place, latest = {i: n for n, (i, _) in enumerate(history)}, dict(history)

    def closeness(other: int) -> float:
        return float(items["embeddings"][other - 1].astype(float) @ items["embeddings"][item - 1].astype(float))

    known_items = [i for i in latest if i != item and items["embeddings"][i - 1].any() and items["embeddings"][item - 1].any()]
    nearest = sorted(known_items, key=lambda i: (-closeness(i), -place[i]))[:3]
    of_item = [liked for u in case.by_user for _, i, liked in visible(u) if i == item]
    likes_of_similar = [[liked for _, i, liked in visible(u) if i == item] for u in similar[:5]]
    year = ratings.items()["year"][item - 1]
    return {
        "job": ratings.users()["job"][user - 1] if known else "unknown",  # type: ignore[operator]
        "user.like_rate": rate([liked for _, liked in history]),
        "user.count": count(history),
        "recent": "".join(entry(*event) for event in history[SHOWN_FROM[len(history)] :]) or " none",
        "similar_liked": "".join(f" Film {i};" for i in liked_items) or " none",
        "fields": f"Film {item} of {'unknown' if year is None else year}",
        "item.like_rate": rate(of_item),
        "count": count(of_item),
        "similar_verdict": "".join((" yes" if v[-1] else " no") if v else " unseen" for v in likes_of_similar) or " unseen",
        "nearest": "".join(entry(i, latest[i]) for i in nearest) or " none",
        "similar_like_rate": rate([v[-1] for v in likes_of_similar if v]),
        "nearest_like_rate": rate([latest[i] for i in nearest]),
        "end": "Answer:",
    }


FRESH: Recent = [(3, True), (8, False), (3, False), (40, True)]


@pytest.mark.parametrize("recent", [[], FRESH, [(5, False)]], ids=["no fresh", "fresh", "fresh, none liked"])
@pytest.mark.parametrize("as_of", [None, ratings.LATE + 18, 200, 110, 0])
def test_every_placeholder_against_the_definition(case: Case, as_of: int | None, recent: Recent) -> None:
    items = list(range(1, ratings.ITEMS + 1, 3))
    for user in (1, 2, 17, 24, 999):
        actual = case.parts(case.builder.prompt(user, items, as_of, recent))
        assert actual == [expected(case, user, item, as_of, recent) for item in items]


@pytest.mark.medium
@pytest.mark.parametrize("training", [False, True], ids=["test", "train"])
def test_interactions_later_than_as_of_reach_no_placeholder(tmp_path: Path, training: bool) -> None:
    """The leak test: all that happens from a moment on becomes something else. No prompt as of that moment may change: the first
    of the test split, and one in the midst of training, whose prompts may not retrieve with what training prompts are asked."""
    since = TRAINING if training else ratings.LATE
    rated, rng = ratings.interactions(), np.random.default_rng(1)
    late = pl.col("timestamp") >= since
    planted = rated.with_columns(
        item_id=pl.when(late).then(pl.Series(rng.integers(1, ratings.ITEMS + 1, len(rated)))).otherwise("item_id"),
        rating=pl.when(late).then(6 - pl.col("rating")).otherwise("rating"),
    )
    # One evaluation: what validation chooses, the epoch, is no matter of this test.
    case, other = (
        Case(ratings.index(tmp_path / name, rated=table, epochs=EVALUATE_EVERY), table)
        for name, table in (("unchanged", rated), ("planted", planted))
    )
    assert (case.catalog.split("train").times < since).any() and (case.catalog.split("train").times >= since).any() == training
    builders = [PromptBuilder(event.catalog, training) for event in (case, other)]
    changed: set[str] = set()
    items = list(range(1, ratings.ITEMS + 1))
    for user in (*range(1, ratings.USERS + 1), 999):
        recent = [(1, True)] if user == 999 else []
        if user != 999 or not training:
            before, planted_before = (case.parts(builder.prompt(user, items, since, recent)) for builder in builders)
            assert before == planted_before
        after, planted_after = (c.parts(c.builder.prompt(user, items, None, recent)) for c in (case, other))
        changed |= {name for a, b in zip(after, planted_after, strict=True) for name in a if a[name] != b[name]}
    # Other items and other verdicts: how many a user has met stays the same.
    assert changed == set(NAMES) - {"job", "user.count", "fields"}, "what was planted must show without as_of"


@pytest.mark.parametrize(("limit", "step"), [(1, 1), (2, 1), (3, 1), (10, 5), (11, 5)])
def test_a_list_of_recent_interactions_grows_at_its_end_and_drops_half_at_a_time(limit: int, step: int) -> None:
    lists = [list(range(shown_from(n, limit), n)) for n in range(60)]
    assert lists[limit] == list(range(limit)), "all of a short history"
    for before, after in itertools.pairwise(lists):
        grown = after[:-1] == before
        assert grown or (len(before) == limit and after[:-1] == before[step:])
        assert after[-1] == before[-1] + 1 if before else after == [0]
    assert {len(event) for event in lists[limit:]} == set(range(limit - step + 1, limit + 1))


def test_an_interaction_at_as_of_is_not_visible(case: Case) -> None:
    first = case.by_user[1][0][0]
    assert case.parts(case.builder.prompt(1, [1], first))[0]["recent"] == " none"
    assert case.parts(case.builder.prompt(1, [1], first + 1))[0]["recent"] != " none"


def test_without_a_training_like_there_is_no_similar_user(tmp_path: Path) -> None:
    """User 24 liked nothing, nobody liked item 3: no embedding, nothing to fold in. 24's own history is shown."""
    nothing = (pl.col("user_id") == 24) | (pl.col("item_id") == 3)
    rated = ratings.interactions().with_columns(rating=pl.when(nothing).then(1).otherwise("rating"))
    catalog = ratings.index(tmp_path, rated=rated, epochs=10)
    case = Case(catalog, rated)
    assert not catalog.user_table["embeddings"][23].any() and not catalog.item_table["fold_in"][2].any()
    for user, recent in ((24, []), (24, [(3, True)]), (999, [(3, True), (5, False)])):
        parts = case.parts(case.builder.prompt(user, [1, 2, 3], None, recent))
        assert {(part["similar_liked"], part["similar_verdict"]) for part in parts} == {(" none", " unseen")}
        assert all(part["nearest"] != " none" for part in parts[:2])
    everything = RowSlate(None, [0], None, [(row, True) for row in range(ratings.ITEMS) if row != 2])
    (folded,) = case.builder.prompts([everything])
    assert case.parts(folded)[0]["similar_liked"] == " none"  # everything was met
    assert case.parts(folded)[0]["similar_verdict"] != " unseen"


def test_an_item_without_an_embedding_is_near_to_nothing(case: Case, tmp_path: Path) -> None:
    catalog = replace(case.catalog, path=tmp_path / "catalog")
    for name in ("catalog", "tok"):
        shutil.copytree(case.catalog.path.parent / name, tmp_path / name)
    items = {**catalog.item_table, "embeddings": catalog.item_table["embeddings"].copy()}
    for without in (8, 40):
        items["embeddings"][without - 1] = 0
    save_file(items, catalog.path / "items.safetensors")
    other = Case(catalog, case.rated)
    recent: Recent = [(8, True), (3, True)]
    assert [part["nearest"] for part in other.parts(other.builder.prompt(999, [40, 1, 8], None, recent))] == [
        " none", " Film 3 yes;", " none",
    ]  # fmt: skip


def test_ids_and_rows_give_the_same_slate(case: Case) -> None:
    slate = case.builder.prompt(5, [7, 9], 200, FRESH)
    assert slate.prefix.dtype == np.int32 and all(c.dtype == np.int32 for c in slate.candidates)
    (by_row,) = case.builder.prompts([RowSlate(4, [6, 8], 200, [(i - 1, v) for i, v in FRESH])])
    assert (by_row.candidates[0] == slate.candidates[0]).all()
    assert case.builder.prompt(5, []).candidates == []


def test_no_prompt_is_longer_than_the_catalog_says(case: Case) -> None:
    prompt = case.catalog.info["prompt"]
    slates = [case.builder.prompt(u, list(range(1, ratings.ITEMS + 1))) for u in case.by_user]
    longest = max(len(s.prefix) for s in slates), max(len(c) for s in slates for c in s.candidates)
    assert longest[0] <= prompt["max_prefix_tokens"] <= longest[0] * 2
    assert longest[1] <= prompt["max_candidate_tokens"] <= longest[1] * 2


def test_an_item_that_is_not_in_the_catalog_is_named(case: Case) -> None:
    with pytest.raises(InputError, match="item 41 is not in the catalog"):
        case.builder.prompt(1, [1, 41])
    with pytest.raises(InputError, match="item 'x' is not in the catalog"):
        case.builder.prompt(1, [1], recent=[("x", True)])


def test_the_first_part_of_a_history_retrieves_nothing_and_later_ones_what_was_known_before(case: Case) -> None:
    builder = PromptBuilder.of(case.catalog, "train")
    begins = case.catalog.snapshots["begins"]
    first, last = int(case.catalog.user_table["history_times"][:1][0]) + 1, int(begins[0, -1])
    nearest, similar = ([case.parts(b.prompt(1, [7], as_of))[0] for as_of in (first, last)] for b in (builder, case.builder))
    assert nearest[0]["nearest"] == " none" != similar[0]["nearest"]
    assert nearest[1]["nearest"] != " none"
    with pytest.raises(ValueError, match="needs a known user and `as_of`"):
        builder.prompt(1, [7])
    with pytest.raises(ValueError, match="needs a known user and `as_of`"):
        builder.prompt(999, [7], last)


def test_training_prompts_are_those_of_the_page_with_the_snapshot_of_their_part(case: Case) -> None:
    builder, split, tables = PromptBuilder.of(case.catalog, "train"), case.catalog.split("train"), case.catalog.snapshots
    places = range(0, len(split), 29)
    slates = [RowSlate(int(split.users[n]), split.items[n : n + 3], int(split.times[n])) for n in places]
    parts = set()
    for slate, prompt in zip(slates, builder.prompts(slates), strict=True):
        part = int((tables["begins"][slate.user] <= slate.as_of).sum())
        space = Space(*(tables[name][part - 1] for name in ("users", "items", "fold_in"))) if part else None
        book = Assembler(case.catalog, slate.user, slate.as_of, space=space)
        expected = [book.tokens("prefix"), *(book.tokens("candidate", int(item)) for item in slate.items)]
        assert [tokens.tolist() for tokens in (prompt.prefix, *prompt.candidates)] == expected
        assert prompt.part == part
        parts.add(part)
    assert len(parts) > 2
