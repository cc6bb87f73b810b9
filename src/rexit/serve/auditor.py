"""Audits: some slates are scored again at full depth after their answer was sent, while their session has nothing else to do.

The extra work has four bounds:

1. Sessions draw a share of their answers: that of `runtime.open(…, audit=share)`.
2. A session keeps one drawn slate. What is drawn while it waits is skipped, and counted as such.
3. A session spends at most `MAX_TIME_SHARE` of its time on audits.
4. A request that finds every session at work or auditing interrupts an audit, which begins again later.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rexit.audit import AuditedSlate, AuditLog, Watch, read_limits, read_log
from rexit.audit.state import LOG
from rexit.bundle import Bundle
from rexit.errors import CancelledError, InputError, RexitError
from rexit.runtime import Draw, Session
from rexit.serve.jobs import Job

_LOGGER = logging.getLogger("rexit")

MAX_TIME_SHARE = 0.1

REASONS = {
    Draw.SKIPPED_WAITING: "waiting",
    Draw.SKIPPED_DEADLINE: "deadline",
    Draw.SKIPPED_MEMORY: "memory",
    Draw.SKIPPED_PROMPT: "prompt",
}
"""Why a session did not keep what it drew, as metrics have it."""


@dataclass(frozen=True)
class Drawn:
    """A slate that waits in a session for its audit: the request, and the test of the policy that answered."""

    job: Job
    watch: Watch


class Auditor:
    """Audits what sessions drew, and keeps the test of the policy.

    Args:
        bundle: The bundle's folder.
        variant: The variant; None: as `Bundle.open` chooses.
        log: The file of audited slates, which the test goes on from after a restart; None: none.
        on_alarm: Of `rexit.audit.state.ON_ALARM`.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, bundle: Path, variant: str | None, log: Path | None = None, on_alarm: str = LOG) -> None:
        self._bundle, self._variant, self._path, self._on_alarm = bundle, variant, log, on_alarm
        self._log = None if log is None else AuditLog(log)
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self.skipped: Counter[str] = Counter()
        """Drawn slates without an audit, by reason."""
        self.seconds = 0.0
        """Time spent on audits."""

    @property
    def watch(self) -> Watch:
        """The test of the policy that new requests are answered by."""
        assert self._watch is not None, "no bundle is open"
        return self._watch

    def open(self) -> Watch:
        """Returns the test of the policy on disk, as far as the log has it. Raises InputError or BundleError."""
        limits = read_limits(Bundle.open(self._bundle, self._variant))
        if self._watch is not None and self._watch.limits == limits:  # opened again with the same policy
            return self._watch
        watch = Watch(limits, self._on_alarm)
        if self._path is not None:
            watch.add_all(read_log(self._path))
        return watch

    def use(self, watch: Watch) -> None:
        """Takes the test of a bundle whose sessions answer from now on."""
        self._watch = watch

    def drawn(self, job: Job, draw: Draw, watch: Watch, waiting: Drawn | None) -> Drawn | None:
        """Returns what waits after an answer: this one if its session keeps it. Counts what is skipped."""
        if draw == Draw.DRAWN:
            return Drawn(job, watch)
        if draw in REASONS:
            self.skip(REASONS[draw])
        return waiting

    def skip(self, reason: str) -> None:
        """Counts a drawn slate without an audit."""
        with self._lock:
            self.skipped[reason] += 1

    def audit(self, drawn: Drawn, session: Session) -> bool:
        """Has the session score its slate at full depth, and takes the loss. Returns False if it was interrupted."""
        begin = time.monotonic()
        try:
            audit = session.audit()
            assert audit is not None, "the session lost what it drew"
            slate = drawn.watch.limits.slate(*drawn.job.slate(), audit)
            if math.isnan(drawn.watch.limits.loss_of(slate)):
                self.skip("short slate")
            else:
                self._take(slate, drawn.watch)
        except CancelledError:
            return False
        except Exception as exc:  # an audit must not end the thread that answers requests
            _LOGGER.warning("audit: skipped a slate: %s", exc, exc_info=None if isinstance(exc, RexitError) else exc)
            self.skip("failed")
        finally:
            with self._lock:
                self.seconds += time.monotonic() - begin
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
    """Bounds a session's time on audits to `MAX_TIME_SHARE` of all its time."""

    def __init__(self) -> None:
        self._begin, self._spent = time.monotonic(), 0.0

    def wait_s(self) -> float:
        """Returns the seconds until an audit may begin."""
        return max(0.0, self._spent / MAX_TIME_SHARE - (time.monotonic() - self._begin))

    def spend(self, seconds: float) -> None:
        """Counts the time of an audit."""
        self._spent += seconds
