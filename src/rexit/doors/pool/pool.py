"""Sessions, a thread each, and the bounded queue before them.

1. A request waits while all sessions work. If `queue` requests wait already, it is refused.
2. A waiting request can be withdrawn, for instance at its deadline, and makes room at once.
3. A request that is past its deadline when its turn comes is refused. A session gets the remaining time.
4. `reload` opens the bundle anew and swaps: running requests finish on the old one.
5. A request's texts are tokenized when its turn comes, by the tokenizer of the bundle that scores it.
6. `close` lets accepted requests finish.
7. With an auditor, a session without a request audits one that it has answered; see `auditor`.

No caller waits for a session to open, score or close: that happens outside the lock.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from rexit.doors.pool.auditor import Auditor, SessionAudits
from rexit.doors.pool.jobs import Answer, Job, Texts
from rexit.doors.pool.likeness import Likeness
from rexit.errors import BundleError, RexitError
from rexit.format.bundle.manifest import MANIFEST
from rexit.runtime import Info, Session
from rexit.upkeep.audit import Watch

_LOGGER = logging.getLogger("rexit")
_ATTEMPTS = 3
"""Times that a bundle is opened whose policy is replaced meanwhile."""
_CANCEL_AGAIN_S = 0.01
"""A cancellation before the trace has begun does nothing, so it is repeated while a request waits."""


class RefusedError(Exception):
    """A request that was not accepted. reason: `full` or `stopping`. retry_s: when to try again."""

    def __init__(self, reason: str, line: str, retry_s: int) -> None:
        super().__init__(line)
        self.reason, self.retry_s = reason, retry_s


@dataclass(frozen=True)
class _Opened:
    """A bundle as it was when it was opened. Each thread takes one of its sessions. watch: the audits' test, with an auditor."""

    info: Info
    sessions: list[Session]
    sha256: str
    texts: Texts
    likeness: Likeness
    watch: Watch | None
    seconds: float


class Pool:
    """Scores requests with several sessions.

    Args:
        open_session: Opens a session of the bundle as it is on disk now.
        sessions: Requests scored at once.
        queue: Requests that may wait.
        auditor: Draws and audits requests; None: no audits.

    Attributes:
        busy: Sessions at work.
        ended: Sessions whose thread a defect ended. The others go on.
        stopping: Whether new requests are refused for good.
        broken: Why requests fail since a file of the open bundle was changed; None: they do not.
        opened_at: When the bundle was opened, in seconds since 1970. opened_s: how long that took.
    """

    def __init__(
        self, open_session: Callable[[], Session], sessions: int, queue: int = 64, auditor: Auditor | None = None
    ) -> None:
        self._open_session, self._sessions, self._queue, self.auditor = open_session, sessions, queue, auditor
        self._turn = threading.Condition()
        self._jobs: deque[Job] = deque()
        self.busy, self.ended, self.stopping, self._service_s = 0, 0, False, 0.0
        self.broken: str | None = None
        self.opened_at, self.opened_s = 0.0, 0.0
        self._auditing: list[Session] = []
        self._interrupts_again = False
        self._reloading = threading.Lock()
        self._current = self._opened()
        self._use(self._current)
        self._threads = [threading.Thread(target=self._run, name=f"session-{n}", daemon=True) for n in range(sessions)]
        for thread in self._threads:
            thread.start()

    @property
    def info(self) -> Info:
        """What the bundle holds that new requests are scored with."""
        return self._current.info

    @property
    def sha256(self) -> str:
        """Digest of the opened bundle's manifest.json, which has those of its other files."""
        return self._current.sha256

    def check_texts(self) -> None:
        """Raises InputError if the bundle has no tokenizer, or no text template."""
        self._current.texts.check()

    @property
    def capacity(self) -> int:
        """Requests that it accepts at once."""
        return self._sessions + self._queue

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Puts a job into the queue. Its future gets an `Answer`, or what `Session.score` raises, or LateError. Raises
        RefusedError."""
        with self._turn:
            if self.stopping:
                raise RefusedError("stopping", "the service is stopping, expected requests to go to another one", 1)
            free = self._sessions - self.ended - self.busy
            if len(self._jobs) >= self._queue + free:
                retry = max(1, math.ceil(len(self._jobs) * self._service_s / self._sessions))
                raise RefusedError(
                    "full", f"{len(self._jobs)} requests are waiting, expected fewer than {self._queue}: try again", retry
                )
            self._jobs.append(job)
            self._turn.notify()
        self._interrupt_audits()

    def _interrupt_audits(self) -> None:
        """Cancels an audit for every request that finds no idle session."""
        with self._turn:
            idle = self._sessions - self.ended - self.busy - len(self._auditing)
            needed = self._auditing[: max(0, len(self._jobs) - idle)]
            for session in needed:
                session.cancel()
            if needed and not self._interrupts_again:
                self._interrupts_again = True
                again = threading.Timer(_CANCEL_AGAIN_S, self._interrupt_audits_again)
                again.daemon = True
                again.start()

    def _interrupt_audits_again(self) -> None:
        with self._turn:
            self._interrupts_again = False
            self._interrupt_audits()

    def answer(self, job: Job) -> Answer:
        """Submits a job and waits for its answer, at most until its deadline if it waits in the queue. Raises what its future
        does, LateError and RefusedError."""
        self.submit(job)
        return self.result(job)

    def result(self, job: Job) -> Answer:
        """Waits for the answer of a job that was submitted, as `answer` does."""
        left = job.left_s()
        try:
            return job.future.result(None if left == math.inf else max(0.0, left))
        except TimeoutError:
            if job.future.done() or not self.withdraw(job):
                return job.future.result()  # a session has it, and keeps the deadline
            raise job.late() from None
        except BaseException:  # Ctrl-C
            self.withdraw(job)
            raise

    def withdraw(self, job: Job) -> bool:
        """Removes a waiting job from the queue; its future stays unset. Returns False if it does not wait: a session has it."""
        with self._turn:
            waits = job in self._jobs
            if waits:
                self._jobs.remove(job)
            return waits

    def reload(self) -> None:
        """Opens the bundle again. Raises what `rexit.open` raises; the pool then continues with the old one."""
        with self._reloading:
            opened = self._opened()
            with self._turn:
                superseded, self._current = self._current, opened
                self._use(opened)
                self._turn.notify_all()
            del superseded  # outside the lock: it closes the sessions that no thread has taken

    def refuse(self) -> None:
        """Refuses new requests from now on. Those in the queue are served."""
        with self._turn:
            self.stopping = True
            self._turn.notify_all()
            for session in self._auditing:
                session.cancel()

    def close(self, within_s: float | None = None) -> bool:
        """Refuses new requests, and returns True when all accepted requests have their answer, or False after `within_s`."""
        self.refuse()
        end = None if within_s is None else time.monotonic() + within_s
        threads = [thread for thread in self._threads if thread is not threading.current_thread()]  # it may collect garbage
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            return False
        if self.auditor is not None:
            self.auditor.close()
        return True

    def _use(self, opened: _Opened) -> None:
        self.broken, self.opened_at, self.opened_s = None, time.time(), opened.seconds
        if self.auditor is not None and opened.watch is not None:
            self.auditor.use(opened.watch)

    def _opened(self) -> _Opened:
        """Opens a session for each thread and warms it up: a failure comes before any thread depends on it."""
        begin = time.monotonic()
        first, watch = self._open_with_watch()
        digest = hashlib.sha256(first.read_file(MANIFEST)).hexdigest()
        first.warm_up()  # others share the tokenizer that it reads
        sessions = [first, *(first.another() for _ in range(self._sessions - 1))]
        for session in sessions[1:]:
            session.warm_up()
        texts, likeness = Texts(first), Likeness(first)
        return _Opened(first.info, sessions, digest, texts, likeness, watch, time.monotonic() - begin)

    def _open_with_watch(self) -> tuple[Session, Watch | None]:
        """Opens a session, and the audits' tests of the same policy."""
        for _ in range(_ATTEMPTS):
            session = self._open_session()
            watch = None if self.auditor is None else self.auditor.open()
            if watch is None or watch.sha256 == session.info.policy_sha256:
                return session, watch
            session.close()
        raise BundleError(f"policy.json was replaced while the bundle was opened, {_ATTEMPTS} times: open it again")

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            _LOGGER.exception("a session's thread ended")
            with self._turn:
                self.ended += 1
                if self.ended < self._sessions:
                    return
                self.stopping = True
                jobs = list(self._jobs)
                self._jobs.clear()
            for job in jobs:
                if job.future.set_running_or_notify_cancel():
                    line = "all sessions have ended, which is a defect: the service's log has more"
                    job.future.set_exception(RexitError(line))

    def _work(self) -> None:
        source, audits = self._current, SessionAudits(self.auditor)
        session = source.sessions.pop()
        while True:
            with self._turn:
                self._wait(source, audits)
                newest, job = self._current, None
                if newest is source:
                    if self._jobs:
                        job = self._jobs.popleft()
                        self.busy += 1
                    elif self.stopping:
                        return
                    else:
                        self._auditing.append(session)
            if newest is not source:
                audits.drop("reload")
                session.close()
                source = newest
                session = source.sessions.pop()
            elif job is not None:
                set_future, answered = self._score(job, session, source)
                with self._turn:
                    self.busy -= 1
                set_future()  # the client may ask again at once, and finds the session free
                if answered:
                    audits.draw(job, source.watch)
            else:
                try:
                    audits.run(session, source.texts)
                finally:
                    with self._turn:
                        self._auditing.remove(session)

    def _wait(self, source: _Opened, audits: SessionAudits) -> None:
        """Waits, with the lock, for something to do: a request, the end, a newer bundle, or an audit whose time has come."""
        while not self._jobs and not self.stopping and source is self._current:
            if (seconds := audits.wait_s()) == 0:
                return
            self._turn.wait(seconds)

    def _note_broken(self, line: str, source: _Opened) -> None:
        """Keeps why a bundle's requests fail, and logs it once."""
        with self._turn:
            if source is not self._current or self.broken is not None:
                return
            self.broken = line
        _LOGGER.error("%s", line)

    def _score(self, job: Job, session: Session, source: _Opened) -> tuple[Callable[[], None], bool]:
        """Scores a job. Returns a function that sets its future, and whether there is an answer."""
        if not job.future.set_running_or_notify_cancel():
            return lambda: None, False
        begin = time.monotonic()
        try:
            full_depth = source.watch is not None and source.watch.full_depth
            if job.left_s() <= 0:
                raise job.late()
            answer = job.score(session, source.texts, **({"force_exit": session.info.exits - 1} if full_depth else {}))
            answer = replace(answer, unlike=source.likeness.count(answer.stats))
        except Exception as exc:  # goes to the caller that waits for the answer
            if isinstance(exc, BundleError):
                self._note_broken(str(exc), source)
            return partial(job.future.set_exception, exc), False
        seconds = time.monotonic() - begin
        self._service_s = seconds if self._service_s == 0 else 0.9 * self._service_s + 0.1 * seconds
        return partial(job.future.set_result, answer), True
