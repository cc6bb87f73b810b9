"""benchmarks/ranking/hindsight.py: later ratings are counted without a training pair's own, and are of use where they decide."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


def test_a_training_pair_does_not_see_its_own_fold() -> None:
    from as_of import Pairs
    from hindsight import later_ratings

    def pairs(users: np.ndarray, items: np.ndarray, liked: np.ndarray) -> Pairs:
        return Pairs(users, items, np.zeros(len(users), np.int64), liked, np.arange(len(users)))

    users, items = np.divmod(np.arange(60), 2)  # 30 users, who rated both items: 0 is always liked, 1 never
    train = pairs(users, items, items == 0)
    own, asked = later_ratings([train, pairs(users[:2], items[:2], items[:2] == 0)], 30, 2)
    assert asked[:, 0].tolist() == [30, 30] and asked[0, 1] > 0.9 and asked[1, 1] < 0.1
    fold = np.random.default_rng(0).integers(0, 5, 30)
    assert own[:, 0].tolist() == [30 - np.count_nonzero(fold == fold[user]) for user in users]


@pytest.mark.slow
def test_what_later_ratings_add_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import hindsight

    catalog = write_indexed_catalog(tmp_path, users=40, taste=True)
    monkeypatch.setattr(sys, "argv", ["hindsight.py", str(catalog)])
    hindsight.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"boosting, {told}, {metric}"
        for told in ("counts", "counts and lists", "the prompt's numbers")
        for metric in ("auc", "user_auc")
    ]
    for line in lines:
        before, after, gain = (float(number) for number in re.findall(r"[-+]?\d\.\d{4}", line)[:3])
        assert gain == pytest.approx(after - before, abs=2e-4)
