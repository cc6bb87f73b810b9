"""Vectors in prompts: what a bundle with them scores, against the same model in NumPy, which has neither prefix nor packing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import ITEM_IDS, ITEMS, USER_IDS, CatalogContents, make_catalog
from builders.bundles.model import VOCABULARY, make_weights, reference, vectors_by_id
from rexit import runtime
from rexit.errors import InputError
from rexit.format.request import Request

USER, AS_OF = USER_IDS[2], 40
USERS_ID = VOCABULARY + 3 * ITEMS
"""Behind one vector of `gcn` and two of `title:2` for each item."""
CLOSE = {"rtol": 1e-4, "atol": 1e-3}

Recent = Sequence[tuple[int, bool]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("vectors") / "bundle", BundleOptions(make_catalog(vectors=True)))


def alike(tmp_path: Path) -> Path:
    """Everybody's prefix has the same ids: three tokens, the user's vector, three tokens."""
    catalog = make_catalog(vectors=True)
    text = {"op": "piece", "piece": 0}, {"op": "piece", "piece": 1}
    catalog.info["prompt"] |= {"prefix": [*text, {"op": "user_vector"}, *text]}
    return write_bundle(tmp_path / "alike", BundleOptions(catalog))


def liked(catalog: CatalogContents, user: int | None, as_of: int | None, recent: Recent = ()) -> NDArray[np.int64]:
    """Rows of the items that the user's vector is made of."""
    users = catalog.tables["users.safetensors"]
    rows: list[int] = []
    if user in USER_IDS:
        begin, end = users["history_offsets"][USER_IDS.index(user) :][:2]
        for n in range(begin, end):
            if users["history_liked"][n] and (as_of is None or users["history_times"][n] < as_of):
                rows.append(int(users["history_items"][n]))
    return np.array([*rows, *(ITEM_IDS.index(item) for item, verdict in recent if verdict)], np.int64)


def expected(
    folder: Path, user: int | None, items: Sequence[int], as_of: int | None = None, recent: Recent = ()
) -> NDArray[np.float64]:
    """Log-odds [items, exits] of the prompts that the runtime makes."""
    with runtime.open(folder) as session:
        prefix, candidates = session.prompt(user, items, as_of=as_of, recent=recent)
    given = load_file(folder / "vectors.safetensors")
    tables = {name: given[name] for name in ("gcn", "title:2", "user", "user.none")}  # in the order of the program
    vectors = vectors_by_id(tables, liked(make_catalog(), user, as_of, recent))
    weights = make_weights()
    return np.array([reference(weights, prefix, candidate, vectors) for candidate in candidates])


def test_ids_in_prompts(folder: Path) -> None:
    catalog = make_catalog(vectors=True)
    fields = catalog.tables["users.safetensors"], catalog.tables["pieces.safetensors"]
    with runtime.open(folder) as session:
        prefix, candidates = session.prompt(USER, [ITEM_IDS[5], ITEM_IDS[7]])
    first = fields[1]["offsets"][1]
    assert prefix[: first + 1].tolist() == [*fields[1]["tokens"][:first], USERS_ID]
    for item, candidate in zip((5, 7), candidates, strict=True):
        title = VOCABULARY + ITEMS + 2 * item
        assert candidate[:2].tolist() == [title, title + 1]
        assert VOCABULARY + item in candidate.tolist()
        assert max(candidate) < USERS_ID
    assert sum(VOCABULARY <= id < VOCABULARY + ITEMS for id in prefix) == 3  # of nine interactions a list of four drops six


def test_tokens_are_no_vectors(folder: Path) -> None:
    with runtime.open(folder) as session:
        assert session.info.vocabulary == VOCABULARY
        prefix, candidates = session.prompt(USER, [ITEM_IDS[5]])
        at = int((prefix >= VOCABULARY).argmax())
        with pytest.raises(InputError, match=rf"prefix\[{at}\] is {prefix[at]}, expected a token id from 0 to {VOCABULARY - 1}"):
            session.trace(Request.tokens(prefix, candidates))
        words = [tokens[tokens < VOCABULARY] for tokens in (prefix, *candidates)]
        assert np.isfinite(session.trace(Request.tokens(words[0], words[1:]))).all()


@pytest.mark.medium
@pytest.mark.parametrize("recent", [(), ((ITEM_IDS[3], True), (ITEM_IDS[4], False), (ITEM_IDS[3], True))])
@pytest.mark.parametrize("user", [USER, USER_IDS[-1], 7777])  # the last one of the catalog has no history
@pytest.mark.parametrize("as_of", [AS_OF, None])
def test_trace_is_the_reference(folder: Path, user: int, as_of: int | None, recent: Recent) -> None:
    with runtime.open(folder) as session:
        trace = session.trace(user, ITEM_IDS, as_of=as_of, recent=recent)
    np.testing.assert_allclose(trace, expected(folder, user, ITEM_IDS, as_of, recent), **CLOSE)


@pytest.mark.parametrize("max_tokens", [1, 17, 40, 10_000])
def test_chunks_do_not_change_scores(max_tokens: int, tmp_path: Path, folder: Path) -> None:
    options = BundleOptions(make_catalog(vectors=True), max_tokens=max_tokens)
    with runtime.open(write_bundle(tmp_path / "bundle", options)) as session:
        np.testing.assert_allclose(session.trace(USER, ITEM_IDS), expected(folder, USER, ITEM_IDS), **CLOSE)


def test_cold_cached_and_partly_reused_prefixes_score_the_same(folder: Path) -> None:
    recent = [(ITEM_IDS[row], verdict) for row, verdict in ((3, True), (9, False), (4, True), (12, False), (1, False))]
    with runtime.open(folder) as session:
        cold = session.trace_with_stats(USER, ITEM_IDS)
        cached = session.trace_with_stats(USER, ITEM_IDS)
        np.testing.assert_array_equal(cached.log_odds, cold.log_odds)
        assert cached.stats.prefix_tokens_reused == cached.stats.prefix_tokens
    shared = 0
    for more in range(len(recent)):
        with runtime.open(folder) as session:
            session.trace(USER, ITEM_IDS, recent=recent[:more])
            # The next one is disliked, so the user's vector stays: what is ahead of the history is reused.
            longer = recent[: more + 1]
            trace = session.trace_with_stats(USER, ITEM_IDS, recent=longer)
            shared += 0 < trace.stats.prefix_tokens_reused < trace.stats.prefix_tokens
            np.testing.assert_allclose(trace.log_odds, expected(folder, USER, ITEM_IDS, recent=longer), **CLOSE)
    assert shared


@pytest.mark.medium
def test_users_whose_ids_are_the_same_share_no_vector(tmp_path: Path) -> None:
    """Each prefix is reused as far as the user's vector, and the vector itself never."""
    folder = alike(tmp_path)
    with runtime.open(folder) as session:
        for user in (*USER_IDS, 7777, *USER_IDS):
            np.testing.assert_allclose(session.trace(user, ITEM_IDS[:3]), expected(folder, user, ITEM_IDS[:3]), **CLOSE)
        session.clear_cache()
        first = session.trace_with_stats(USER_IDS[0], ITEM_IDS[:3])
        other = session.trace_with_stats(USER_IDS[1], ITEM_IDS[:3])
        assert (first.stats.prefix_tokens, first.stats.prefix_tokens_reused, other.stats.prefix_tokens_reused) == (7, 0, 3)
        prompts = [session.prompt(user, ITEM_IDS[:1])[0].tolist() for user in USER_IDS[:2]]
        assert prompts[0] == prompts[1]
        # Of those without a like the vectors are the same too.
        strangers = [session.trace_with_stats(user, ITEM_IDS[:3]) for user in (USER_IDS[-1], 7777)]
        assert strangers[1].stats.prefix_tokens_reused == 7


def test_one_user_at_two_moments_shares_no_vector(tmp_path: Path) -> None:
    folder = alike(tmp_path)
    moments = [20, 40, None]
    assert len({len(liked(make_catalog(), USER, moment)) for moment in moments}) == 3
    with runtime.open(folder) as session:
        for moment in [*moments, *moments]:
            trace = session.trace(USER, ITEM_IDS[:3], as_of=moment)
            np.testing.assert_allclose(trace, expected(folder, USER, ITEM_IDS[:3], moment), **CLOSE)
        fresh = [(ITEM_IDS[6], True)]
        trace = session.trace(USER, ITEM_IDS[:3], recent=fresh)
        np.testing.assert_allclose(trace, expected(folder, USER, ITEM_IDS[:3], None, fresh), **CLOSE)


def test_rounding_of_the_users_vector(tmp_path: Path) -> None:
    """Sums that float32 cannot hold: halves as far apart as they get, liked several times."""
    folder = alike(tmp_path)
    tables = load_file(folder / "vectors.safetensors")
    tables["user"][6], tables["user"][7], tables["user"][8] = np.float16(60_000), np.float16(6e-8), np.float16(-60_000)
    save_file(tables, folder / "vectors.safetensors")
    refresh(folder)
    recent = [(ITEM_IDS[row], True) for row in (6, 7, 8, 7, 7)]
    with runtime.open(folder) as session:
        trace = session.trace(7777, ITEM_IDS[:3], recent=recent)
        np.testing.assert_allclose(trace, expected(folder, 7777, ITEM_IDS[:3], None, recent), **CLOSE)
        for turned in (recent[::-1], recent[2:] + recent[:2]):  # the sum is exact, so its order is of no importance
            again = session.trace_with_stats(7777, ITEM_IDS[:3], recent=turned)
            assert again.stats.prefix_tokens_reused == 7
            np.testing.assert_array_equal(again.log_odds, trace)


def test_a_pass_without_a_vector(tmp_path: Path) -> None:
    """Vectors in the candidates alone: the prefix's pass has none."""
    catalog = make_catalog(vectors=True)
    catalog.info["prompt"] |= {"prefix": [{"op": "piece", "piece": 0}, {"op": "piece", "piece": 1}]}
    folder = write_bundle(tmp_path / "bundle", BundleOptions(catalog))
    with runtime.open(folder) as session:
        np.testing.assert_allclose(session.trace(USER, ITEM_IDS), expected(folder, USER, ITEM_IDS), **CLOSE)
