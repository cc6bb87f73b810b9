"""How long a request may take."""

from __future__ import annotations

from numbers import Real

from rexit.errors import InputError

LONGEST_MS = 1e12  # 31 years: as microseconds it fits every clock


def check_deadline(deadline_ms: float) -> None:
    """Raises InputError for a deadline that is not a number above 0 and at most `LONGEST_MS` milliseconds."""
    is_number = isinstance(deadline_ms, Real) and not isinstance(deadline_ms, bool)
    if not is_number or not 0 < deadline_ms <= LONGEST_MS:
        raise InputError(f"deadline_ms is {deadline_ms!r}, expected a number above 0 and at most 1e12")
