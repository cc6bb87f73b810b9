"""The metrics that Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rexit.runtime import Scores

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service, in a registry of its own. waiting: gives the requests in the queue, busy: the busy sessions."""

    def __init__(self, waiting: Callable[[], float], busy: Callable[[], float]) -> None:
        registry = self.registry = CollectorRegistry()
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        count, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.requests = count("rexit_requests", "Requests to score or rerank, by HTTP status.", ["status"])
        self.latency = seconds("rexit_request_seconds", "Seconds from arrival to answer, of requests answered with scores.")
        self.queued = seconds("rexit_queue_seconds", "Seconds from arrival to a session, of requests answered with scores.")
        self.refusals = count("rexit_refusals", "Requests that never began, by reason: full, deadline, stopping.", ["reason"])
        self.unknown_users = count("rexit_unknown_users", "Answers for users whom the catalog does not have.")
        self.candidates = count("rexit_candidates", "Candidates by the exit that answered; none: cut short before it.", ["exit"])
        self.cut_short = count("rexit_candidates_cut_short", "Candidates that a deadline stopped.")
        self.prefix_tokens = count("rexit_prefix_tokens", "Tokens of prefixes.")
        self.prefix_tokens_reused = count("rexit_prefix_tokens_reused", "Tokens of prefixes that were in the cache.")
        self.reloads = count("rexit_reloads", "Times the bundle was opened again, by result: ok, failed.", ["result"])
        gauge("rexit_queue_depth", "Requests waiting for a session.").set_function(waiting)
        gauge("rexit_sessions_busy", "Sessions at work.").set_function(busy)

    def count(self, scores: Scores, by_ids: bool) -> None:
        """Counts an answer. by_ids: whether the request named a user."""
        exits, counts = np.unique(scores.exit, return_counts=True)
        for k, count in zip(exits.tolist(), counts.tolist(), strict=True):
            self.candidates.labels("none" if k < 0 else str(k)).inc(count)
        self.unknown_users.inc(by_ids and not scores.stats.known_user)
        self.cut_short.inc(int(scores.cut_short.sum()))
        self.prefix_tokens.inc(scores.stats.prefix_tokens)
        self.prefix_tokens_reused.inc(scores.stats.prefix_tokens_reused)
