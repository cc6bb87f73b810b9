"""Requests with a deadline: what is answered when time is up."""

from __future__ import annotations

import numpy as np
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from rexit import runtime
from rexit.errors import DeadlineError

USER, AS_OF = USER_IDS[2], 40
CLOSE = {"rtol": 1e-4, "atol": 1e-3}


def test_deadline_before_the_first_exit(session: runtime.Session) -> None:
    with pytest.raises(DeadlineError) as caught:
        session.score(USER, ITEM_IDS, deadline_ms=0.001)
    assert caught.value.status == "REXIT_DEADLINE"


@pytest.mark.parametrize("top_k", [0, 15_000])
def test_deadline_amid_the_first_segment(session: runtime.Session, top_k: int) -> None:
    items = ITEM_IDS * 1000
    for _ in range(20):  # how fast the machine is now, it may not be in a moment
        known = session.score(USER, items, as_of=AS_OF, force_exit=0)
        deadline_ms = (known.stats.retrieval_us + known.stats.slate_us / 3) / 1000
        try:
            scores = session.score(USER, items, as_of=AS_OF, force_exit=0, deadline_ms=deadline_ms, top_k=top_k)
        except DeadlineError:
            continue
        answered = scores.exit >= 0
        if answered.any() and not answered.all():
            break
    else:
        pytest.fail("never cut short amid the first segment")
    assert len(scores) == (top_k or len(items))
    count = int(answered.sum())
    assert answered[:count].all(), "those without an answer come last"
    np.testing.assert_array_equal(scores.exit, np.where(answered, 0, -1))
    np.testing.assert_array_equal(scores.cut_short, ~answered)
    for numbers in (scores.log_odds, scores.probability):
        np.testing.assert_array_equal(np.isnan(numbers), ~answered)
    np.testing.assert_allclose(scores.log_odds[:count], known.log_odds[scores.index[:count]], **CLOSE)
    if top_k:
        assert (np.diff(scores.log_odds[:count]) <= 0).all()
    assert scores.stats.slate_us > 0


def test_deadline_far_away_changes_nothing(session: runtime.Session) -> None:
    assert not session.score(USER, ITEM_IDS, deadline_ms=1e9).cut_short.any()
