"""Bundles in the proportions of a real one, for what is counted by instruction (tests/budgets/): 5,000 items, 2,000 users who
have met about a hundred each, embeddings of 64, longer lists in prompts, a policy with every rule.

From the shell, in tests/: `python -m builders.bundles.counted FOLDER` writes FOLDER/numbers; FOLDER/strings, whose ids are
text; and FOLDER/zero, with an exit zero of the default numbers and without a policy.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import PROGRAM, make_catalog
from builders.bundles.zero import NUMBERS, with_numbers

USERS, ITEMS, DIM = 2000, 5000, 64
HISTORY = (80, 121)
MAX_TOKENS = 512


def longer_program() -> dict[str, Any]:
    program = copy.deepcopy(PROGRAM)
    recent, similar = program["prefix"][3], program["prefix"][4]
    recent["limit"], similar["limit"] = 12, 8
    return {**program, "max_prefix_tokens": 70, "max_candidate_tokens": 24}


def write_counted(place: Path) -> None:
    for name, strings in (("numbers", False), ("strings", True), ("zero", False)):
        catalog = make_catalog(USERS, ITEMS, strings=strings, dim=DIM, history=HISTORY)
        catalog.info["prompt"] = longer_program()
        if name == "zero":
            write_bundle(
                place / name, BundleOptions(with_numbers(catalog, [*NUMBERS[:5], {"op": "similar_like_rate", "limit": 10}]))
            )
            continue
        folder = write_bundle(place / name, BundleOptions(catalog, max_tokens=MAX_TOKENS))
        exits = [{"a": 1.25, "b": -0.5, "upper": limit, "lower": limit} for limit in (4.0, 2.0, 0.0)]
        write_policy(folder, exits, quorum=1, top_k={"k": 5, "ordered": True, "rise": [6.0, 3.0], "fall": [6.0, 3.0]})


if __name__ == "__main__":
    write_counted(Path(sys.argv[1]))
