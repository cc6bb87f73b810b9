"""`rexit-run` on a bundle with several objectives: as Python has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.bundles.held_out import write_ranked
from rexit import runtime
from running.command import Run
from running.program import assert_one_error, run_program

WEIGHTS = {"click": -1.0, "like": 2.5}
TEXT = "like=2.5,click=-1"
SLATE = ("--user", 100, "--items", "3,8,18")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("objectives"), objectives=("click", "like")).bundle


def test_scores_are_those_of_python(several: Path, run: Run) -> None:
    with runtime.open(several) as session:
        expected = [session.score(100, [3, 8, 18], weights=weights).to_dict()["scores"] for weights in (None, WEIGHTS)]
    for rows, words in zip(expected, ((), ("--weights", TEXT)), strict=True):
        assert json.loads(run_program("score", several, *SLATE, *words, "--json").out)["scores"] == rows
        assert run("score", several, *SLATE, *words, "--json").json["scores"] == rows
    requests = [{"user": 100, "items": [3, 8, 18]}, {"user": 100, "items": [3, 8, 18], "weights": WEIGHTS}]
    answers = run_program("pipe", several, stdin="".join(json.dumps(request) + "\n" for request in requests)).out.splitlines()
    assert [json.loads(answer)["scores"] for answer in answers] == expected
    for table in (run_program("score", several, *SLATE).out, run("score", several, *SLATE).out):
        assert "click" in table and f"{expected[0][0]['objectives']['like']:.4f}" in table


def test_golden_samples_hold(several: Path) -> None:
    assert run_program("verify", several).code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click", "weights 'click', expected NAME=NUMBER"),
        ("click=1,like=x", "weights 'like=x', expected NAME=NUMBER"),
        ("click=1,click=2", "weights has click twice"),
        ("click=1", "weights has click, expected click, like"),
        ("click=1,like=2,buy=3", "weights has buy, click, like, expected click, like"),
        ("click=0,like=0", "request.weights: all are 0"),
    ],
)
def test_weights_that_cannot_be(text: str, message: str, several: Path) -> None:
    assert_one_error(run_program("score", several, *SLATE, "--weights", text), 2, message)


def test_a_line_with_weights_that_cannot_be(several: Path, bundle: Path) -> None:
    for folder, weights, message in (
        (several, [1, 2], "weights is array, expected an object"),
        (several, {"click": "1", "like": 2}, "weights 'click' is string, expected a number"),
        (bundle, {"click": 1}, "weights has click, the bundle has a single objective"),
    ):
        line = json.dumps({"user": 100, "items": [3], "weights": weights}) + "\n"
        assert message in json.loads(run_program("pipe", folder, stdin=line).out)["error"]["message"]
