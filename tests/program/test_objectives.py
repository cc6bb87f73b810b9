"""`rexit-run` on a bundle with several objectives: as Python has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.bundles.held_out import write_ranked
from rexit import runtime
from running.command import Run
from running.program import run_program

SLATE = ("--user", 100, "--items", "3,8,18")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("objectives"), objectives=("click", "like")).bundle


def test_scores_are_those_of_python(several: Path, run: Run) -> None:
    with runtime.open(several) as session:
        expected = session.score(100, [3, 8, 18]).to_dict()["scores"]
    assert json.loads(run_program("score", several, *SLATE, "--json").out)["scores"] == expected
    assert run("score", several, *SLATE, "--json").json["scores"] == expected
    answer = run_program("pipe", several, stdin=json.dumps({"user": 100, "items": [3, 8, 18]}) + "\n").out
    assert json.loads(answer)["scores"] == expected
    for table in (run_program("score", several, *SLATE).out, run("score", several, *SLATE).out):
        assert "click" in table and f"{expected[0]['objectives']['like']:.4f}" in table
