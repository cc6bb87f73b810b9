"""The metrics that Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from rexit.doors.pool import Answer, Pool
from rexit.doors.pool.auditor import Auditor

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service, in a registry of its own.

    Args:
        pool: What it scores with. The state of its queue, sessions, bundle and audits is read with each request to /metrics.
    """

    def __init__(self, pool: Pool) -> None:
        registry = self.registry = CollectorRegistry()
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        count, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.requests = count("rexit_requests", "Requests to score or rerank, by HTTP status.", ["status"])
        self.latency = seconds("rexit_request_seconds", "Seconds from arrival to answer, of requests answered with scores.")
        self.queued = seconds("rexit_queue_seconds", "Seconds from arrival to a session, of requests answered with scores.")
        self.refusals = count("rexit_refusals", "Requests that never began, by reason: full, deadline, stopping.", ["reason"])
        self.unknown_users = count("rexit_unknown_users", "Answers for users whom the catalog does not have.")
        self.candidates = count("rexit_candidates", "Candidates by the exit that answered; none: cut short before it.", ["exit"])
        self.cut_short = count("rexit_candidates_cut_short", "Candidates in answers that a deadline stopped.")
        self.truncated = count("rexit_documents_truncated", "Documents cut at their end, to fit the model.")
        self.unlike = count("rexit_requests_unlike", "Answered requests unlike those that calibrated the policy.", ["of"])
        self.prefix_tokens = count("rexit_prefix_tokens", "Tokens of prefixes.")
        self.prefix_tokens_reused = count("rexit_prefix_tokens_reused", "Tokens of prefixes that were in the cache.")
        self.reloads = count("rexit_reloads", "Times the bundle was opened again, by result: ok, failed.", ["result"])
        gauge("rexit_queue_depth", "Requests waiting for a session.").set_function(lambda: pool.waiting)
        gauge("rexit_sessions_busy", "Sessions at work.").set_function(lambda: pool.busy)
        opened = gauge("rexit_bundle_opened_timestamp_seconds", "When the bundle was opened, at the start or by the last reload.")
        opened.set_function(lambda: pool.opened_at)
        seconds_to_open = gauge("rexit_bundle_open_seconds", "Seconds that took.")
        seconds_to_open.set_function(lambda: pool.opened_s)
        registry.register(_BundleCollector(pool))
        ProcessCollector(registry=registry)
        if pool.auditor is not None:
            registry.register(_AuditCollector(pool.auditor))

    def count(self, answer: Answer, seconds: float, has_zero: bool) -> None:
        """Counts an answer. seconds: since the request arrived. has_zero: exit zero answers for those that enter no segment."""
        stats = answer.stats
        self.queued.observe(answer.waited_s)
        self.latency.observe(seconds)
        reached = [stats.candidates, *(segment.candidates for segment in stats.segments), 0]
        for exit_, (here, deeper) in enumerate(pairwise(reached), 0 if has_zero else -1):
            if here > deeper:
                self.candidates.labels("none" if exit_ < 0 else str(exit_)).inc(here - deeper)
        self.unknown_users.inc(answer.unknown_user)
        self.cut_short.inc(stats.cut_short)
        self.truncated.inc(answer.truncated)
        for name in answer.unlike:
            self.unlike.labels(name).inc()
        self.prefix_tokens.inc(stats.prefix_tokens)
        self.prefix_tokens_reused.inc(stats.prefix_tokens_reused)


class _BundleCollector:
    """What is served, by name and digest."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        info = self._pool.info
        labels = {"variant": info.variant, "sha256": self._pool.sha256, "policy_sha256": info.policy_sha256}
        yield InfoMetricFamily("rexit_bundle", "The open bundle: digests of manifest.json and policy.json.", value=labels)


class _AuditCollector:
    """The state of the audits' test."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def collect(self) -> Iterator[Metric]:
        watch = self._auditor.watch
        test, limits = watch.test, watch.limits
        gauges = {
            "users": ("Users whose loss counted.", test.capital.count),
            "loss_mean": ("Mean loss against full depth.", test.mean or 0.0),
            "loss_limit": ("The tested limit of the mean loss.", limits.limit),
            "capital": ("Capital bet against the limit of the mean loss.", test.capital.value),
            "alarm_capital": ("The capital that is an alarm.", test.alarm_capital),
            "alarm": ("1 after an alarm.", watch.alarm),
            "full_depth": ("1 if an alarm has ended early exits.", watch.full_depth),
        }
        if limits.tail is not None and test.of_tail is not None:
            gauges |= {
                "tail_share": ("Share of users who lose more than the tail's loss.", test.share),
                "tail_limit": ("The tested limit of that share.", limits.tail.share),
                "tail_capital": ("Capital bet against that limit.", test.of_tail.value),
            }
        for name, (help_, value) in gauges.items():
            yield GaugeMetricFamily(f"rexit_audit_{name}", help_, value=float(value))
        yield CounterMetricFamily("rexit_audit_slates", "Traced requests with a loss.", value=watch.slates)
        skipped = CounterMetricFamily("rexit_audit_skipped", "Drawn slates without an audit, by reason.", labels=["reason"])
        for reason, count in sorted(self._auditor.skipped.items()):
            skipped.add_metric([reason], count)
        yield skipped
        yield CounterMetricFamily("rexit_audit_seconds", "Seconds spent on audits.", value=self._auditor.seconds)
