"""How many of the exact similar users the inverted file finds, on a catalog's own embeddings, and what it costs.

    python benchmarks/similar_users.py CATALOG [--queries 2000] [--probes 8 16 32 64 128]

Prints recall@20 of the inverted file's lists for users drawn at random against the exact lists, and seconds of the processor, one
thread, for all users by proportion.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from rexit.exporter.catalog import neighbours
from rexit.exporter.catalog.nearest import Inverted

K = 20

Half = NDArray[np.float16]
Lists = list[NDArray[np.int64]]


def around(users: Half, exact: bool) -> tuple[neighbours.Neighbourhood, float]:
    """The users with a search of either kind, and the seconds that it took to build."""
    neighbours.EXACT = len(users) if exact else 0
    made, begin = neighbours.Neighbourhood(users, K), time.process_time()
    _ = made._search
    return made, time.process_time() - begin


def searched(made: neighbours.Neighbourhood, queries: Half, own: NDArray[np.int64]) -> tuple[Lists, float]:
    """The lists, and seconds per query."""
    begin, found = time.process_time(), Lists()
    for at in range(0, len(own), neighbours.CHUNK):
        found += made.nearest(queries[at : at + neighbours.CHUNK], own[at : at + neighbours.CHUNK])
    return found, (time.process_time() - begin) / len(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    table, fold_in = load_file(args.catalog / "users.safetensors"), load_file(args.catalog / "items.safetensors")["fold_in"]
    users = table["embeddings"]
    own = np.sort(np.random.default_rng(0).choice(len(users), min(args.queries, len(users)), replace=False))
    queries = neighbours._folded_in_users(own, fold_in, table)
    flat, _ = around(users, exact=True)
    expected, each = searched(flat, queries, own)
    print(f"exact: {each * len(users):.1f} s")
    inverted, seconds = around(users, exact=False)
    print(f"inverted file: built in {seconds:.1f} s")
    assert isinstance(inverted._search, Inverted)
    for probes in args.probes:
        inverted._search._index.nprobe = probes
        found, each = searched(inverted, queries, own)
        recalls = [np.isin(one, other).mean() for one, other in zip(expected, found, strict=True) if len(one)]
        print(f"{probes} lists searched: {each * len(users):.1f} s, recall@{K} {np.mean(recalls):.4f}")


if __name__ == "__main__":
    main()
