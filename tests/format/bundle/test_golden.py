"""Golden samples: read as written, and refused where their arrays do not fit together."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rexit.errors import BundleError
from rexit.format.bundle import Golden, GoldenSlate


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


def slates_with(*inputs: list[list[int]]) -> Golden:
    none, one = np.zeros(0, np.int32), np.ones(1, np.int32)
    codes = [[np.array(part, np.int32) for part in parts] for parts in inputs]
    return Golden([GoldenSlate(0, one, 5, one, [one], np.zeros((1, 2), np.float32), parts, none) for parts in codes])


def test_codes_of_inputs(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    inputs = [[4, 5], []], [[6], [7, 8, 9]]
    slates_with(*inputs).write(path)
    assert [[part.tolist() for part in slate.inputs] for slate in Golden.read(path, 2).slates] == list(inputs)
    save_file({**load_file(path), "input_offsets": np.array([0, 1, 2])}, path)
    with pytest.raises(BundleError, match="input_offsets does not split 6 entries into 2"):
        Golden.read(path, 2)
    slates_with([], []).write(path)
    assert not {"input_offsets", "input_codes"} & load_file(path).keys()
    assert [slate.inputs for slate in Golden.read(path, 2).slates] == [[], []]
