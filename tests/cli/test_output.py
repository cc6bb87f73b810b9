"""Progress where there is no terminal: a line from time to time."""

from __future__ import annotations

import pytest

from rexit.cli.common import output


@pytest.mark.parametrize(("silence", "lines"), [(0.0, "rexit: work: 1 of 3\nrexit: work: 2 of 3\n"), (60.0, "")])
def test_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silence: float, lines: str
) -> None:
    monkeypatch.setattr(output, "SILENCE", silence)
    with output.progress() as bar:
        show = output.shown(bar)
        show("work", 1, 3)
        show("work", 2, 3)
    assert capsys.readouterr() == ("", lines)
