"""Programs beside the command line end in one line for a user's mistake."""

from __future__ import annotations

import sys

import pytest

from rexit import errors
from rexit.errors import InputError, RexitError, script


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (InputError("--steps 0, expected at least 1"), "train: --steps 0, expected at least 1"),
        (FileNotFoundError(2, "No such file or directory", "a.tsv"), "train: a.tsv: No such file or directory"),
        (OSError("a.parquet: not a file"), "train: a.parquet: not a file"),
    ],
)
def test_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, mistake: Exception, line: str) -> None:
    @script
    def main() -> None:
        raise mistake

    monkeypatch.setattr(sys, "argv", ["examples/train.py"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == line


def test_defect_is_not_hidden() -> None:
    @script
    def main(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^7$"):
        main(7)


def test_exit_codes_that_scripts_rely_on() -> None:
    codes = {
        kind.__name__: kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RexitError)
    }
    assert codes == {
        "RexitError": 1,
        "InputError": 2,
        "CheckpointError": 3,
        "BundleError": 4,
        "ParityError": 5,
        "QualityError": 5,
        "BackendError": 6,
        "DeadlineError": 7,
        "CancelledError": 1,
        "PolicyError": 9,
    }
