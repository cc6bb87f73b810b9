"""Several objectives: their names, their logits, and their part of a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import refresh, write_json, write_policy
from damage.cases import Cases
from damage.edits import VARIANT

OBJECTIVES = ("click", "like")
CASES = Cases("opening")
"""Of a bundle with these objectives."""
ends_in = CASES.ends_in

UTILITY = {"like": 2.0, "click": -1.0}
MAPS = [{"a": 1.5, "b": 0.25}, {"a": 0.5, "b": -1.0}]


def with_utility(folder: Path, utility: Any = UTILITY, maps: Any = MAPS, **others: Any) -> None:
    """A policy whose second exit has such maps."""
    exits: list[dict[str, Any]] = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0, "objectives": MAPS} for _ in range(3)]
    exits[1]["objectives"] = maps
    write_policy(folder, exits, utility=utility, **others)


def edit_variant(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / VARIANT).read_text()) | changes
    write_json(folder / VARIANT, {name: part for name, part in value.items() if part is not None})
    refresh(folder)


@ends_in("OK", found="running")
def sound_with_objectives(folder: Path) -> None:
    pass


@ends_in("OK", found="running")
def policy_with_a_utility(folder: Path) -> None:
    with_utility(folder)


@ends_in("UNSUPPORTED", "objectives-2")
def variant_with_objectives_to_come(folder: Path) -> None:
    edit_variant(folder, requires=["objectives", "objectives-2"])


@ends_in("CORRUPT", "logits")
def variant_with_more_objectives_than_logits(folder: Path) -> None:
    edit_variant(folder, objectives=["click", "like", "buy"])


@ends_in("CORRUPT", "logits")
def variant_that_hides_its_objectives(folder: Path) -> None:
    edit_variant(folder, objectives=None)


@ends_in("CORRUPT", "objectives: has 1 names, expected 2 to 16")
def variant_with_one_name(folder: Path) -> None:
    edit_variant(folder, objectives=["click"])


@ends_in("CORRUPT", "objectives: has 17 names, expected 2 to 16")
def variant_with_too_many_objectives(folder: Path) -> None:
    edit_variant(folder, objectives=[f"o{n}" for n in range(17)])


@ends_in("CORRUPT", "objectives: has `click` twice")
def variant_with_an_objective_twice(folder: Path) -> None:
    edit_variant(folder, objectives=["click", "click"])


@ends_in("CORRUPT", "objectives[1]: is `li\u00a0ke`, expected 1 to 64 letters, digits, _ or -")
def variant_with_a_space_in_a_name(folder: Path) -> None:
    edit_variant(folder, objectives=["click", "li\u00a0ke"])


@ends_in("CORRUPT", "objectives")
def variant_with_a_number_for_objectives(folder: Path) -> None:
    edit_variant(folder, objectives=2)


@ends_in("MISMATCH", "has no `utility`, the variant has the objectives click, like")
def policy_without_a_utility(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3)


@ends_in("MISMATCH", "utility: is for other objectives than the variant's, click, like")
def policy_for_other_objectives(folder: Path) -> None:
    with_utility(folder, {"click": 1.0, "buy": 1.0})


@ends_in("MISMATCH", "utility: is for other objectives than the variant's, click, like")
def policy_for_more_objectives(folder: Path) -> None:
    with_utility(folder, {**UTILITY, "buy": 1.0})


@ends_in("MISMATCH", "utility: is for other objectives than the variant's, click, like")
def policy_with_an_objective_without_a_weight(folder: Path) -> None:
    with_utility(folder, {"click": 1.0, "like": None})


@ends_in("CORRUPT", "utility: all weights are 0")
def policy_with_no_weight(folder: Path) -> None:
    with_utility(folder, {"click": 0.0, "like": 1e-60})


@ends_in("CORRUPT", "utility like: is 2e+09, expected -1e+09 to 1e+09")
def policy_with_a_weight_beyond_the_limit(folder: Path) -> None:
    with_utility(folder, {"click": 1.0, "like": 2e9})


@ends_in("CORRUPT", "utility like")
def policy_with_a_weight_of_text_in_its_utility(folder: Path) -> None:
    with_utility(folder, {"click": 1.0, "like": "2"})


@ends_in("CORRUPT", "utility")
def policy_with_a_list_for_a_utility(folder: Path) -> None:
    with_utility(folder, [1.0, 2.0])


@ends_in("CORRUPT", "exits[1] objectives: has 1 maps, expected one per objective, 2")
def policy_with_too_few_maps(folder: Path) -> None:
    with_utility(folder, maps=MAPS[:1])


@ends_in("CORRUPT", "exits[1] objectives[1] a: is 0, expected more than 0")
def policy_with_a_flat_map(folder: Path) -> None:
    with_utility(folder, maps=[MAPS[0], {"a": 0.0, "b": 1.0}])


@ends_in("CORRUPT", "exits[1] objectives[0] b: is 2e+09, expected -1e+09 to 1e+09")
def policy_with_a_map_beyond_the_limit(folder: Path) -> None:
    with_utility(folder, maps=[{"a": 1.0, "b": 2e9}, MAPS[1]])


@ends_in("CORRUPT", "exits[1] objectives[0]")
def policy_with_a_map_of_numbers(folder: Path) -> None:
    with_utility(folder, maps=[1.0, 2.0])


@ends_in("CORRUPT", "prior_shift")
def policy_with_a_prior_shift_beside_a_utility(folder: Path) -> None:
    with_utility(folder, prior_shift=-1.0)


@ends_in("CORRUPT", "exits[1]")
def policy_with_a_utility_and_no_maps(folder: Path) -> None:
    path = folder / "variants/cpu-fp32/policy.json"
    with_utility(folder)
    value = json.loads(path.read_text())
    del value["exits"][1]["objectives"]
    write_json(path, value)
