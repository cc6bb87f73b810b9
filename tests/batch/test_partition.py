"""A partition's slates: which there are, in which order, and what the session's cache holds at each."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from rexit.batch.partition import Scoring, score_partition
from rexit.batch.work import pair_type
from rexit.bundle.context import Contexts
from rexit.bundle.request_text import RequestTexts
from rexit.errors import InputError


class Recording:
    """A session that notes what is asked of it and takes every prompt for too long."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def score(self, user: Any, items: Sequence[Any], as_of: int | None, context: Any, request: Any, top_k: int) -> Any:
        assert context == {}
        self.calls.append((user, as_of, list(items)))
        error = InputError("long")
        error.status = "REXIT_TOO_LONG"
        raise error

    def clear_cache(self) -> None:
        self.calls.append("clear")


def test_every_user_begins_with_an_empty_cache() -> None:
    """Else the last bits of a score depend on who was scored before, and a resumed run's are others."""
    rows = [(0, 1, 5, 20), (1, 0, 6, 10), (2, 1, 7, 10), (3, -1, 8, 10), (4, 1, 9, 20)]
    pairs = np.array([(*row, (), ()) for row in rows], pair_type(0, 0))
    users, items = SimpleNamespace(id=lambda row: f"user {row}"), SimpleNamespace(take=lambda rows: rows.tolist())
    session: Any = Recording()
    catalog: Any = SimpleNamespace(users=users, items=items, contexts=Contexts(), request_texts=RequestTexts())
    records, numbers = score_partition(session, catalog, ["stranger"], pairs, Scoring(timed=True, top_k=0))
    assert session.calls == [
        *("clear", ("stranger", 10, [8])),
        *("clear", ("user 0", 10, [6])),
        *("clear", ("user 1", 10, [7]), ("user 1", 20, [5, 9])),
    ]
    assert len(records) == 0 and numbers["slates"] == 4 and numbers["pairs"] == 5
