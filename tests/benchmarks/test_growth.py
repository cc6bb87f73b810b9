"""benchmarks/ranking/growth.py: what fills a slate up."""

from types import SimpleNamespace

import numpy as np
import pytest

from rexit.slates import Slate
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


class Ids:
    """Twelve ids: row 0 is 10. Items 9 to 11 are in no split."""

    def __len__(self) -> int:
        return 12

    def take(self, rows):
        return [10 + int(row) for row in rows]

    def rows(self, ids):
        return [id_ - 10 for id_ in ids]


def test_slates_are_filled_up_with_items_the_user_has_in_no_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import growth

    rows = {"train": ([0, 0, 1, 2], [0, 1, 2, 3]), "validation": ([0, 2], [2, 4]), "test": ([0, 0, 1, 1], [5, 6, 7, 8])}
    splits = {name: SimpleNamespace(users=np.array(users), items=np.array(items)) for name, (users, items) in rows.items()}
    catalog = SimpleNamespace(split=splits.__getitem__, users=Ids(), items=Ids())
    later = Slate(10, (15,), 9, np.array([True]))
    slates = [Slate(10, (15, 16), 5, np.array([True, False])), later, Slate(11, (17, 18), 5, np.array([False, False]))]
    monkeypatch.setattr(growth, "cut", lambda *_: slates)
    monkeypatch.setattr(growth, "SIZES", (2, 4))

    (slate,) = growth.filled(catalog, 5)  # user 1 has no like
    assert slate.user == 10 and slate.as_of == 5 and slate.items[:2] == (15, 16)
    assert set(slate.items[2:]) < {13, 14, 17, 18} and len(set(slate.items)) == 4
    assert slate.liked.tolist() == [True, False, False, False]

    monkeypatch.setattr(growth, "SIZES", (2, 8))
    assert growth.filled(catalog, 5) == []  # four items are left for six places
