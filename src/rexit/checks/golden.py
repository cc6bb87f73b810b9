"""The runtime against golden samples: the same prompts, the same log-odds, the exits that the policy says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Bundle, Catalog, GoldenSlate, Id, Policy
from rexit.checks.check import Check, checked
from rexit.progress import Progress
from rexit.slates import Slate, TokenSlate

if TYPE_CHECKING:
    from rexit.runtime import Scores, Session


def check_golden(bundle: Bundle, session: Session, progress: Progress) -> list[Check]:
    """Checks a session against the variant's golden samples. Raises BundleError if these cannot be read."""
    name, slates, tolerance = bundle.variant.name, bundle.golden().slates, float(bundle.variant.parity["tolerance"])
    policy = bundle.policy_or_full_depth()
    prompts: list[str] = []
    log_odds: list[str] = []
    decisions: list[str] = []
    worst = 0.0
    for g, slate in enumerate(slates):
        progress(name, g, len(slates))
        check = session.check_golden(g)
        worst = max(worst, check.worst)
        prompts += [f"{name}: {check.prompt}"] if check.prompt else []
        log_odds += [f"{name}: {check.log_odds}"] if check.log_odds else []
        by_id = slate_of(bundle.catalog if bundle.has_catalog else None, slate)
        where = f"{name}: golden slate {g}" + (f", user {by_id.user!r}" if bundle.has_catalog else "")
        session.clear_cache()
        for prefix in ("cold", "warm"):
            scores = session.score(by_id.request)
            at = f"{where}, {prefix} prefix"
            decisions += _decision_failures(at, by_id.items, scores, check.trace, policy, bundle.variant.rounding)
    progress(name, len(slates), len(slates))
    size = f"{len(slates)} slates, {sum(len(slate.items) for slate in slates)} candidates"
    return [
        *([checked(name, "prompts", size, prompts)] if bundle.has_catalog else []),
        checked(name, "log-odds", f"worst {worst:.2g}, allowed {tolerance:.2g}", log_odds),
        checked(name, "exit decisions", "cold and warm prefix", decisions),
    ]


def slate_of(catalog: Catalog | None, slate: GoldenSlate) -> Slate | TokenSlate:
    """Returns a golden slate by ids. Its `liked` is False throughout. catalog: None if there is none."""
    liked = np.zeros(len(slate.items), np.bool_)
    if catalog is None:
        return TokenSlate("", slate.prefix, tuple(slate.candidates), liked, slate.scores)
    assert slate.user is not None
    user, items = catalog.users.id(slate.user), tuple(catalog.items.take(slate.items.astype(np.int64)))
    return Slate(user, items, slate.as_of, liked, catalog.inputs.decode(slate.inputs), scores=slate.scores)


def _decision_failures(
    where: str, items: Sequence[Id], scores: Scores, trace: NDArray[np.float32], policy: Policy, rounding: float
) -> Iterator[str]:
    """Yields a line for each candidate that stops elsewhere than the policy says of the trace, or answers with other log-odds.

    rounding: how far scores and trace may be apart, relative above 1. A candidate that close to a threshold has several valid
    exits: see `Policy.exit_range`.
    """
    slate = np.array([0, len(trace)])
    earliest, latest = policy.exit_range(trace, rounding * max(1.0, float(abs(trace).max())), slate)
    expected = policy.stops(trace, slate)
    for i, item in enumerate(items):
        k, log_odds = int(scores.exit[i]), float(scores.log_odds[i])
        if not earliest[i] <= k <= latest[i]:
            yield f"{where}, item {item!r}: stopped at exit {k}, expected {expected[i]}"
        elif not abs(log_odds - float(trace[i, k])) <= rounding * max(1.0, abs(log_odds)):
            yield f"{where}, item {item!r}: log-odds {log_odds:.5f} at exit {k}, the trace has {trace[i, k]:.5f}"
