"""Costs for `rexit calibrate --profile` by count, not by clock: each token costs 1 us in each layer, and nothing else costs.

    python benchmarks/ranking/layer_costs.py BUNDLE --out costs.json [--variant cpu-int8] [--threads 1]
    rexit calibrate BUNDLE --catalog CATALOG --profile costs.json --threads 1 …

For a machine too busy to be timed: shares of cost are then shares of layers x tokens, prefix included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rexit.bundle import Bundle
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, SegmentCost
from rexit.scripts import script


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=int, default=1, help="as `rexit calibrate` will be given (1)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle, args.variant)
    layers = np.diff(bundle.manifest.exits, prepend=0)
    segments = tuple(SegmentCost(0.0, float(count), 0.0, float(count)) for count in layers)
    CostProfile(Conditions.here(bundle, None, args.threads), 0.0, segments, 0.0).write(args.out)


if __name__ == "__main__":
    main()
