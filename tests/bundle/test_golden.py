"""Golden samples: read as written, and refused where their arrays do not fit together."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rexit.bundle import Golden
from rexit.errors import BundleError


def golden() -> dict[str, np.ndarray]:
    """Two slates of two and one candidates, three exits."""
    return {
        "user": np.array([0, 3], np.int32),
        "as_of": np.array([5, 9]),
        "slate_offsets": np.array([0, 2, 3]),
        "item": np.array([4, 5, 6], np.int32),
        "prefix_offsets": np.array([0, 1, 3]),
        "prefix_tokens": np.array([7, 8, 9], np.int32),
        "candidate_offsets": np.array([0, 1, 3, 4]),
        "candidate_tokens": np.array([1, 2, 3, 4], np.int32),
        "log_odds": np.arange(9, dtype=np.float32).reshape(3, 3),
    }


def test_slates_are_cut_where_the_offsets_say(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    save_file(golden(), path)
    first, second = Golden.read(path, 3).slates
    assert (first.user, first.as_of, first.items.tolist(), first.prefix.tolist()) == (0, 5, [4, 5], [7])
    assert [c.tolist() for c in first.candidates] == [[1], [2, 3]]
    assert (second.user, second.items.tolist(), second.prefix.tolist()) == (3, [6], [8, 9])
    assert [c.tolist() for c in second.candidates] == [[4]]
    assert second.log_odds.tolist() == [[6, 7, 8]]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("slate_offsets", np.array([0, 2, 4]), "slate_offsets does not split 3 entries into 2"),
        ("candidate_offsets", np.array([0, 3, 1, 4]), "candidate_offsets"),
        ("prefix_offsets", np.array([1, 1, 3]), "prefix_offsets"),
        ("as_of", np.array([5]), "as_of has 1 entries, expected 2"),
        ("log_odds", np.zeros((3, 2), np.float32), r"log_odds is \[3, 2\], expected \[3, 3\]"),
        ("item", None, "item"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, name: str, value: np.ndarray | None, expected: str) -> None:
    table = golden()
    if value is None:
        del table[name]
    else:
        table[name] = value
    path = tmp_path / "golden.safetensors"
    save_file(table, path)
    with pytest.raises(BundleError, match=f"golden.safetensors: not golden samples: .*{expected}"):
        Golden.read(path, 3)


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    save_file(golden(), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match="not golden samples"):
        Golden.read(path, 3)
