"""rexit: early-exit LLM recommenders, from ratings to the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.runtime import open

__all__ = ["__version__", "open"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`rexit.open` is `rexit.runtime.open`, which is loaded on first use: `import rexit` alone loads nothing."""
    if name != "open":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rexit.runtime import open

    return open


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
