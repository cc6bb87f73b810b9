"""Counters: their bins, and files that are none."""

import json
from pathlib import Path

import numpy as np
import pytest

from rexit.bundle import Counters
from rexit.bundle.counters import histogram
from rexit.errors import BundleError


def made() -> Counters:
    histograms = np.zeros((2, 32), np.int64)
    histograms[0, 15], histograms[0, 31], histograms[1, 3] = 3, 2, 4
    return Counters(np.array([5, 4]), np.array([1, 3]), np.array([0, 1]), histograms)


def test_bins_are_half_open_and_the_outer_ones_open() -> None:
    """As in tests/cpp/session/test_counters.cpp."""
    c = [-np.inf, -1e30, -8, -7.6, -7.5, -0.1, -0.0, 0, 0.49999997, 0.5, 7.4999995, 7.5, 8, 1e30, np.inf]
    expected = [0, 0, 0, 0, 1, 15, 16, 16, 16, 17, 30, 31, 31, 31, 31]
    assert [int(histogram(np.array([value], np.float32)).argmax()) for value in c] == expected


def test_written_and_read_again(tmp_path: Path) -> None:
    made().write(tmp_path / "counters.json", "d", None)
    again = Counters.read(tmp_path / "counters.json", 2, "d")
    assert again.to_json() == made().to_json()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"variant_sha256": "e"}, "counted with variant e…, this one is d"),
        ({"variant_sha256": None}, "variant_sha256: is None, expected a string"),
        ({"reached": [5]}, "reached: has 1 entries, expected one per exit, 2"),
        ({"reached": None}, "reached: is None, expected an array"),
        ({"stopped": [1, -1]}, r"stopped\[1\]: is -1, expected an integer >= 0"),
        ({"stopped": [1, 0.5]}, r"stopped\[1\]: is 0.5"),
        ({"stopped": [True, 0]}, r"stopped\[0\]: is True"),
        ({"cut_short": [0, 10**30]}, r"cut_short\[1\]: is 1000"),
        ({"stopped": [6, 3]}, r"stopped\[0\]: more candidates ended at the exit than the 5 that reached it"),
        ({"histograms": [[0] * 32]}, "histograms: has 1 entries, expected one per exit, 2"),
        ({"histograms": [[0] * 31] * 2}, r"histograms\[0\]: has 31 counts, expected 32"),
        ({"histograms": [[0] * 32] * 2}, r"histograms\[0\]: has 0 candidates, 5 reached the exit"),
        ({"schema": 2}, "schema 2"),
        ({"requires": ["bins"]}, "requires"),
    ],
)
def test_what_is_no_file_of_counters(tmp_path: Path, change: dict, expected: str) -> None:
    path = tmp_path / "counters.json"
    made().write(path, "d", None)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=expected) as caught:
        Counters.read(path, 2, "d")
    assert str(path) in str(caught.value)
