"""Scores a folder of pairs with Ray Data: on this machine's cores, or on a cluster's.

    python examples/distributed/score.py bundle pairs scores --workers 2

Needs `pip install 'rexit[distributed]'` where it runs and on every worker, and a path of the bundle that every worker can read.
Ray groups the rows by user, hands them to its workers, and scores again what a lost worker had.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray

from rexit.doors.batch import score_table
from rexit.errors import script


@script
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pairs", type=Path, help="a folder of Parquet files")
    parser.add_argument("scores", type=Path, help="a new folder")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--address", help="of a running cluster; else a local one is started")
    arguments = parser.parse_args()
    if arguments.address:
        ray.init(arguments.address)
    else:
        ray.init(num_cpus=arguments.workers, include_dashboard=False)
    scorer = score_table(arguments.bundle.absolute(), top_k=arguments.top_k, threads=1)
    pairs = ray.data.read_parquet(str(arguments.pairs.absolute()))
    scores = pairs.groupby("user_id").map_groups(scorer, batch_format="pyarrow", num_cpus=1)
    scores.write_parquet(str(arguments.scores.absolute()))


if __name__ == "__main__":
    main()
