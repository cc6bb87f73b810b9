"""The lines that benchmarks/speed/growth.py fits."""

from pathlib import Path

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/speed")


@pytest.fixture
def growth():
    import growth

    return growth


def test_a_line_is_found_with_its_worst_error(growth) -> None:
    counts = (1, 10, 100)
    exact = np.array([[5.0 + 2 * n, 7.0 + 3 * n] for n in counts])
    first, second = growth.lines(exact, counts)
    assert (first["fixed_ms"], first["candidate_ms"]) == pytest.approx((5, 2)) and first["max_error"] == pytest.approx(
        0, abs=1e-9
    )
    assert (second["fixed_ms"], second["candidate_ms"]) == pytest.approx((7, 3))
    square = growth.lines(np.array([[1.0], [100.0], [10_000.0]]), counts)[0]
    assert square["max_error"] > 0.3


def test_plot_is_small(growth, tmp_path: Path) -> None:
    milliseconds = np.outer(np.array(growth.CANDIDATES) + 10.0, np.arange(1, 7))
    growth.plot(milliseconds, growth.lines(milliseconds, growth.CANDIDATES), "cpu-int8", tmp_path / "images" / "growth.png")
    data = (tmp_path / "images" / "growth.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) < 100_000
