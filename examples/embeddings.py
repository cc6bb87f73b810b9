"""Embeddings of users and items from outside rexit, as Parquet files for `rexit index --item-embeddings --user-embeddings`.

    python examples/embeddings.py ratings.parquet --method lightgcn --before 2026-03-01 --out embeddings
    rexit index … --item-embeddings embeddings/items.parquet --user-embeddings embeddings/users.parquet \
        --embeddings-as-of 2026-03-01

An example of a team's own pipeline. `lightgcn` is PyTorch Geometric's model with its own loss, full-batch; `factorization` takes
the singular vectors of the likes. Both learn only from interactions before `--before`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch_geometric.nn import LightGCN

from rexit.errors import InputError, script
from rexit.exporter.catalog.interactions import in_unit, read_interactions, unit_of_times
from rexit.exporter.options import Columns, IndexOptions
from rexit.format.times import Timeline

Rows = NDArray[np.int64]
Tables = tuple[NDArray[np.float32], NDArray[np.float32]]


def lightgcn(users: int, items: int, user: Rows, item: Rows, dim: int, epochs: int) -> Tables:
    """Returns embeddings [users, dim] and [items, dim] of LightGCN with three layers (He et al. 2020), trained with BPR."""
    torch.manual_seed(0)
    likes = torch.from_numpy(np.stack([user, item + users]))
    edges = torch.cat([likes, likes.flip(0)], 1)
    model = LightGCN(users + items, dim, num_layers=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in track(range(epochs), "LightGCN"):
        negative = torch.randint(users, users + items, (likes.shape[1],))
        pairs = torch.cat([likes, torch.stack([likes[0], negative])], 1)
        positive, other = model(edges, pairs).chunk(2)
        loss = model.recommendation_loss(positive, other, node_id=pairs.unique())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows = model.get_embedding(edges).detach().numpy()
    return rows[:users], rows[users:]


def factorization(users: int, items: int, user: Rows, item: Rows, dim: int) -> Tables:
    """Returns singular vectors of the likes, each scaled by the root of its singular value: [users, dim] and [items, dim]."""
    likes = csr_array((np.ones(len(user)), (user, item)), shape=(users, items))
    left, values, right = svds(likes, dim, random_state=0)
    return (left * np.sqrt(values)).astype(np.float32), (np.sqrt(values)[:, None] * right).T.astype(np.float32)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interactions", type=Path, help="as `rexit index` reads them")
    parser.add_argument("--out", type=Path, required=True, help="a folder: users.parquet and items.parquet are written to it")
    parser.add_argument("--method", choices=("lightgcn", "factorization"), default="lightgcn")
    parser.add_argument("--before", required=True, help="learn from earlier interactions alone: a time as in the data, or a date")
    parser.add_argument("--positive-at", type=float, default=4.0, help="a rating of at least this is a like (4)")
    parser.add_argument("--dim", type=int, default=64, help="width of the embeddings (64)")
    parser.add_argument("--epochs", type=int, default=100, help="of LightGCN (100)")
    args = parser.parse_args()
    frame = read_interactions(args.interactions, IndexOptions(columns=Columns(), positive_at=args.positive_at))
    unit = unit_of_times(frame["time"])
    times = in_unit(frame["time"], unit, args.interactions)
    timeline = Timeline("time", int(times.to_numpy().min()), int(times.to_numpy().max()), unit)
    likes = frame.filter(pl.col("liked") & (times < timeline.parse(args.before, "--before")))
    if likes.is_empty():
        raise InputError(f"{args.interactions}: no like before {args.before}, nothing to learn from")
    users, items = likes["user"].unique().sort(), likes["item"].unique().sort()
    user = likes["user"].replace_strict(users, np.arange(len(users)), return_dtype=pl.Int64).to_numpy()
    item = likes["item"].replace_strict(items, np.arange(len(items)), return_dtype=pl.Int64).to_numpy()
    if args.method == "lightgcn":
        tables = lightgcn(len(users), len(items), user, item, args.dim, args.epochs)
    else:
        tables = factorization(len(users), len(items), user, item, args.dim)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, ids, table in (("user", users, tables[0]), ("item", items, tables[1])):
        path = args.out / f"{name}s.parquet"
        pl.DataFrame({f"{name}_id": ids, "embedding": table}).write_parquet(path)
        print(f"{path}: {len(ids)} embeddings of {args.dim} numbers")


if __name__ == "__main__":
    main()
