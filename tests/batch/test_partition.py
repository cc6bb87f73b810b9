"""A partition's slates: which there are, in which order, and what the session's cache holds at each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from rexit.batch.partition import Scoring, score_partition
from rexit.batch.records import pair_type
from rexit.bundle.inputs import Input, Inputs
from rexit.errors import InputError
from rexit.request import Request


class Recording:
    """A session that notes its requests and takes every prompt for too long."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def score(self, request: Request, top_k: int) -> Any:
        inputs = {name: np.asarray(value).tolist() for name, value in request.inputs.items()}
        self.calls.append((request.user, request.as_of, list(request.items), inputs))
        error = InputError("long")
        error.status = "REXIT_TOO_LONG"
        raise error

    def clear_cache(self) -> None:
        self.calls.append("clear")


def calls(inputs: Inputs, rows: list[Any]) -> list[Any]:
    """What a session is asked for these records."""
    users, items = SimpleNamespace(id=lambda row: f"user {row}"), SimpleNamespace(take=lambda rows: rows.tolist())
    session: Any = Recording()
    catalog: Any = SimpleNamespace(users=users, items=items, inputs=inputs, reads_scores=False)
    pairs = np.array([(*row[:4], 0, *row[4:]) for row in rows], pair_type(inputs))
    records, summary = score_partition(session, catalog, ["stranger"], pairs, Scoring(timed=True, top_k=0))
    assert len(records) == 0 and summary["pairs"] == len(rows)
    assert summary["slates"] == len([call for call in session.calls if call != "clear"])
    return session.calls


def test_every_user_begins_with_an_empty_cache() -> None:
    """Else the last bits of a score depend on who was scored before, and a resumed run's are others."""
    rows = [(0, 1, 5, 20), (1, 0, 6, 10), (2, 1, 7, 10), (3, -1, 8, 10), (4, 1, 9, 20)]
    assert calls(Inputs(), [(*row, ()) for row in rows]) == [
        *("clear", ("stranger", 10, [8], {})),
        *("clear", ("user 0", 10, [6], {})),
        *("clear", ("user 1", 10, [7], {}), ("user 1", 20, [5, 9], {})),
    ]


def test_a_slate_has_the_same_inputs() -> None:
    inputs = Inputs((Input(name="device", values=("tv", "phone")), Input(name="query", max_tokens=3, optional=True)))
    codes = [(1, 4, 5, -1), (0, -1, -1, -1), (1, 4, -1, -1), (1, 4, 5, -1)]
    assert calls(inputs, [(n, 0, n, 10, row) for n, row in enumerate(codes)]) == [
        "clear",
        ("user 0", 10, [1], {"device": "tv"}),
        ("user 0", 10, [2], {"device": "phone", "query": [4]}),
        ("user 0", 10, [0, 3], {"device": "phone", "query": [4, 5]}),
    ]
