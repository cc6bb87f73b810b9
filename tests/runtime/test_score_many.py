"""Slates of several users in one pass."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog
from builders.bundles.variants import FUSED
from rexit import runtime
from rexit.errors import DeadlineError, InputError
from rexit.runtime import Request, Scores, Session, StopRule, TokenRequest

CLOSE = {"rtol": 1e-4, "atol": 1e-3}


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fused") / "bundle", BundleOptions(variants=(FUSED,)))


def separately(session: Session, slate: Request) -> Scores:
    return session.score(
        slate.user,
        slate.items,
        recent=slate.recent,
        as_of=slate.as_of,
        top_k=slate.top_k,
        force_exit=slate.force_exit,
        policy=slate.policy,
    )


def assert_alike(actual: object, expected: Scores) -> None:
    assert isinstance(actual, Scores)
    for name in ("items", "index", "exit", "layers", "cut_short"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
    np.testing.assert_allclose(actual.log_odds, expected.log_odds, **CLOSE)
    assert actual.stats.candidate_layers == expected.stats.candidate_layers


def test_scores_are_those_of_separate_calls(fused: Path) -> None:
    rule = StopRule([3, 3, math.inf], [3, 3, math.inf])
    slates = [
        Request(USER_IDS[0], ITEM_IDS[:3], as_of=40),
        Request(USER_IDS[3], ITEM_IDS[:4], policy=rule),
        Request(9999, ITEM_IDS[4:6], recent=[ITEM_IDS[1], (ITEM_IDS[2], False)], force_exit=1),
        Request(USER_IDS[1], np.array(ITEM_IDS[:5]), top_k=2),
    ]
    with runtime.open(fused, FUSED) as together, runtime.open(fused, FUSED) as alone:
        for result, slate in zip(together.score_many(iter(slates)), slates, strict=True):
            assert_alike(result, separately(alone, slate))
        assert together.score_many([]) == []


def test_errors_stand_in_their_requests_places(fused: Path) -> None:
    with runtime.open(fused, FUSED) as session:
        good = Request(USER_IDS[0], ITEM_IDS[:2])
        expected = separately(session, good)
        unknown, wrong, late, text, first, last = session.score_many(
            [
                Request(USER_IDS[0], [ITEM_IDS[0], 4]),
                Request(USER_IDS[0], ITEM_IDS[:2], force_exit=3),
                Request(USER_IDS[0], ITEM_IDS[:2], deadline_ms=0.001),
                Request(USER_IDS[0], [1.5]),
                good,
                good,
            ]
        )
        assert isinstance(unknown, InputError) and unknown.status == "REXIT_UNKNOWN_ITEM" and "item 4" in str(unknown)
        assert isinstance(wrong, InputError) and "force_exit is 3" in str(wrong)
        assert isinstance(late, DeadlineError)
        assert isinstance(text, InputError) and "items[0] is 1.5" in str(text)
        assert_alike(first, expected)
        assert_alike(last, expected)


def test_token_requests(fused: Path) -> None:
    with runtime.open(fused, FUSED) as together, runtime.open(fused, FUSED) as alone:
        prompts = [alone.prompt(user, ITEM_IDS[:3]) for user in USER_IDS[:3]]
        slates = [TokenRequest(*prompts[0]), TokenRequest(*prompts[1], top_k=2), TokenRequest(*prompts[2], force_exit=1)]
        wrong = TokenRequest([1.5], [[1]]), TokenRequest([1], [[-1]])
        *results, no_integer, no_token = together.score_many([*slates, *wrong])
        for result, slate in zip(results, slates, strict=True):
            expected = alone.score_tokens(slate.prefix, slate.candidates, top_k=slate.top_k, force_exit=slate.force_exit)
            assert_alike(result, expected)
        assert isinstance(no_integer, InputError) and "prefix" in str(no_integer)
        assert isinstance(no_token, InputError) and "is -1, expected a token id" in str(no_token)
        with pytest.raises(
            InputError, match=r"requests\[1\] is Request\(.*, expected a rexit.runtime.TokenRequest like the first"
        ):
            together.score_many([slates[0], Request(USER_IDS[0], ITEM_IDS[:2])])  # type: ignore[list-item]


def test_anything_else_is_no_request(fused: Path) -> None:
    with runtime.open(fused, FUSED) as session, pytest.raises(InputError, match=r"requests\[1\] is \(1, \[2\]\), expected"):
        session.score_many([Request(USER_IDS[0], ITEM_IDS[:2]), (1, [2])])  # type: ignore[list-item]


def test_prefixes_with_the_vectors_of_their_users(tmp_path: Path) -> None:
    """All prefixes have the same ids; the vector among them is each user's own."""
    catalog = make_catalog(vectors=True)
    text = {"op": "piece", "piece": 0}, {"op": "piece", "piece": 1}
    catalog.info["prompt"] |= {"prefix": [*text, {"op": "user_vector"}, *text]}
    folder = write_bundle(tmp_path / "bundle", BundleOptions(catalog, variants=(FUSED,)))
    slates = [Request(user, ITEM_IDS[:3]) for user in USER_IDS[:3]]
    with runtime.open(folder, FUSED) as together, runtime.open(folder, FUSED) as alone:
        results = together.score_many(slates)
        assert len({tuple(result.log_odds) for result in results if isinstance(result, Scores)}) == 3
        for result, slate in zip(results, slates, strict=True):
            assert_alike(result, separately(alone, slate))


def test_a_users_vector_among_the_candidates(tmp_path: Path) -> None:
    """Such requests run one after the other: two users' vectors have the same id."""
    catalog = make_catalog(vectors=True)
    catalog.info["prompt"]["candidate"].insert(1, {"op": "user_vector"})
    folder = write_bundle(tmp_path / "bundle", BundleOptions(catalog, variants=(FUSED,)))
    slates = [Request(user, ITEM_IDS[:2]) for user in USER_IDS[:3]]
    with runtime.open(folder, FUSED) as together, runtime.open(folder, FUSED) as alone:
        for result, slate in zip(together.score_many(slates), slates, strict=True):
            assert_alike(result, separately(alone, slate))


def test_objectives_and_their_weights(tmp_path: Path) -> None:
    """Each request has its own weights, and its probabilities stand in the order of its scores."""
    folder = write_bundle(tmp_path / "bundle", BundleOptions(objectives=("click", "like"), variants=(FUSED,)))
    slates = [
        Request(USER_IDS[0], ITEM_IDS[:4], top_k=3),
        Request(USER_IDS[1], ITEM_IDS[:3], weights={"click": 0.0, "like": 1.0}),
        Request(USER_IDS[0], ITEM_IDS[:4], weights={"click": 1.0, "like": -0.5}),
    ]
    with runtime.open(folder, FUSED) as together, runtime.open(folder, FUSED) as alone:
        for result, slate in zip(together.score_many(slates), slates, strict=True):
            expected = alone.score(slate.user, slate.items, top_k=slate.top_k, weights=slate.weights)
            assert_alike(result, expected)
            assert isinstance(result, Scores)
            np.testing.assert_allclose(result.probabilities, expected.probabilities, **CLOSE)
