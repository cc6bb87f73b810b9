"""Which cases of a parametrized test the fast suite keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fast(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """`cases` as pytest parameters: all but those `chosen` are slow, so that `make test-all` alone runs them.

    Raises:
        ValueError: one of `chosen` is no case.
    """
    values = list(cases)
    if unknown := [value for value in chosen if value not in values]:
        raise ValueError(f"{unknown} are not among the cases")
    return [value if value in chosen else _slow(value) for value in values]


def _slow(value: Any) -> Any:
    """A tuple is a case of several arguments."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
