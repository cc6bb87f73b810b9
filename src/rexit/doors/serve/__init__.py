"""`rexit serve`: scores over HTTP.

    requests.py   what a body may say, that of rerankers' clients, too
    prometheus.py what Prometheus reads
    app.py        routes, status codes, limits, description
    server.py     the socket and the signals

Needs the extra `serve`.
"""

from rexit.doors.serve.app import Limits, create_app
from rexit.doors.serve.server import run

__all__ = ["Limits", "create_app", "run"]
