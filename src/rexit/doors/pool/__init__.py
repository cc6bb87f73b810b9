"""Sessions that score requests, a thread each.

    jobs.py       what a session is asked, and its answer
    pool.py       the sessions, and the queue before them
    auditor.py    some requests traced, and the test of what the policy loses
    likeness.py   whether requests are like those that calibrated the policy

`rexit.doors.rankers` asks it in the caller's process, `rexit.doors.serve` over HTTP.
"""

from rexit.doors.pool.auditor import Auditor
from rexit.doors.pool.jobs import Answer, Job, Ranking, ScoreJob, TextsJob
from rexit.doors.pool.pool import Pool, RefusedError

__all__ = ["Answer", "Auditor", "Job", "Pool", "Ranking", "RefusedError", "ScoreJob", "TextsJob"]
