"""Sessions reload a bundle that is refreshed under them: no error, and every answer is of one catalog."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.grown_catalog import NEW
from rexit import runtime
from rexit.errors import InputError
from rexit.runtime import Session
from rexit.upkeep.refresh import RefreshOptions, refresh

USERS, SLATE = USER_IDS[:4], ITEM_IDS[:6]
SAME = 1e-4
OPTIONS = RefreshOptions(golden_slates=1)


def test_old_and_new_side_by_side(place: Path) -> None:
    with runtime.open(place / "bundle") as old:
        before = old.score(USERS[0], SLATE).log_odds
        refresh(place / "bundle", place / "newer", OPTIONS)
        new = old.reloaded()
        assert new is not None and new.info.items == old.info.items + 2 and new.reloaded() is None
        assert len(new.score(USERS[0], [NEW[0]])) == 1
        with pytest.raises(InputError, match=str(NEW[0])):
            old.score(USERS[0], [NEW[0]])
        assert np.allclose(old.score(USERS[0], SLATE).log_odds, before, atol=SAME)
        with runtime.open(place / "bundle") as opened:
            assert np.allclose(new.score(USERS[0], SLATE).log_odds, opened.score(USERS[0], SLATE).log_odds, atol=SAME)
    assert len(new.score(USERS[0], SLATE)) == len(SLATE), "it outlives the one it was made from"


def test_a_new_policy_is_reloaded(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rexit")
    with runtime.open(place / "bundle") as old:
        write_policy(place / "bundle", [{"a": 2.0, "b": 0.0, "upper": None, "lower": None}] * 3)
        new = old.reloaded()
        assert new is not None and new.info.calibrated and new.exits[0].a == 2 and not old.info.calibrated
        assert caplog.messages == [f"{place / 'bundle'}: {verb} variant cpu-fp32" for verb in ("opened", "reloaded")]


def answers(session: Session) -> list[NDArray[np.float32]]:
    """Of each user, without what the cache may change in the last bits."""
    return [session.trace(user, SLATE)[:, -1] for user in USERS]


@pytest.mark.medium
def test_under_fire(place: Path) -> None:
    """Threads score and reload while the bundle is refreshed, back and forth. Every answer is one of the two catalogs'."""
    bundle = place / "bundle"
    both = []
    for name in ("catalog", "newer"):
        alone = Path(shutil.copytree(bundle, place / f"with-{name}"))
        if name != "catalog":
            refresh(alone, place / name, OPTIONS)
        with runtime.open(alone) as session:
            both.append(answers(session))
    assert max(np.abs(a - b).max() for a, b in zip(*both, strict=True)) > 100 * SAME, (
        "the catalogs answer alike: nothing is tested"
    )
    stop, errors = threading.Event(), []
    served, reloads = [0, 0], [0]

    def serve(session: Session) -> None:
        try:
            while not stop.is_set():
                if (next_one := session.reloaded()) is not None:
                    session = next_one
                    reloads[0] += 1
                n = served[0] % len(USERS)
                log_odds = session.score(USERS[n], SLATE, force_exit=session.info.exits - 1).log_odds
                distance = [np.abs(log_odds - which[n]).max() for which in both]
                if not min(distance) < SAME:
                    raise AssertionError(f"user {USERS[n]}: {log_odds} is neither catalog's")
                served[int(np.argmin(distance))] += 1
        except BaseException as exc:  # reported by the main thread
            errors.append(exc)

    first = runtime.open(bundle)
    threads = [threading.Thread(target=serve, args=(session,)) for session in (first, first.another(), first.another())]
    for thread in threads:
        thread.start()
    for n in range(6):
        refresh(bundle, place / ("newer", "catalog")[n % 2], OPTIONS)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert min(served) > 0 and reloads[0] >= 3, (served, reloads)
