"""How many of the exact similar users a search of the nearest lists finds, on a catalog's own embeddings, and what it costs.

    python benchmarks/scale/similar_users.py CATALOG [--queries 2000] [--probes 8 16 32 64 128]

Lists are made for it, whether or not the catalog has some. Prints recall@20 for users drawn at random, folded in as their prompts
have them, and seconds of the processor, one thread, for all users by proportion.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.exporter.retriever import neighbours
from rexit.exporter.retriever.lists import Lists
from rexit.exporter.retriever.neighbours import Neighbourhood
from rexit.scripts import script

K = 20


def searched(
    around: Neighbourhood, queries: NDArray[np.float16], own: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], float]:
    """The users found for each, and seconds per query."""
    around.nearest(queries[:1], own[:1])  # what a first search prepares
    begin, similar = time.process_time(), []
    for at in range(0, len(own), neighbours.CHUNK):
        similar += around.nearest(queries[at : at + neighbours.CHUNK], own[at : at + neighbours.CHUNK])
    return similar, (time.process_time() - begin) / len(own)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    catalog = Catalog.open(args.catalog)
    users, table, fold_in = catalog.user_embeddings, catalog.user_table, catalog.item_table["fold_in"]
    own = np.sort(np.random.default_rng(0).choice(len(users), min(args.queries, len(users)), replace=False))
    queries = neighbours._folded_in_users(own, fold_in, table)
    expected, seconds_each = searched(Neighbourhood(users, K), queries, own)
    print(f"all: {seconds_each * len(users):.1f} s")
    begin = time.process_time()
    lists = Lists.cluster(users)
    print(f"{len(lists.centres)} lists: made in {time.process_time() - begin:.1f} s")
    for probes in args.probes:
        similar, seconds_each = searched(Neighbourhood(users, K, dataclasses.replace(lists, probes=probes)), queries, own)
        recalls = [np.isin(row, other).mean() for row, other in zip(expected, similar, strict=True) if len(row)]
        print(f"{probes} looked at: {seconds_each * len(users):.1f} s, recall@{K} {np.mean(recalls):.4f}")


if __name__ == "__main__":
    main()
