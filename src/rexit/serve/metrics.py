"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rexit.runtime import Scores

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One service's, in a registry of its own. waiting: how many requests are in the queue now; busy: how many sessions work."""

    def __init__(self, waiting: Callable[[], float], busy: Callable[[], float]) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("rexit_requests", "Requests to /v1/score by HTTP status.", ["status"], registry=own)
        self.latency = Histogram(
            "rexit_request_seconds", "From arrival to answer, of requests answered with scores.", buckets=_SECONDS, registry=own
        )
        self.queued = Histogram(
            "rexit_queue_seconds", "From arrival to a session, of requests that began.", buckets=_SECONDS, registry=own
        )
        self.refusals = Counter(
            "rexit_refusals", "Requests that never began, by reason: full, deadline, stopping.", ["reason"], registry=own
        )
        self.candidates = Counter(
            "rexit_candidates", "Candidates by the exit that answered; none: cut short before the first.", ["exit"], registry=own
        )
        self.cut_short = Counter("rexit_candidates_cut_short", "Candidates that a deadline stopped.", registry=own)
        self.prefix_tokens = Counter("rexit_prefix_tokens", "Tokens of prefixes.", registry=own)
        self.prefix_tokens_reused = Counter("rexit_prefix_tokens_reused", "Those of them found in the cache.", registry=own)
        self.reloads = Counter(
            "rexit_reloads", "Times the bundle was opened again, by result: ok, failed.", ["result"], registry=own
        )
        Gauge("rexit_queue_depth", "Requests waiting for a session.", registry=own).set_function(waiting)
        Gauge("rexit_sessions_busy", "Sessions at work.", registry=own).set_function(busy)

    def count(self, scores: Scores) -> None:
        """Counts an answer."""
        exits, counts = np.unique(scores.exit, return_counts=True)
        for exit, count in zip(exits.tolist(), counts.tolist(), strict=True):
            self.candidates.labels("none" if exit < 0 else str(exit)).inc(count)
        self.cut_short.inc(int(scores.cut_short.sum()))
        self.prefix_tokens.inc(scores.stats.prefix_tokens)
        self.prefix_tokens_reused.inc(scores.stats.prefix_tokens_reused)
