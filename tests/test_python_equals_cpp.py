"""A C++ program and Python give the same scores to the last bit: what is calibrated in one is what runs in the other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from rexit import runtime

BUILD = Path(os.environ.get("REXIT_TEST_BUILD", Path(__file__).parent.parent / "build"))
PROGRAM = BUILD / "example" / "rexit_score"
"""examples/cpp, built against the installed library by `make test`, which says where."""


def test_same_scores_and_exits(tmp_path: Path) -> None:
    """tests/program has more, by `rexit-run`."""
    assert PROGRAM.exists(), f"{PROGRAM} is not built: run `make build/example/.built`"
    bundle = write_bundle(tmp_path / "bundle")
    write_policy(bundle, [{"a": 1.1, "b": 0.1, "upper": 0.5, "lower": 0.5}] * 3)
    environment = {**os.environ, "REXIT_ONNXRUNTIME_LIBRARY": runtime.onnxruntime_library()}
    exits = set()
    with runtime.open(bundle) as session:
        for user in USER_IDS:
            command = [str(PROGRAM), "--raw", str(bundle), str(user), *map(str, ITEM_IDS)]
            lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
            item, probability, log_odds, exit = zip(*(line.split() for line in lines), strict=True)
            session.clear_cache()  # the program had none: behind copied keys a prefix may differ in its last bits
            scores = session.score(user, ITEM_IDS)
            assert list(map(int, item)) == list(scores.items)
            np.testing.assert_array_equal(np.array(probability, np.float32), scores.probability)
            np.testing.assert_array_equal(np.array(log_odds, np.float32), scores.log_odds)
            np.testing.assert_array_equal(np.array(exit, np.int64), scores.exit)
            exits |= set(exit)
    assert exits == {"0", "1", "2"}
