"""rexit: early-exit LLM recommenders, from ratings to the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rexit import errors
from rexit.devices import Provider
from rexit.format.request import Request

if TYPE_CHECKING:
    from rexit.doors.rankers import Recommender, Reranker
    from rexit.runtime import Scores, Session, open

__all__ = ["Provider", "Recommender", "Request", "Reranker", "Scores", "Session", "__version__", "errors", "open"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Most names are loaded on first use: `import rexit` alone loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rexit import runtime
    from rexit.doors import rankers

    return getattr(rankers if name in ("Recommender", "Reranker") else runtime, name)


def __dir__() -> list[str]:
    return list(__all__)
