"""benchmarks/rerankers/flag_embedding.py where its environment cannot be made: one line. The comparison needs a network."""

import subprocess
from pathlib import Path

import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/rerankers")


def test_no_package_index_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flag_embedding

    def fails(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(flag_embedding.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(flag_embedding.subprocess, "run", fails)
    with pytest.raises(SystemExit) as caught:
        flag_embedding.environment(tmp_path / "env")
    assert str(caught.value) == f"{tmp_path / 'env'}: the environment cannot be made: ERROR: No matching distribution"
    assert not (tmp_path / "env" / "made").exists()


def test_no_room_is_one_line(tmp_path: Path) -> None:
    import flag_embedding

    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"the environment cannot be made: .*Not a directory"):
        flag_embedding.environment(tmp_path / "file" / "env")
