"""Groups of users are tested alone, and p-values are corrected for their number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders.decisions import decide_on
from builders.traces import traces
from rexit.calibration.goal import Goal
from rexit.calibration.groups import holm, sentence
from rexit.calibration.metrics import parse
from rexit.calibration.record.traces import Traces, split_users


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0] and holm([]) == []


def grouped(users: int = 600) -> Traces:
    """Users of three groups; `few` has one user in twenty, and nobody who certifies is `nobody`."""
    t = traces(users, 20, [0.6, 0.3, 0.0], seed=1, slate=10)
    owners = t.users[t.offsets[:-1]]
    chooses = {*split_users(t)[0].ids}
    names = ["few" if user % 20 == 0 else "nobody" if user % 20 == 1 and t.ids[user] in chooses else "many" for user in owners]
    return replace(t, fields={"kind": np.array(names)})


def test_each_group_has_a_line() -> None:
    data = grouped(1200)
    decision = decide_on(data, Goal((parse("top-k-overlap@5"),), 0.1))
    assert decision.chosen is not None
    by_name = {group.group: group for group in decision.groups}
    assert by_name.keys() == {"few", "many", "nobody"}
    many, few, nobody = by_name["many"], by_name["few"], by_name["nobody"]
    assert nobody.users == {"top-k-overlap@5": 0} and nobody.losses == {} and nobody.p_value == nobody.corrected == 1
    assert many.users["top-k-overlap@5"] + few.users["top-k-overlap@5"] == split_users(data)[1].user_count
    assert many.kept and many.corrected == pytest.approx(min(1, 3 * len(decision.candidates) * many.p_value))
    assert not few.kept and few.p_value > 0.05, "too few users to tell"
    rows = [vars(group) for group in decision.groups]
    assert (text := sentence(rows)) is not None
    assert text.startswith("Of single groups the same is shown for kind many; not for ") and "kind nobody (no users)" in text
    assert sentence([]) is None


def test_slates_of_one_user_may_be_in_several_groups() -> None:
    data = grouped(20)
    first = np.arange(len(data.offsets) - 1) % 2 == 0
    part = data.of_slates(first)
    assert part.user_count == 20 and len(part) == len(data) / 2 and len(part.fields["kind"]) == first.sum()
    np.testing.assert_array_equal(part.log_odds[:10], data.log_odds[:10])
