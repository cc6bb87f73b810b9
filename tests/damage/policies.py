"""Policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import write_policy
from damage.cases import Cases
from damage.edits import VARIANT, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


def damaged_policy(folder: Path, **changes: Any) -> None:
    exits = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0} for _ in range(3)]
    exits[1] |= changes
    write_policy(folder, exits)


@ends_in("CORRUPT", "exits")
def policy_with_too_few_exits(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 2)


@ends_in("CORRUPT", "exits[1] a")
def policy_with_a_negative_slope(folder: Path) -> None:
    damaged_policy(folder, a=-1.0)


@ends_in("CORRUPT", "exits[1] a")
def policy_with_a_slope_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, a=3e38, upper=None, lower=None)


@ends_in("CORRUPT", "exits[1] b")
def policy_with_an_intercept_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, b=-3e38, upper=None, lower=None)


def with_earlier(folder: Path, earlier: Any, a: float = -1.0) -> None:
    exits: list[dict[str, Any]] = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0} for _ in range(3)]
    exits[2] |= {"a": a, "earlier": earlier}
    write_policy(folder, exits)


@ends_in("OK", found="running")
def policy_that_reads_earlier_heads(folder: Path) -> None:
    with_earlier(folder, [0.5, -0.25])


@ends_in("OK", found="running")
def policy_with_an_empty_list_of_earlier_heads(folder: Path) -> None:
    with_earlier(folder, [], a=1.0)


@ends_in("CORRUPT", "exits[2] earlier: has 1 numbers, expected one per earlier exit, 2")
def policy_with_too_few_earlier_heads(folder: Path) -> None:
    with_earlier(folder, [0.5])


@ends_in("CORRUPT", "exits[2] earlier: has 3 numbers")
def policy_with_an_earlier_head_that_is_its_own(folder: Path) -> None:
    with_earlier(folder, [0.5, 0.5, 0.5])


@ends_in("CORRUPT", "exits[2] earlier[1]: is -2e+09, expected -1e+09 to 1e+09")
def policy_with_a_weight_that_leaves_float32(folder: Path) -> None:
    with_earlier(folder, [0.5, -2e9])


@ends_in("CORRUPT", "exits[2] earlier[0]: is string")
def policy_with_a_weight_of_text(folder: Path) -> None:
    with_earlier(folder, ["0.5", 0.5])


@ends_in("CORRUPT", "exits[2] earlier: is number, expected an array")
def policy_with_a_number_for_earlier_heads(folder: Path) -> None:
    with_earlier(folder, 0.5)


@ends_in("CORRUPT", "exits[2] a: is -1e+10, expected -1e+09 to 1e+09")
def policy_with_a_slope_beside_earlier_heads_that_leaves_float32(folder: Path) -> None:
    with_earlier(folder, [0.5, 0.5], a=-1e10)


def with_prior_shift(folder: Path, shift: Any) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3, prior_shift=shift)


@ends_in("OK", found="running")
def policy_with_a_prior_shift(folder: Path) -> None:
    with_prior_shift(folder, -4.5)


@ends_in("CORRUPT", "prior_shift: is -101, expected -100 to 100")
def policy_with_a_prior_shift_beyond_all_odds(folder: Path) -> None:
    with_prior_shift(folder, -101)


@ends_in("CORRUPT", "prior_shift: is string, expected a number")
def policy_with_a_prior_shift_of_text(folder: Path) -> None:
    with_prior_shift(folder, "-4.5")


@ends_in("UNSUPPORTED", "earlier-heads-2")
def policy_with_maps_to_come(folder: Path) -> None:
    with_rules(folder, requires=["earlier-heads", "earlier-heads-2"])


@ends_in("CORRUPT", "not valid JSON")
def policy_with_nan(folder: Path) -> None:
    damaged_policy(folder, b=float("nan"))


@ends_in("CORRUPT", "exits[1] b")
def policy_beyond_float32(folder: Path) -> None:
    damaged_policy(folder, b=1e300)


@ends_in("CORRUPT", "exits[1] upper")
def policy_with_text(folder: Path) -> None:
    damaged_policy(folder, upper="1.0")


@ends_in("CORRUPT", "patience")
def policy_without_patience(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3, patience=0)


@ends_in("MISMATCH", "policy.json")
def policy_of_another_variant(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3)
    edit_json(folder, VARIANT, "producer", to="exported again")


def with_rules(folder: Path, **rules: Any) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3, **rules)


def damaged_top_k(folder: Path, **changes: Any) -> None:
    with_rules(folder, top_k={"k": 2, "ordered": False, "rise": [0.5, 0.1], "fall": [0.5, 0.1]} | changes)


@ends_in("OK", found="running")
def policy_with_rules_of_the_slate(folder: Path) -> None:
    with_rules(folder, quorum=0.1, top_k={"k": 2, "ordered": True, "rise": [0.5, 0], "fall": [0.5, 0.1]})


def made_on(folder: Path, **changes: Any) -> None:
    machine = {"cpu": "a", "architecture": "pdp11", "cores": 1, "onnxruntime": "0.9.1", "rexit": "0.0.9"}
    profile = {"device": "cuda", "threads": 77, "machine": machine} | changes
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3, made_on=profile)


@ends_in("OK", found="running")
def policy_made_elsewhere(folder: Path) -> None:
    made_on(folder)


@ends_in("OK", found="running")
def policy_made_for_short_slates(folder: Path) -> None:
    made_on(folder, slate=4)


@ends_in("CORRUPT", "made_on slate: is 0, expected 1 to 2147483647")
def policy_made_for_no_slates(folder: Path) -> None:
    made_on(folder, slate=0)


@ends_in("CORRUPT", "made_on threads: is 0, expected 1 to 2147483647")
def policy_made_without_threads(folder: Path) -> None:
    made_on(folder, threads=0)


@ends_in("CORRUPT", "made_on device: is null, expected a string")
def policy_made_nowhere(folder: Path) -> None:
    made_on(folder, device=None)


@ends_in("CORRUPT", "made_on machine rexit: is number, expected a string")
def policy_made_by_a_number(folder: Path) -> None:
    made_on(folder, machine={"rexit": 1})


@ends_in("UNSUPPORTED", "slate-rules-2")
def policy_with_rules_to_come(folder: Path) -> None:
    with_rules(folder, requires=["slate-rules", "slate-rules-2"])


@ends_in("CORRUPT", "quorum: is 1, expected 0 to below 1")
def policy_with_a_quorum_of_all(folder: Path) -> None:
    with_rules(folder, quorum=1)


@ends_in("CORRUPT", "quorum: is 1, expected 0 to below 1")
def policy_with_a_quorum_that_rounds_to_all(folder: Path) -> None:
    with_rules(folder, quorum=1 - 1e-12)


@ends_in("CORRUPT", "quorum: is -0.1")
def policy_with_a_negative_quorum(folder: Path) -> None:
    with_rules(folder, quorum=-0.1)


@ends_in("CORRUPT", "quorum: is boolean")
def policy_with_a_quorum_that_is_no_number(folder: Path) -> None:
    with_rules(folder, quorum=False)


@ends_in("CORRUPT", "not valid JSON")
def policy_with_a_quorum_of_nan(folder: Path) -> None:
    with_rules(folder, quorum=float("nan"))


@ends_in("CORRUPT", "top_k k: is 0, expected 1 to 2147483647")
def policy_with_a_top_k_of_none(folder: Path) -> None:
    damaged_top_k(folder, k=0)


@ends_in("CORRUPT", "top_k k: is 2147483648")
def policy_with_a_top_k_beyond_a_request(folder: Path) -> None:
    damaged_top_k(folder, k=2**31)


@ends_in("CORRUPT", "top_k ordered: is number, expected true or false")
def policy_with_an_order_of_one(folder: Path) -> None:
    damaged_top_k(folder, ordered=1)


@ends_in("CORRUPT", "top_k rise: has 3 numbers, expected one per exit but the last, 2")
def policy_with_too_many_rises(folder: Path) -> None:
    damaged_top_k(folder, rise=[0, 0, 0])


@ends_in("CORRUPT", "top_k fall: has 1 numbers")
def policy_with_too_few_falls(folder: Path) -> None:
    damaged_top_k(folder, fall=[0])


@ends_in("CORRUPT", "top_k fall[1]: is -1, expected 0 or more")
def policy_with_a_fall_upwards(folder: Path) -> None:
    damaged_top_k(folder, fall=[0, -1])


@ends_in("CORRUPT", "top_k rise[0]: is too large for a float32")
def policy_with_a_rise_beyond_float32(folder: Path) -> None:
    damaged_top_k(folder, rise=[1e39, 0])


@ends_in("CORRUPT", "top_k: `fall` is missing")
def policy_without_falls(folder: Path) -> None:
    with_rules(folder, top_k={"k": 1, "ordered": False, "rise": [0, 0]})


@ends_in("CORRUPT", "top_k: is array, expected an object")
def policy_with_a_list_for_top_k(folder: Path) -> None:
    with_rules(folder, top_k=[1])


@ends_in("MISMATCH", "utility: is for several objectives, the variant has one")
def policy_with_a_utility_for_one_objective(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3, utility={"click": 1.0})
