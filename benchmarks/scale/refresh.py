"""What an update may do with the retriever: fold new rows in, train on for a few epochs, or train again (MovieLens 100k).

    python benchmarks/scale/refresh.py DATA [--new-items 0.1]

DATA: what examples/movielens/fetch.py wrote. The retriever of the first 90 % of time is brought up to date with the rest, of
which one user in five is held out. The last tenth has few new films: with `--new-items` a share of all, drawn at random, is taken
for new, as if all their interactions were new. Prints recall@20 of the held-out likes, among all items and among
new ones alone, seconds, and the mean cosine of known items' embeddings with what they were: projectors know only that space.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch_geometric.nn import LightGCN

from rexit.exporter.options import LightGCNOptions
from rexit.exporter.retriever import fold_in, lightgcn
from rexit.exporter.retriever.recall import Recall
from rexit.scripts import script

Frame = pl.DataFrame
Mask = NDArray[np.bool_]


class Started(LightGCN):  # type: ignore[misc] # torch-geometric is not typed
    """LightGCN that starts from weights, if there are any, and can be found after its training."""

    weights: torch.Tensor | None = None
    last: Any = None

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        if self.weights is not None:
            known = self.weights.abs().sum(1) > 0
            self.embedding.weight.data[known] = self.weights[known]
        type(self).last = self


def read(data: Path) -> Frame:
    frame = pl.read_csv(data / "ml-100k.inter", separator="\t")
    frame.columns = ["user", "item", "rating", "time"]
    rows = {what: pl.col(what).rank("dense").cast(pl.Int64) - 1 for what in ("user", "item")}
    return frame.with_columns(**rows, liked=pl.col("rating") >= 4).sort("time", "user", "item")


def edges(frame: Frame, liked: bool = True) -> lightgcn.Edges:
    chosen = frame.filter("liked") if liked else frame
    return chosen["user"].to_numpy(), chosen["item"].to_numpy()


def trained(graph: Frame, choosing: Frame, sizes: dict[str, int], options: LightGCNOptions) -> lightgcn.Retriever:
    likes = lightgcn.Likes(edges(graph), edges(graph), edges(graph, liked=False), edges(choosing), **sizes)
    return lightgcn.train(likes, options)


def recall(space: fold_in.Space, known: Frame, targets: Frame, among: Mask | None = None) -> float | None:
    """Users folded in from what they liked before, as prompts do it. among: the only items that may be recommended and found."""
    users, items = len(space.users), len(space.items)
    chosen = targets if among is None else targets.filter(pl.Series(among[targets["item"].to_numpy()]))
    before = csr_array((np.ones(np.count_nonzero(known["liked"]), np.float32), edges(known)), shape=(users, items))
    queries = torch.from_numpy(before @ space.fold_in.astype(np.float32))
    scores = queries @ torch.from_numpy(space.items.astype(np.float32)).T
    scores[:, torch.from_numpy(~space.items.any(1))] = -1e9
    if among is not None:
        scores[:, torch.from_numpy(~among)] = -1e9
    return Recall(edges(known, liked=False), edges(chosen), items).at(20, lambda rows: scores[rows])


def space_of(retriever: lightgcn.Retriever) -> fold_in.Space:
    return fold_in.Space(*(array.astype(np.float16) for array in (retriever.users, retriever.items, retriever.fold_in)))


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--new-items", type=float, default=0.0, help="share of all films that are taken for new")
    parser.add_argument("--epochs", type=int, default=100, help="of a whole training, at most")
    parser.add_argument("--further", type=int, default=10, help="epochs of a warm start")
    args = parser.parse_args()
    frame = read(args.data)
    sizes = {"users": frame["user"].n_unique(), "items": frame["item"].n_unique()}
    random = np.random.default_rng(0)
    late = np.arange(len(frame)) >= int(0.9 * len(frame))
    made_new = np.isin(frame["item"].to_numpy(), random.choice(sizes["items"], int(args.new_items * sizes["items"]), False))
    old, new = frame.filter(pl.Series(~(late | made_new))), frame.filter(pl.Series(late | made_new))
    new_items = ~np.isin(np.arange(sizes["items"]), old["item"].to_numpy())
    users = random.permutation(new["user"].unique().sort().to_numpy())
    held_out = pl.col("user").is_in(users[: len(users) // 5].tolist())
    targets, learned = new.filter(held_out), new.filter(~held_out)
    cut = int(0.9 * len(old))
    lightgcn.LightGCN = Started  # type: ignore[attr-defined]
    options = LightGCNOptions(epochs=args.epochs)

    rows: list[tuple[str, fold_in.Space, float]] = []
    began = time.perf_counter()
    before = trained(old[:cut], old[cut:], sizes, options)
    first, epochs = space_of(before), before.epochs
    rows.append(("not updated", first, 0.0))
    weights = Started.last.embedding.weight.detach().clone()
    print(
        f"{len(old)} interactions, then {len(new)}, of which {len(targets)} held out; {int(new_items.sum())} new films", end="; "
    )
    print(f"trained in {time.perf_counter() - began:.1f} s, {epochs} epochs")

    graph = pl.concat([old[:cut], learned])
    began = time.perf_counter()
    rows.append(("folded in", fold_in.placed(first, *edges(graph)), time.perf_counter() - began))
    began = time.perf_counter()
    unknown = torch.from_numpy(np.concatenate([~first.users.any(1), ~first.items.any(1)]))
    weights[unknown] = 0  # drawn anew
    Started.weights = weights
    warm = trained(graph, targets[:0], sizes, LightGCNOptions(epochs=args.further))
    rows.append((f"warm start, {args.further} epochs", space_of(warm), time.perf_counter() - began))
    Started.weights = None
    began = time.perf_counter()
    again = trained(graph, targets[:0], sizes, LightGCNOptions(epochs=epochs))
    rows.append((f"trained again, {epochs} epochs", space_of(again), time.perf_counter() - began))

    known = first.items.any(1)
    print(f"{'':28} recall@20  of new films  seconds  cosine with before")
    for name, space, seconds in rows:
        a, b = (array.items[known].astype(np.float64) for array in (first, space))
        cosine = float((a * b).sum(1).mean())
        recalls = [recall(space, frame.filter(~pl.Series(late | made_new)), targets, among) for among in (None, new_items)]
        shown = ["   -  " if array is None else f"{array:.4f}" for array in recalls]
        print(f"{name:28} {shown[0]:>9} {shown[1]:>13} {seconds:8.2f} {cosine:19.3f}")


if __name__ == "__main__":
    main()
