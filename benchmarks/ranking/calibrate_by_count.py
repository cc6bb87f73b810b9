"""Calibrates by count, not by clock: each token costs 1 us in each layer, and nothing else costs anything.

    python benchmarks/ranking/calibrate_by_count.py BUNDLE CATALOG [--variant cpu-int8] [--threads 1] [--max-drop 0.01]
        [--expected 0.0025]

For a machine that is too busy for timings: shares of cost are then shares of layers x tokens, prefix included. The metric is
NDCG@10 with ten shown of slates of 100, on at most 1,000 slates of each split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import numpy as np

from rexit.bundle import Bundle, Catalog
from rexit.calibration import CalibrationOptions, calibrate, calibration, policies
from rexit.errors import script
from rexit.measure import Conditions, CostProfile, SegmentCost


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=int, default=1, help="of the session (1)")
    parser.add_argument("--max-drop", type=float, default=0.01, help="of NDCG@10 (0.01)")
    parser.add_argument("--expected", type=float, help="no policy that is expected to lose more")
    args = parser.parse_args()
    if args.expected:
        policies.BUDGETS = tuple(share for share in policies.BUDGETS if share * args.max_drop <= args.expected)
    bundle = Bundle.open(args.bundle, args.variant)
    layers = np.diff(bundle.exits, prepend=0)
    segments = tuple(SegmentCost(0.0, float(count), 0.0, float(count)) for count in layers)
    profile = CostProfile(Conditions.here(bundle, None, args.threads), 0.0, segments, 0.0)
    options = CalibrationOptions(
        metrics=("ndcg@10",),
        max_drop=args.max_drop,
        top_k=10,
        slate=100,
        max_slates=1000,
        threads=args.threads,
    )
    with mock.patch.object(calibration, "measure_costs", return_value=profile):
        print(calibrate(bundle, Catalog.open(args.catalog), options).verdict.text)


if __name__ == "__main__":
    main()
