"""`rexit score` of one user: what it prints and with which code it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.variants import QUANTIZED, add_variant
from builders.policies import full_depth
from rexit import runtime
from rexit.format.bundle import Bundle
from running.command import Run, assert_one_line


def test_a_choice_of_variants_is_said(run: Run, place: Path) -> None:
    add_variant(place / "bundle", QUANTIZED)
    words = ("score", place / "bundle", "--user", USER_IDS[0], f"--items={ITEM_IDS[0]}")
    there = f"there are: cpu-fp32, {QUANTIZED} (--variant)"
    assert run(*words).err == f"rexit: variant cpu-fp32, the first, none has a policy; {there}\n"
    opened = Bundle.open(place / "bundle", QUANTIZED)
    full_depth(3, opened.variant_sha256).write(opened.folder / "policy.json")
    scored = run(*words)
    assert scored.err == f"rexit: variant {QUANTIZED}, the first with a policy; {there}\n" and f", {QUANTIZED}" in scored.out
    assert run(*words, "--variant", "cpu-fp32").err == ""


def test_unknown_user_is_placed_by_recent_items(run: Run, place: Path) -> None:
    score = ("score", place / "bundle", "--user", 5, "--items", "3,8", "--json")
    without, liked, disliked = run(*score), run(*score, "--recent", "18,23:1"), run(*score, "--recent", "18:0,23:0")
    assert "user 5 is not in the catalog: scored without any history" in without.err
    assert "placed by --recent alone" in liked.err
    assert without.json["known"] is False and run(*score[:3], USER_IDS[0], *score[4:]).json["known"] is True
    answers = {json.dumps(e.json["scores"]) for e in (without, liked, disliked)}
    assert len(answers) == 3


def test_items_are_retrieved(run: Run, place: Path) -> None:
    score = ("score", place / "bundle", "--user", USER_IDS[0], "--json")
    best = run(*score, "--retrieve", 5, "--top-k", 2)
    with runtime.open(place / "bundle") as session:
        items = session.score(USER_IDS[0], retrieve=5).items.tolist()
        assert best.json["scores"] == session.score(USER_IDS[0], items, top_k=2).to_dict()["scores"]
    assert best.json["scores"] == run(*score, f"--items={','.join(map(str, items))}", "--top-k", 2).json["scores"]


def test_a_moment_outside_the_catalogs_times_is_said(run: Run, original: Path) -> None:
    """20240301 is no date but a number of seconds: without a word the history would be empty, or whole."""
    first, last = (Bundle.open(original / "bundle").catalog.info["order"][name] for name in ("first", "last"))
    words = ("score", original / "bundle", "--user", 100, "--items", "3", "--as-of")
    err = run(*words, "1970-01-01").err
    assert err == (
        "rexit: --as-of 0 (1970-01-01T00:00:00Z) is not after the catalog's first interaction, "
        f"{first} (1970-01-01T00:00:{first}Z): none is visible\n"
    )
    assert f"is after the catalog's last interaction, {last} " in run(*words, 20240301).err
    assert run(*words, first + 1).err == "" and run(*words, last).err == ""
    assert "all are visible" in run("inspect", original / "bundle", "--user", 100, "--items", "3", "--as-of", "2024-03-01").err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("--user", 100, "--items", "3,4"), 2, "item 4 is not in the catalog"),
        (("--user", 100, "--items", "3", "--recent", "4:1"), 2, "item 4 is not in the catalog"),
        (("--user", 100, "--retrieve", 0), 2, "retrieve is 0, expected an integer from 1 to 10000"),
        (("--user", 5, "--retrieve", 3), 2, "retrieve is 3, but user 5 likes no item that has an embedding"),
        (("--user", 100, "--items", "3", "--retrieve", 3), 2, "retrieve is set, and so is items: expected one of them"),
        (("--user", 100, "--items", "three"), 2, "item 'three': this catalog's item ids are 64-bit integers"),
        (("--user", 100, "--items", '3, "4,""5"'), 2, "item '4,\"5': this catalog's item ids are 64-bit integers"),
        (("--user", 100, "--items", "3", "--recent", '"4,5:1"'), 2, "item '4,5': this catalog's item ids"),
        (
            ("--user", 100, "--items", '3,"4'),
            2,
            "'3,\"4': expected ids separated by commas, one with a comma in quotes as in CSV",
        ),
        (("--user", 100, "--items", '"3"8'), 2, "'\"3\"8': expected ids separated by commas"),
        (("--user", "me", "--items", "3"), 2, "user 'me': this catalog's user ids are 64-bit integers"),
        (("--user", "0100", "--items", "3"), 2, "user '0100': this catalog's user ids are 64-bit integers"),
        (("--user", 100, "--items", ","), 2, "no items given"),
        (("--user", 100), 2, "expected --user and --items or --retrieve, or --pairs and --out"),
        (("--user", 100, "--items", "3", "--variant", "gpu"), 2, "no variant 'gpu', there are: cpu-fp32"),
        (("--user", 100, "--items", "3", "--pairs", "x.csv"), 2, "--pairs names the users and items"),
        (("--pairs", "x.csv"), 2, "--pairs needs --out"),
        (("--user", 100, "--items", "3", "--out", "o.csv"), 2, "--out: only for --pairs; one slate is scored here, and printed"),
        (("--user", 100, "--items", "3", "--column", "user=u", "--out", "o.csv"), 2, "--out and --column: only for --pairs"),
    ],
)
def test_bad_arguments(run: Run, original: Path, words: tuple[object, ...], code: int, expected: str) -> None:
    assert_one_line(run("score", original / "bundle", *words), code, expected)


def test_no_such_bundle(run: Run, tmp_path: Path) -> None:
    assert_one_line(run("score", tmp_path / "none", "--user", 1, "--items", "3"), 4, "none: no such bundle folder")


def test_a_catalog_is_no_bundle(run: Run, place: Path) -> None:
    assert_one_line(run("score", place / "catalog", "--user", 1, "--items", "3"), 4, "catalog: is a catalog, expected a bundle")
    assert_one_line(run("score", place, "--user", 1, "--items", "3"), 4, "place: is not a bundle: it has no manifest.json")
    ended = run("calibrate", place / "bundle", "--catalog", place / "bundle")
    assert_one_line(ended, 4, "bundle: is a bundle, expected a catalog: the folder that `rexit index` wrote")
