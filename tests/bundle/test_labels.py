"""Names of several objectives."""

from __future__ import annotations

from typing import Any

import pytest

from rexit.bundle.labels import check_names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["click"], "has 1 names, expected 2 to 16"),
        ([f"o{n}" for n in range(17)], "has 17 names, expected 2 to 16"),
        (["click", "click"], "has 'click' twice"),
        (["click", "a b"], r"objectives\[1\]: is 'a b', expected 1 to 64 letters"),
        (["click", 3], r"objectives\[1\]: is 3, expected 1 to 64 letters"),
        ("click", "is 'click', expected an array"),
    ],
)
def test_names(names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_names(names, "objectives")
    assert check_names(["click", "watch-time_2"], "objectives") == ("click", "watch-time_2")
