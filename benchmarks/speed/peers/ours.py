"""rexit: a variant of the bundle at each fixed depth, and under a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from protocol import serve

import rexit
from rexit.runtime import Session, StopRule


class Depth:
    """Candidates stop by `how`: force_exit or policy of `Session.score`."""

    def __init__(self, session: Session, **how: Any) -> None:
        self.session, self.how = session, how

    def forget(self) -> None:
        self.session.clear_cache()

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        scores = self.session.score(request["user"], request["items"], **history(request), **self.how)
        log_odds: list[float] = scores.log_odds.tolist()
        return log_odds


def history(request: Mapping[str, Any]) -> dict[str, Any]:
    """The `as_of` and `recent` of a request that has them, for a session's methods."""
    options = {name: request[name] for name in ("as_of", "recent") if name in request}
    if options.get("recent"):
        options["recent"] = [(item, liked) for item, liked in options["recent"]]  # JSON has lists for pairs
    return options


def halving(session: Session, requests: Sequence[Mapping[str, Any]]) -> StopRule:
    """Thresholds that stop the outer half of the remaining candidates at every exit, by the log-odds of some slates. The mean
    depth is then about twice the first exit's, whatever the heads' quality."""
    left = np.concatenate([session.trace(r["user"], r["items"]) for r in requests])
    upper, lower = [], []
    for k in range(left.shape[1]):
        low, high = np.quantile(left[:, k], [0.25, 0.75]).tolist()
        upper.append(high)
        lower.append(-low)
        if k + 1 < left.shape[1]:
            left = left[(left[:, k] > low) & (left[:, k] < high)]
    return StopRule(upper, lower)


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Depth], dict[str, Any]]:
    session = rexit.open(setup["bundle"], setup["variant"], threads=setup["threads"])
    session.warm_up()
    for request in setup["check"]:
        prefix, candidates = session.prompt(request["user"], request["items"], **history(request))
        assert [prefix.tolist(), [c.tolist() for c in candidates]] == [request["prefix"], request["candidates"]], (
            "the runtime assembles other tokens"
        )
    policy = halving(session, setup["check"]) if setup["policy"] == "halving" else None  # None: the bundle's own
    stats = [session.score(r["user"], r["items"], **history(r), policy=policy).stats for r in setup["check"]]
    depth = sum(s.candidate_layers for s in stats) / sum(len(r["items"]) for r in setup["check"])
    ways = {f"exit_{k}": Depth(session, force_exit=k) for k in range(session.info.exits)}
    ways["full"] = ways[f"exit_{session.info.exits - 1}"]
    about = {"rexit": rexit.__version__, "variant": setup["variant"], "policy_mean_layers": depth}
    return {**ways, "policy": Depth(session, policy=policy)}, about


if __name__ == "__main__":
    serve(load)
