"""How a peer talks to slate.py: one JSON document per line, on stdin and stdout. Standard library only.

    -> {"threads": 2, ...}                                  once: what the peer needs to load its model
    <- {"ways": ["one_by_one", ...], "about": {...}}        what it can be asked for, and its versions
    -> {"way": ..., "requests": [{"prefix": [...], "candidates": [[...]], ...}], "cached": false}
    <- {"milliseconds": [...], "log_odds": [[...]]}         one entry per request

What a library prints goes to stderr. Each request starts without a cached prefix; with `cached`, the request's `before`, another
slate of the same user, is scored first, untimed. A request also holds its order's `cached`. Between lines a peer blocks in a read
and uses no CPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Way(Protocol):
    """One way of scoring. A request has `prefix` (token ids), `candidates` (token ids of each), `no` and `yes` (label ids),
    and for rexit `user` and `items`."""

    def forget(self) -> None:
        """Drops a prefix kept from the last request."""

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        """logit(yes) - logit(no) after each candidate's last token. A prefix kept from before is used if it is the request's."""


def serve(load: Callable[[Mapping[str, Any]], tuple[Mapping[str, Way], Mapping[str, Any]]]) -> None:
    """Answers requests until stdin ends. `load` turns the first line into the ways and what to report about them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    ways, about = load(json.loads(sys.stdin.readline()))
    say({"ways": list(ways), "about": about})
    for line in sys.stdin:
        order = json.loads(line)
        way = ways[order["way"]]
        milliseconds, log_odds = [], []
        for request in order["requests"]:
            way.forget()
            request["cached"] = order["cached"]
            if order["cached"]:
                way.score({**request, **request["before"]})
            begin = time.perf_counter()
            scores = way.score(request)
            milliseconds.append((time.perf_counter() - begin) * 1000)
            log_odds.append([float(z) for z in scores])
        say({"milliseconds": milliseconds, "log_odds": log_odds})


class NoCache:
    """Base of a way that keeps nothing."""

    def forget(self) -> None:
        pass


class KeepsPrefixes(NoCache):
    """Base of a way whose library keeps every prefix, so that only a new prefix is cold."""

    def __init__(self) -> None:
        self.known: set[tuple[int, ...]] = set()

    def refuse_known_prefix(self, request: Mapping[str, Any]) -> None:
        prefix = tuple(request["prefix"])
        if prefix in self.known and not request["cached"]:
            raise ValueError(f"a cold request brings a prefix of {len(prefix)} tokens that was asked before; expected a new one")
        self.known.add(prefix)
