"""What `rexit index` ends in, as its tests look at it."""

from __future__ import annotations

from pathlib import Path

from running.command import Ended


def assert_refused(ended: Ended, data: Path, message: str) -> None:
    """Exit code 2, one line that holds `message`, nothing on stdout and nothing written."""
    code, out, err = ended
    assert (code, out) == (2, "") and err.startswith("rexit: error: ") and err.count("\n") == 1, err
    assert message in err
    assert_nothing_written(data)


def assert_nothing_written(data: Path) -> None:
    assert sorted(p.name for p in data.iterdir()) == ["items.csv", "prompt.toml", "ratings.csv", "tok", "users.csv"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
