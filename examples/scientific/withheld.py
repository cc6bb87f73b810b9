"""How exit zero ranks products that nobody has bought: their purchases are withheld from a catalog, and their buyers asked.

    python examples/scientific/withheld.py DATA OUT                      withhold, before `rexit index`
    python examples/scientific/withheld.py DATA OUT --catalog CATALOG    rank

DATA is the folder of prepare.py with items.parquet. The first call draws 400 products and writes OUT/purchases.csv without them,
and OUT/withheld.csv. The second ranks a withheld product for each of their buyers as of the purchase, beside 49 products drawn
uniformly that the buyer never bought, and beside those that the look-up of CATALOG, an index of OUT/purchases.csv, retrieves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.data.ranking import ByUser, bootstrap
from rexit.errors import script
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.exporter.zero import Graph
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import ZERO

PRODUCTS, BUYERS, BESIDE, LATEST, LEAST_BOUGHT = 400, 1500, 49, 8, 3
Scores = NDArray[np.floating[Any]]


def withhold(data: Path, out: Path) -> None:
    purchases = pl.read_csv(data / "purchases.csv")
    products = np.random.default_rng(0).choice(purchases["item_id"].unique().sort().to_numpy(), PRODUCTS, replace=False)
    withheld = pl.col("item_id").is_in(products.tolist())
    out.mkdir(parents=True, exist_ok=True)
    purchases.filter(withheld).write_csv(out / "withheld.csv")
    purchases.filter(~withheld).write_csv(out / "purchases.csv")


def beside_drawn(catalog: Catalog, bought: pl.DataFrame, purchases: pl.DataFrame) -> list[RowSlate]:
    """Returns slates that begin with a withheld product."""
    random, items = np.random.default_rng(1), np.arange(len(catalog.items))
    of_user = {user: rows for (user,), rows in purchases.group_by("user_id")}
    slates = []
    for user, item, place in bought.select("user_id", "item_id", "place").iter_rows():
        others = np.setdiff1d(items, catalog.items.rows(of_user[user]["item_id"].to_list()))
        rows = np.concatenate([catalog.items.rows([item]), random.choice(others, BESIDE, replace=False)])
        slates.append(RowSlate(catalog.users.row(user), rows, place))
    return slates


def beside_retrieved(builder: PromptBuilder, slates: Sequence[RowSlate]) -> list[RowSlate]:
    """Returns slates of the same products beside what is retrieved for their buyers."""
    chosen = builder.retrieve(slates, BESIDE + 1)
    pairs = [(slate, rows[rows != slate.items[0]][:BESIDE]) for slate, rows in zip(slates, chosen, strict=True)]
    return [RowSlate(slate.user, np.concatenate([slate.items[:1], rows]), slate.as_of) for slate, rows in pairs if len(rows)]


def text_cosines(catalog: Catalog, slates: Sequence[RowSlate]) -> Scores:
    """Returns the largest cosine of each candidate's text with one of the last eight products bought."""
    vectors, table, scores = catalog.item_table["vector.text_vector"].astype(np.float32), catalog.user_table, []
    for slate in slates:
        assert slate.user is not None and slate.as_of is not None
        begin, end = table["history_offsets"][slate.user : slate.user + 2]
        latest = table["history_items"][begin:end][table["history_times"][begin:end] < slate.as_of][-LATEST:]
        scores.append((vectors[latest] @ vectors[np.array(slate.items)].T).max(0, initial=0))
    return np.concatenate(scores)


def printed(name: str, kind: str, scores: Scores, sizes: NDArray[np.int64]) -> None:
    users, liked = np.repeat(np.arange(len(sizes)), sizes), np.zeros(len(scores), np.bool_)
    liked[np.cumsum(sizes) - sizes] = True
    judge, cells = ByUser(users, liked), []
    for values in (judge.ndcg(scores.astype(np.float32), 10), judge.auc(scores.astype(np.float32))):
        low, high = np.percentile(bootstrap(values, np.ones(len(values))), [2.5, 97.5])
        cells.append(f"{values.mean():.4f} ({low:.4f} to {high:.4f})")
    print(f"| {kind} | {len(sizes):,} | {name} | " + " | ".join(cells) + " |")


@script
def main(args: argparse.Namespace) -> None:
    if args.catalog is None:
        withhold(args.data, args.out)
        return
    catalog = Catalog.open(args.catalog)
    bought = pl.read_csv(args.out / "withheld.csv").filter(pl.col("place") >= LEAST_BOUGHT)
    bought = bought.filter(pl.col("user_id").is_in(pl.read_csv(args.out / "purchases.csv")["user_id"].implode()))
    bought = bought.unique("user_id", keep="first", maintain_order=True)
    builder, graph = PromptBuilder(catalog), Graph(catalog.path / ZERO, len(catalog.numbers))
    beside = beside_drawn(catalog, bought.sample(min(BUYERS, len(bought)), seed=1), pl.read_csv(args.data / "purchases.csv"))
    print("| beside | buyers | ranking | NDCG@10 | AUC |\n|---|---|---|---|---|")
    for kind, slates in (("49 drawn", beside), ("the first retrieved", beside_retrieved(builder, beside))):
        sizes = np.array([len(slate.items) for slate in slates])
        printed("exit zero", kind, graph.log_odds(builder.slate_numbers(slates)), sizes)
        printed("text cosine", kind, text_cosines(catalog, slates), sizes)
    among = [slate.items[0] in rows for slate, rows in zip(beside, builder.retrieve(beside, BESIDE + 1), strict=True)]
    print(f"\nAmong the {BESIDE + 1} retrieved: {np.mean(among):.3f} of {len(among):,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--catalog", type=Path)
    main(parser.parse_args())
