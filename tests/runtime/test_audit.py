"""`runtime.open(…, audit=share)` and `Session.audit`: the request as it was, scored again at full depth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from rexit import runtime
from rexit.errors import InputError
from rexit.runtime import Draw, StopRule

EARLY = StopRule([0.5, 0.2, math.inf], [0.5, 0.2, math.inf])


def audited(folder: Path, share: float = 1.0) -> runtime.Session:
    return runtime.open(folder, audit=share, audit_seed=1)


def assert_full_depth(audit: runtime.Audit | None, policy: runtime.Scores, full: runtime.Scores) -> None:
    """full: the same request with force_exit at the last exit, in the same session."""
    assert audit is not None
    assert audit.full_c.tolist() == full.log_odds.tolist(), "to the bit"
    assert audit.exit[policy.index].tolist() == policy.exit.tolist()
    assert audit.policy_c[policy.index].tolist() == policy.log_odds.tolist()


def test_full_depth_is_that_of_the_same_request(folder: Path) -> None:
    options: dict[str, Any] = {"recent": [ITEM_IDS[1], (ITEM_IDS[2], False)], "as_of": 40}
    with audited(folder) as session:
        policy = session.score(USER_IDS[0], ITEM_IDS[:6], policy=EARLY, top_k=4, **options)
        assert policy.stats.draw == Draw.DRAWN and "draw" not in policy.stats.to_dict()
        assert session.score(USER_IDS[1], ITEM_IDS[:3], policy=EARLY).stats.draw == Draw.SKIPPED_WAITING
        audit = session.audit()
        assert_full_depth(audit, policy, session.score(USER_IDS[0], ITEM_IDS[:6], force_exit=2, **options))
        assert audit is not None and (audit.drawn, audit.audited, audit.skipped) == (2, 1, 1)
        assert session.audit() is None


@pytest.mark.parametrize("share", [1.5, -0.1, math.nan, "1", True])
def test_a_share_outside_0_to_1_is_one_line(folder: Path, share: Any) -> None:
    with pytest.raises(InputError, match=rf"^audit is {share!r}, expected a share from 0 to 1$"):
        runtime.open(folder, audit=share)
