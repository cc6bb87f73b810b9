"""Policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import refresh
from damage.table import POLICY, VARIANT, Case, Damage, Row, change_json, change_policy, table
from rexit.format.bundle.files import SCHEMA

NEVER = {"a": 1.0, "b": 0.0, "upper": None, "lower": None}
TOP_K = {"k": 2, "ordered": False, "rise": [0.5, 0.1], "fall": [0.5, 0.1]}
MADE_ON: dict[str, Any] = {
    "device": "cuda",
    "threads": 77,
    "machine": {"cpu": "a", "architecture": "pdp11", "cores": 1, "onnxruntime": "0.9.1", "rexit": "0.0.9"},
}


def row(name: str, names: str, at: dict[str, Any], status: str = "CORRUPT") -> Row:
    """OK: it must do no harm."""
    return Row(name, status, names, POLICY, at, "running" if status == "OK" else "opening")


def earlier(weights: Any, a: float = -1.0) -> dict[str, Any]:
    """Weights of the heads before the third."""
    return {"/exits/2/a": a, "/exits/2/earlier": weights}


def top_k(**changes: Any) -> dict[str, Any]:
    return {"/top_k": TOP_K | changes}


def made_on(**changes: Any) -> dict[str, Any]:
    return {"/exits": [NEVER] * 3, "/made_on": MADE_ON | changes}


def of_another_variant(folder: Path) -> None:
    change_policy(folder, {})
    change_json(folder, VARIANT, {"/producer": "exported again"})
    refresh(folder)


def unlike_the_report(policy: bool) -> Damage:
    """Calibration wrote another policy. policy: whether there is still one."""

    def damage(folder: Path) -> None:
        if policy:
            change_policy(folder, {})
        report = {"schema": SCHEMA, "policy_sha256": "0" * 64}
        (folder / POLICY).with_name("report.json").write_text(json.dumps(report))

    return damage


CASES = table(
    row("policy_with_too_few_exits", "exits", {"/exits": [NEVER] * 2}),
    row("policy_whose_floor_is_a_text", "floor c: is ", {"/floor": {"c": "-1"}}),
    row("policy_whose_floor_lacks_its_c", "floor", {"/floor": {"recall": 0.95}}),
    row("policy_with_a_floor", "", {"/floor": {"c": -1.5}}, "OK"),
    row("policy_with_a_negative_slope", "exits[1] a", {"/exits/1/a": -1.0}),
    row("policy_with_a_slope_that_leaves_float32", "exits[1] a", {"/exits/1": {**NEVER, "a": 3e38}}),
    row("policy_with_an_intercept_that_leaves_float32", "exits[1] b", {"/exits/1": {**NEVER, "b": -3e38}}),
    row("policy_with_a_flat_slope", "exits[1] a: is 0, expected more than 0", {"/exits/1/a": 0}),
    row("policy_with_a_slope_that_is_flat_in_float32", "exits[1] a: is ", {"/exits/1/a": 1e-50}),
    row("policy_with_a_threshold_beyond_float32", "exits[1] upper: is ", {"/exits/1/upper": 1e39}),
    row("policy_that_keeps_some", "", {"/exits/0/keep": 1}, "OK"),
    row("policy_that_keeps_nobody", "exits[0] keep: is 0", {"/exits/0/keep": 0}),
    row("policy_that_keeps_too_many", "exits[1] keep: is 2147483648", {"/exits/1/keep": 1 << 31}),
    row("policy_that_keeps_some_at_the_end", "exits[2]", {"/exits/2/keep": 3}),
    row("policy_with_heads_before_the_first", "exits[0] earlier: has 1 numbers", {"/exits/0/earlier": [1]}),
    row("policy_that_reads_earlier_heads", "", earlier([0.5, -0.25]), "OK"),
    row("policy_with_an_empty_list_of_earlier_heads", "", earlier([], a=1.0), "OK"),
    row("policy_with_too_few_earlier_heads", "exits[2] earlier: has 1 numbers, expected one per earlier exit, 2", earlier([0.5])),
    row("policy_with_an_earlier_head_that_is_its_own", "exits[2] earlier: has 3 numbers", earlier([0.5, 0.5, 0.5])),
    row(
        "policy_with_a_weight_that_leaves_float32",
        "exits[2] earlier[1]: is -2e+09, expected -1e+09 to 1e+09",
        earlier([0.5, -2e9]),
    ),
    row(
        "policy_with_a_slope_beside_earlier_heads_that_leaves_float32",
        "exits[2] a: is -1e+10, expected -1e+09 to 1e+09",
        earlier([0.5, 0.5], a=-1e10),
    ),
    row("policy_with_a_prior_shift", "", {"/prior_shift": -4.5}, "OK"),
    row("policy_with_a_prior_shift_beyond_all_odds", "prior_shift: is -101, expected -100 to 100", {"/prior_shift": -101}),
    row("policy_of_an_older_schema", "make it again with `rexit calibrate`", {"/schema": 2}, "UNSUPPORTED"),
    row("policy_with_maps_to_come", "earlier-heads-2", {"/requires": ["earlier-heads-2"]}, "UNSUPPORTED"),
    row("policy_with_nan", "not valid JSON", {"/exits/1/b": float("nan")}),
    row("policy_with_true_for_a_number", "exits[1] a: is ", {"/exits/1/a": True}),
    row("policy_without_patience", "patience: is 0, expected 1 to 1024", {"/patience": 0}),
    row("policy_with_endless_patience", "patience: is 1025, expected 1 to 1024", {"/patience": 1025}),
    Case("policy_of_another_variant", "MISMATCH", "policy.json", of_another_variant),
    Case("policy_edited_after_calibration", "CORRUPT", "policy.json: SHA-256", unlike_the_report(True), "verifying"),
    Case("policy_deleted_after_calibration", "CORRUPT", "policy.json: missing", unlike_the_report(False), "verifying"),
    row(
        "policy_with_rules_of_the_slate",
        "",
        {"/quorum": 2, "/top_k": {"k": 2, "ordered": True, "rise": [0.5, 0], "fall": [0.5, 0.1]}},
        "OK",
    ),
    row("policy_made_elsewhere", "", made_on(), "OK"),
    row("policy_made_for_short_slates", "", made_on(slate=4), "OK"),
    row("policy_made_for_no_slates", "made_on slate: is 0, expected ", made_on(slate=0)),
    row("policy_made_without_threads", "made_on threads: is 0, expected ", made_on(threads=0)),
    row("policy_made_on_no_machine", "made_on: `machine` is missing", {"/made_on": {"device": "cpu", "threads": 2}}),
    row("policy_with_the_largest_quorum", "", {"/quorum": 2**31 - 1}, "OK"),
    row("policy_with_a_quorum_beyond_a_request", "quorum: is 2147483648, expected 0 to 2147483647", {"/quorum": 2**31}),
    row("policy_with_a_negative_quorum", "quorum: is -1, expected 0 to 2147483647", {"/quorum": -1}),
    row("policy_with_a_top_k_of_none", "top_k k: is 0, expected 1 to 2147483647", top_k(k=0)),
    row("policy_with_too_many_rises", "top_k rise: has 3 numbers, expected one per exit but the last, 2", top_k(rise=[0, 0, 0])),
    row("policy_with_too_few_falls", "top_k fall: has 1 numbers", top_k(fall=[0])),
    row("policy_with_a_fall_upwards", "top_k fall[1]: is -1, expected ", top_k(fall=[0, -1])),
)
