"""Audits: some requests are traced after their answer was sent, while their session has nothing else to do.

The extra work has four bounds:

1. A share of the answers is drawn. Nothing of that is in a request's own time.
2. A session keeps one drawn request. What is drawn while it waits is skipped, and counted as such.
3. A session spends at most `MAX_TIME_SHARE` of its time on audits.
4. A request that finds every session at work or auditing interrupts an audit, which begins again later.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from pathlib import Path

from rexit.doors.pool.jobs import Job, Texts
from rexit.errors import CancelledError, InputError, RexitError
from rexit.format.bundle import Bundle
from rexit.runtime import Session
from rexit.upkeep.audit import Audit, AuditLog, Watch
from rexit.upkeep.audit.watch import LOG

_LOGGER = logging.getLogger("rexit")

MAX_TIME_SHARE = 0.1


class Auditor:
    """Draws requests, audits them, and keeps the test of the policy: for all sessions.

    Args:
        bundle: The bundle's folder.
        variant: The variant; None: as `Bundle.open` chooses.
        share: The share of the answers that is drawn, 0 to 1.
        log: The file of audits, which the test goes on from after a restart; None: none.
        on_alarm: Of `rexit.upkeep.audit.watch.ON_ALARM`.

    Raises:
        InputError: The bundle has no policy to audit, or the file cannot be written.
        BundleError: What `rexit.upkeep.audit.read_limits` raises.
    """

    def __init__(self, bundle: Path, variant: str | None, share: float, log: Path | None = None, on_alarm: str = LOG) -> None:
        self._bundle, self._variant, self._share, self._path, self._on_alarm = bundle, variant, share, log, on_alarm
        self._new_watch()  # a bundle that cannot be audited leaves no log
        self._log = None if log is None else AuditLog(log)
        self._log_fails = False
        self._random = random.Random()
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self.skipped: Counter[str] = Counter()
        """Drawn requests without an audit, by reason."""
        self.seconds = 0.0
        """Time spent on audits."""

    @property
    def watch(self) -> Watch:
        """The test of the policy that new requests are answered by."""
        assert self._watch is not None, "no bundle is open"
        return self._watch

    def open(self) -> Watch:
        """Returns the test of the policy on disk, as far as the log has it. Raises InputError or BundleError."""
        watch, current = self._new_watch(), self._watch
        if current is not None and (current.sha256, current.limits) == (watch.sha256, watch.limits):
            return current  # opened again with the same policy
        if self._path is not None:
            for line in watch.add_log(self._path):
                _LOGGER.warning("%s: %s", self._path, line)
        return watch

    def _new_watch(self) -> Watch:
        return Watch.of(Bundle.open(self._bundle, self._variant), self._on_alarm)

    def use(self, watch: Watch) -> None:
        """Takes the test of a bundle whose sessions answer from now on."""
        self._watch = watch

    def draws(self, job: Job, watch: Watch) -> bool:
        """Returns, by chance, whether a request that the policy of `watch` has answered is to be audited."""
        return not watch.full_depth and self._random.random() < self._share and job.follows_policy

    def skip(self, reason: str) -> None:
        """Counts a drawn request without an audit."""
        with self._lock:
            self.skipped[reason] += 1

    def audit(self, job: Job, watch: Watch, session: Session, texts: Texts) -> bool:
        """Has the session trace the request, and takes the loss. Returns False if it was interrupted."""
        begin = time.monotonic()
        try:
            fields, log_odds = job.trace(session, texts)
            self._take(Audit(round(time.time(), 3), fields, log_odds, watch.sha256), watch)
        except CancelledError:
            return False
        except Exception as exc:  # an audit must not end the thread that answers requests
            _LOGGER.warning("audit: skipped a request: %s", exc, exc_info=None if isinstance(exc, RexitError) else exc)
            self.skip("failed")
        finally:
            with self._lock:
                self.seconds += time.monotonic() - begin
        return True

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()

    def _take(self, audit: Audit, watch: Watch) -> None:
        with self._lock:
            slates, line = watch.slates, watch.add(audit)
            if watch.slates == slates:
                self.skipped["short slate"] += 1
                return
            try:
                if self._log is not None:
                    self._log.write(audit)
                self._log_fails = False
            except InputError as exc:
                self.skipped["not logged"] += 1
                if not self._log_fails:
                    self._log_fails = True
                    _LOGGER.warning("audit: requests are missing in the log, from now on until it can be written: %s", exc)
        if line is not None:
            _LOGGER.warning("%s", line)


class SessionAudits:
    """A session's audits: at most one request waits for its own, and all take at most `MAX_TIME_SHARE` of the session's time.

    Args:
        auditor: None: no request is drawn.
    """

    def __init__(self, auditor: Auditor | None) -> None:
        self._auditor = auditor
        self._waiting: tuple[Job, Watch] | None = None
        self._begin, self._spent = time.monotonic(), 0.0

    def wait_s(self) -> float | None:
        """Returns the seconds until an audit may begin; None: no request waits for one."""
        if self._waiting is None:
            return None
        return max(0.0, self._spent / MAX_TIME_SHARE - (time.monotonic() - self._begin))

    def draw(self, job: Job, watch: Watch | None) -> None:
        """Keeps an answered request, or skips it, if it is drawn. watch: the test of the policy that answered."""
        if self._auditor is None or watch is None or not self._auditor.draws(job, watch):
            return
        if self._waiting is None:
            self._waiting = job, watch
        else:
            self._auditor.skip("waiting")

    def drop(self, reason: str) -> None:
        """Skips what waits."""
        if self._auditor is not None and self._waiting is not None:
            self._auditor.skip(reason)
        self._waiting = None

    def run(self, session: Session, texts: Texts) -> None:
        """Audits what waits, which still waits if it was interrupted."""
        assert self._auditor is not None and self._waiting is not None
        begin = time.monotonic()
        if self._auditor.audit(*self._waiting, session, texts):
            self._waiting = None
        self._spent += time.monotonic() - begin
