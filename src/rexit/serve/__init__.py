"""`rexit serve`: scores over HTTP.

    messages.py   the fields of a request and of an answer
    pool.py       sessions, a thread each, and the queue before them
    metrics.py    what Prometheus reads
    app.py        routes, status codes, limits
    server.py     the socket and the signals

Needs the extra `serve`.
"""

from rexit.serve.app import Limits, create_app
from rexit.serve.pool import Pool
from rexit.serve.server import run

__all__ = ["Limits", "Pool", "create_app", "run"]
