"""The runtime against golden samples: the same prompts, the same log-odds, the exits that the policy says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Bundle, Catalog, GoldenSlate, Id, Policy
from rexit.checks.check import Check, checked
from rexit.progress import Progress
from rexit.slates import AnySlate, Slate, TokenSlate

if TYPE_CHECKING:
    from rexit.runtime import Scores, Session

Prompt = tuple[NDArray[np.int32], Sequence[NDArray[np.int32]]]
"""Token ids of the prefix, and of each candidate."""


def check_golden(bundle: Bundle, session: Session, progress: Progress) -> list[Check]:
    """Checks a session against the variant's golden samples. Raises BundleError if these cannot be read."""
    name, slates = bundle.variant.name, bundle.golden().slates
    tolerance = float(bundle.variant.parity["tolerance"])
    policy, objectives = bundle.policy_or_full_depth(), bundle.variant.objectives
    prompts: list[str] = []
    log_odds: list[str] = []
    decisions: list[str] = []
    worst = 0.0
    for g, slate in enumerate(slates):
        progress(name, g, len(slates))
        request = request_of(bundle.catalog if bundle.has_catalog else None, slate)
        items = request.items
        where = f"{name}: golden slate {g}" + (f", user {request.user!r}" if bundle.has_catalog else "")
        if (difference := prompt_difference(items, request.prompt(session), (slate.prefix, slate.candidates))) is not None:
            prompts.append(f"{where}: {difference}")
        trace = cold_trace(session, request)
        distance = log_odds_distance(trace, slate.log_odds)
        worst = max(worst, float(distance.max()))
        if distance.max() > tolerance:
            at = np.unravel_index(int(distance.argmax()), distance.shape)
            place = f"item {items[at[0]]!r}, exit {at[1]}" + (f", objective {objectives[at[2]]}" if objectives else "")
            log_odds.append(f"{where}, {place}: log-odds {trace[at]:.5f}, expected {slate.log_odds[at]:.5f} +- {tolerance:g}")
        session.clear_cache()
        for prefix in ("cold", "warm"):
            scores = request.score(session)
            decisions += _decision_failures(f"{where}, {prefix} prefix", items, scores, trace, policy, bundle.variant.rounding)
    progress(name, len(slates), len(slates))
    size = f"{len(slates)} slates, {sum(len(slate.items) for slate in slates)} candidates"
    return [
        *([checked(name, "prompts", size, prompts)] if bundle.has_catalog else []),
        checked(name, "log-odds", f"worst {worst:.2g}, allowed {tolerance:.2g}", log_odds),
        checked(name, "exit decisions", "cold and warm prefix", decisions),
    ]


def request_of(catalog: Catalog | None, slate: GoldenSlate) -> Slate | TokenSlate:
    """What a session is asked to score a golden slate. Its `liked` is False throughout. catalog: None if there is none."""
    liked = np.zeros(len(slate.items), np.bool_)
    if catalog is None:
        return TokenSlate("", slate.prefix, tuple(slate.candidates), liked)
    assert slate.user is not None
    user, items = catalog.users.id(slate.user), tuple(catalog.items.take(slate.items.astype(np.int64)))
    context, request = catalog.contexts.values(slate.context), catalog.request_texts.by_name(slate.request)
    return Slate(user, items, slate.as_of, liked, context, request)


def cold_trace(session: Session, slate: AnySlate) -> NDArray[np.float32]:
    """Every exit's log-odds without cached prefixes, as `Session.trace`. With keys copied from another prefix, log-odds may
    differ in their last bits."""
    session.clear_cache()
    return slate.trace(session)


def log_odds_distance(trace: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a trace is from what is expected, float32 of the same shape; inf where it is not finite."""
    distance: NDArray[np.float32] = np.abs(trace - expected)
    distance[~np.isfinite(distance)] = np.inf
    return distance


def prompt_difference(items: Sequence[Id], runtime: Prompt, exporter: Prompt) -> str | None:
    """The first difference between the runtime's and the exporter's prompt of a slate; None if there is none."""
    parts = [("the prefix", runtime[0], exporter[0])]
    parts += [(f"item {item!r}", a, b) for item, a, b in zip(items, runtime[1], exporter[1], strict=True)]
    for part, tokens, expected in parts:
        if (difference := _token_difference(tokens, expected)) is not None:
            return f"the prompt of {part} differs from the exporter's: {difference}"
    return None


def _token_difference(tokens: NDArray[Any], expected: NDArray[Any]) -> str | None:
    for at, (a, b) in enumerate(zip(tokens, expected, strict=False)):
        if a != b:
            return f"token {at} is {a}, expected {b}"
    return None if len(tokens) == len(expected) else f"{len(tokens)} tokens, expected {len(expected)}"


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
    steepness, trace = policy.steepness(trace), policy.head_log_odds(trace)
    for i, item in enumerate(items):
        k, log_odds = int(scores.exit[i]), float(scores.log_odds[i])
        if not earliest[i] <= k <= latest[i]:
            yield f"{where}, item {item!r}: stopped at exit {k}, expected {expected[i]}"
        elif not abs(log_odds - float(trace[i, k])) <= rounding * steepness[k] * max(1.0, abs(log_odds)):
            yield f"{where}, item {item!r}: log-odds {log_odds:.5f} at exit {k}, the trace has {trace[i, k]:.5f}"
