"""`rexit serve`: scores over HTTP.

    jobs.py       requests and answers, those of rerankers' clients, too
    pool.py       sessions, a thread each, and the queue before them
    auditor.py    some requests traced, and the test of what the policy loses
    likeness.py   whether requests are like those that calibrated the policy
    metrics.py    what Prometheus reads
    app.py        routes, status codes, limits, description
    server.py     the socket and the signals

Needs the extra `serve`.
"""

from rexit.serve.app import Limits, create_app
from rexit.serve.auditor import Auditor
from rexit.serve.pool import Pool
from rexit.serve.server import run

__all__ = ["Auditor", "Limits", "Pool", "create_app", "run"]
