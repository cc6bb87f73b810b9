"""`rexit serve`: scores over HTTP.

    jobs.py       a request as a session takes it, texts as token ids; what the service itself reads of a request
    rerank.py     requests and answers of rerankers' clients
    pool.py       sessions, a thread each, and the queue before them
    auditor.py    some answers scored again at full depth, and the tests of what the policy loses
    metrics.py    what Prometheus reads
    openapi.py    the description of requests and answers
    app.py        routes, status codes, limits
    server.py     the socket and the signals

Needs the extra `serve`.
"""

from rexit.serve.app import Limits, create_app
from rexit.serve.auditor import Auditor
from rexit.serve.pool import Pool
from rexit.serve.server import run

__all__ = ["Auditor", "Limits", "Pool", "create_app", "run"]
