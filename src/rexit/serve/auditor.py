"""Audits: some slates are scored again at full depth after their answer was sent, while their session has nothing else to do.

The extra work has four bounds:

1. At most `share` of the answers are drawn.
2. A session keeps one drawn slate. What is drawn while it waits is skipped, and counted as such.
3. A session spends at most `MOST_TIME` of its time on audits.
4. A request that finds every session at work or auditing interrupts an audit, which begins again later.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexit.audit import AuditedSlate, AuditLog, Watch, read_limits, read_log
from rexit.audit.state import LOG
from rexit.bundle import Bundle, Policy
from rexit.errors import CancelledError, InputError, RexitError
from rexit.runtime import Scores, Session, StopRule

if TYPE_CHECKING:
    from rexit.serve.pool import AnyJob

_LOGGER = logging.getLogger("rexit")

MOST_TIME = 0.1


@dataclass(frozen=True)
class Drawn:
    """A slate that waits for its audit: the request, its answer, and the number of the rule that answered."""

    job: AnyJob
    scores: Scores
    watch: Watch
    rule: int


class Auditor:
    """Draws slates, audits them, and keeps the tests of the policy in force.

    Args:
        bundle: The bundle's folder.
        variant: The variant; None: the bundle's first.
        share: Of the answers that are drawn, from 0 to 1.
        log: The file of audited slates, which tests go on from after a restart; None: none.
        on_alarm: Of `rexit.audit.state.ON_ALARM`.

    Raises:
        InputError: The share is out of range, or the file cannot be written.
    """

    def __init__(self, bundle: Path, variant: str | None, share: float, log: Path | None = None, on_alarm: str = LOG) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"audit share {share:g}, expected a number from 0 to 1")
        self._bundle, self._variant, self._share, self._path, self._on_alarm = bundle, variant, share, log, on_alarm
        self._log = None if log is None else AuditLog(log)
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self.skipped: Counter[str] = Counter()
        """Drawn slates without an audit, by reason."""
        self.seconds = 0.0
        """Time spent on audits."""

    @property
    def watch(self) -> Watch:
        """The tests of the policy that new requests are answered by."""
        assert self._watch is not None, "no bundle is open"
        return self._watch

    def open(self) -> Watch:
        """Returns the tests of the policy on disk, as far as the log has them. Raises InputError or BundleError."""
        limits = read_limits(Bundle.open(self._bundle, self._variant))
        if self._watch is not None and self._watch.limits == limits:  # opened again with the same policy
            return self._watch
        watch = Watch(limits, self._on_alarm)
        if self._path is not None:
            watch.add_all(read_log(self._path))
        return watch

    def use(self, watch: Watch) -> None:
        """Takes the tests of a bundle whose sessions answer from now on."""
        self._watch = watch

    def options(self, watch: Watch) -> tuple[int, dict[str, Any]]:
        """Returns the number of the rule in force, and what it adds to a request."""
        rule, rules = watch.rule, watch.limits.rules
        if rule == len(rules):
            return rule, {"force_exit": len(rules[0].policy.exits) - 1}
        return rule, {} if rule == 0 else {"policy": _stop_rule(rules[rule].policy)}

    def draw(self, job: AnyJob, scores: Scores, watch: Watch, rule: int, waiting: Drawn | None) -> Drawn | None:
        """Returns the slate that waits after an answer: `waiting`, or this answer's if it is drawn."""
        if rule == len(watch.limits.rules) or random.random() >= self._share:
            return waiting
        if job.options.get("weights") is not None:  # another utility than the one that was certified
            self.skip("weights")
            return waiting
        if waiting is not None:
            self.skip("waiting")
            return waiting
        if scores.cut_short.any():
            self.skip("deadline")
            return None
        return Drawn(job, scores, watch, rule)

    def skip(self, reason: str) -> None:
        """Counts a drawn slate without an audit."""
        with self._lock:
            self.skipped[reason] += 1

    def audit(self, drawn: Drawn, session: Session) -> bool:
        """Scores a slate at full depth and takes its loss. Returns False if it was interrupted."""
        begin = time.monotonic()
        job, rule = drawn.job, drawn.rule
        try:
            log_odds = job.trace(session)
        except CancelledError:
            return False
        except RexitError as exc:
            _LOGGER.warning("audit: skipped a slate: %s", exc)
            self.skip("failed")
            return True
        finally:
            with self._lock:
                self.seconds += time.monotonic() - begin
        top_k = job.options.get("top_k", 0)
        slate = drawn.watch.limits.audit(job.unit, job.ids, drawn.scores, log_odds, rule=rule, top_k=top_k)
        if slate is None:
            self.skip("short slate")
        else:
            self._take(slate, drawn.watch)
        return True

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()

    def _take(self, slate: AuditedSlate, watch: Watch) -> None:
        with self._lock:
            line = watch.add(slate)
            try:
                if self._log is not None:
                    self._log.write(slate)
            except InputError as exc:
                _LOGGER.warning("audit: a slate is not in the log: %s", exc)
        if line is not None:
            _LOGGER.warning("%s", line)


class Allowance:
    """Bounds a session's time on audits to `MOST_TIME` of all its time."""

    def __init__(self) -> None:
        self._begin, self._spent = time.monotonic(), 0.0

    def wait_s(self) -> float:
        """Returns the seconds until an audit may begin."""
        return max(0.0, self._spent / MOST_TIME - (time.monotonic() - self._begin))

    def spend(self, seconds: float) -> None:
        """Counts the time of an audit."""
        self._spent += seconds


def _stop_rule(policy: Policy) -> StopRule:
    upper, lower = [exit_.upper for exit_ in policy.exits], [exit_.lower for exit_ in policy.exits]
    return StopRule(upper, lower, policy.patience, policy.quorum, policy.top_k)
