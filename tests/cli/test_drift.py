"""`rexit drift`: counters of `rexit score` against the reference in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.held_out import AS_OF
from rexit import runtime
from rexit.bundle import Bundle, Counters
from rexit.calibration.drift import reference
from running.command import Run, assert_one_line, calibrate


def write_report(bundle: Bundle, **changes: Any) -> None:
    """As `rexit calibrate` writes it, of all users' slates as they are now, each seen twenty times."""
    with runtime.open(bundle.path) as session:
        c = np.concatenate([session.trace(user, ITEM_IDS, as_of=AS_OF) for user in USER_IDS] * 20)
    report = {"reference": reference(c, np.full(len(c), 2)), "variant_sha256": bundle.variant_sha256, "settings": {"slate": 20}}
    (bundle.folder / "report.json").write_text(json.dumps({"schema": 1, "requires": [], **report, **changes}))


@pytest.fixture
def served(run: Run, place: Path) -> Bundle:
    """A bundle whose report has a reference, and place/counters.json of the same slates."""
    bundle = Bundle.open(place / "bundle")
    write_report(bundle)
    rows = "".join(f"{user},{item},{AS_OF}\n" for user in USER_IDS for item in ITEM_IDS)
    (place / "pairs.csv").write_text(f"user_id,item_id,as_of\n{rows}")
    out = ("--out", place / "out.csv", "--counters", place / "counters.json")
    assert run("score", bundle.path, "--pairs", place / "pairs.csv", *out).code == 0
    return bundle


def test_the_same_slates_have_not_moved(run: Run, served: Bundle, place: Path) -> None:
    ended = run("drift", served.path, place / "counters.json", "--variant", "cpu-fp32", "--json")
    assert ended.code == 0
    result = ended.json
    assert result["verdict"] == "stable" and result["cut_short"] == 0
    assert [e["reached"] for e in result["exits"]] == [[240, 4800]] * 3
    assert [e["stopped"] for e in result["exits"]] == [[0, 0], [0, 0], [1, 1]]
    assert max(e["psi"] for e in result["exits"]) < 0.01 and min(e["needed"] for e in result["exits"]) > 50
    table = run("drift", served.path, place / "counters.json")
    assert table.code == 0 and "no drift" in table.out and "PSI" in table.out and "deadline" not in table.out


def test_other_users_have(run: Run, served: Bundle, place: Path) -> None:
    counters = Counters.read(place / "counters.json", 3, served.variant_sha256)
    moved, gone = np.roll(counters.histograms, 9, axis=1), np.array([0, 0, 24])
    moved[2, moved[2].argmax()] -= 24
    shifted = Counters(counters.reached - gone, counters.stopped - gone, np.array([0, 24, 0]), moved)
    shifted.write(place / "moved.json", served.variant_sha256, served.policy_sha256)
    ended = run("drift", served.path, place / "moved.json")
    assert ended.code == 0
    assert "drift at exit 0" in ended.out and "Calibrate again" in ended.out and "stopped 10.0% of the candidates" in ended.out


def test_too_few_say_how_many_are_needed(run: Run, served: Bundle, place: Path) -> None:
    command = ("score", served.path, "--user", USER_IDS[0], "--items", ITEM_IDS[2], "--counters", place / "few.json")
    assert run(*command).code == 0
    ended = run("drift", served.path, place / "few.json", "--json")
    assert ended.code == 0 and ended.json["verdict"] == "cannot tell"
    assert (
        f"1 candidates were counted at exit 0, at least {ended.json['exits'][0]['needed']} are needed" in ended.json["conclusion"]
    )


def test_a_calibrations_own_report_is_compared_with(run: Run, place: Path) -> None:
    assert calibrate(run, place).code == 0
    words = ("score", place / "bundle", "--user", USER_IDS[0], "--items", ITEM_IDS[2], "--counters", place / "few.json")
    assert run(*words).code == 0
    ended = run("drift", place / "bundle", place / "few.json", "--json")
    assert ended.code == 0 and next(e["reached"][1] for e in ended.json["exits"]) == 120, "the validation split's pairs"
    assert calibrate(run, place, "--from-traces", "--max-drop", 0.01).code == 0
    assert_one_line(run("drift", place / "bundle", place / "few.json"), 4, "it was calibrated since, count anew")


def test_bad_input_is_one_line(run: Run, served: Bundle, place: Path) -> None:
    counters, report = place / "counters.json", served.folder / "report.json"
    drift = ("drift", served.path, counters)
    good = json.loads(counters.read_text())
    for change, expected in (
        ({"variant_sha256": "0" * 64}, "counted with variant 000000000000…"),
        ({"reached": [1]}, f"{counters} reached: expected a list of 3 counts"),
        ({"schema": 7}, "schema 7"),
    ):
        counters.write_text(json.dumps({**good, **change}))
        assert_one_line(run(*drift), 4, expected)
    for text, expected in (("{", "not valid JSON"), ("[]", "expected a JSON object")):
        counters.write_text(text)
        assert_one_line(run(*drift), 4, expected)
    counters.unlink()
    assert_one_line(run(*drift), 4, f"{counters}: cannot be read")
    counters.write_text(json.dumps(good))
    for changes, expected in (
        ({"reference": None}, "has no `reference` to compare with: calibrate again"),
        ({"variant_sha256": "e"}, "made for another variant than this one: calibrate again"),
        ({"settings": {"slate": 0}}, f"{report} settings slate: is 0, expected a number of candidates: calibrate again"),
        ({"reference": {"reached": [1, 1, 1]}}, f"{report} reference stopped: expected a list of 3 counts"),
    ):
        write_report(served, **changes)
        assert_one_line(run(*drift), 4, expected)
    report.unlink()
    assert_one_line(run(*drift), 4, f"{report}: missing, there is nothing to compare with: run `rexit calibrate`")
    assert_one_line(run("drift", place / "nowhere", counters), 4, "nowhere")
