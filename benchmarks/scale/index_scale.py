"""What `rexit index` costs as users grow: seconds and peak memory of each of its stages, on synthetic interactions; and what it
takes to retrieve items for a user of that catalog.

    python benchmarks/scale/index_scale.py FOLDER [--users 10000 30000 100000] [--epochs 20] [--each 50] [--items N] [--threads 1]
        [--external]

Interactions are drawn, seeded: a fifth as many items as users unless --items says how many, popular by a power law, in clusters;
each user likes three clusters and draws `--each` items on average, four in five of them from these; what is drawn twice counts
once. They lie in the file by time. With --external nothing is trained: items have the embedding of their cluster and some noise,
users the mean of their items', both float16 of 64 numbers.

FOLDER keeps data and results, so that a run that was stopped goes on with the next size. Each size is indexed by a process of its
own; memory is the kernel's high-water mark of resident memory, reset at the start of each stage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array

from rexit.errors import script
from rexit.format.bundle import write_json

CLUSTER, TASTES = 100, 3  # items in a cluster, clusters that a user likes
DIM = 64  # for --external
NOTHING = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_gib": 0.0}  # a stage that did not run
RETRIEVED = 200
BATCH = 100_000  # users whose interactions are drawn at once
TEMPLATE = """
prompt = "{user.group}|{history.recent:8}|{similar_liked:6}|{item.title}|{similar_verdict:5}|Answer:"
entry = " {item.title}{verdict};"
[entries]
similar = " {item.title};"
[zero]
inputs = []
[labels]
yes = " yes"
no = " no"
[words]
liked = " yes"
disliked = " no"
"""


def interactions(users: int, items: int, per_user: int, seed: int = 0) -> pl.DataFrame:
    """`user_id`, `item_id`, `rating` and `timestamp`, by time; nobody meets an item twice. per_user: items drawn for a user, on
    average."""
    parts = [
        _interactions(begin, min(users, begin + BATCH), items, per_user, np.random.default_rng([seed, begin]))
        for begin in range(0, users, BATCH)
    ]
    return pl.concat(parts).sort("timestamp", maintain_order=True)


def _interactions(begin: int, end: int, items: int, per_user: int, random: np.random.Generator) -> pl.DataFrame:
    clusters = max(TASTES, items // CLUSTER)
    counts = np.maximum(min(10, per_user // 2), random.geometric(1 / per_user, end - begin))
    user = np.repeat(np.arange(begin, end), counts)
    tastes = np.repeat(random.integers(0, clusters, (end - begin, TASTES)), counts, axis=0)
    fits = random.random(len(user)) < 0.8
    # Rank r of n items has a share in proportion to about 1 / r, within a cluster and among all.
    share = random.random(len(user))
    inside = tastes[np.arange(len(user)), random.integers(0, TASTES, len(user))] + clusters * (CLUSTER**share - 1).astype(int)
    item = np.where(fits, np.minimum(inside, items - 1), np.minimum(items**share, items - 1).astype(int))
    liked = random.random(len(user)) < np.where(fits, 0.75, 0.25)
    columns = {"user_id": user, "item_id": item, "rating": 2 + 3 * liked, "timestamp": random.integers(0, 1 << 30, len(user))}
    types = {"user_id": pl.Int32, "item_id": pl.Int32, "rating": pl.Int8, "timestamp": pl.Int32}  # four to a cache line
    return pl.DataFrame(columns, types).unique(["user_id", "item_id"], keep="first", maintain_order=True)


def write_data(folder: Path, users: int, items: int, per_user: int, external: bool) -> None:
    """ratings.parquet, items.parquet, users.parquet, tokenizer.json and prompt.toml; with `external` embeddings and similar
    users."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    rated = interactions(users, items, per_user)
    rated.lazy().cast({pl.Int32: pl.Int64}).sink_parquet(folder / "ratings.parquet")
    if external:
        _write_external(folder, rated, users, items)
    number = pl.int_range(users, eager=True)
    groups = "Group " + (number % 97).cast(pl.String)
    pl.DataFrame({"user_id": number, "group": groups}).write_parquet(folder / "users.parquet")
    number = pl.int_range(items, eager=True)
    pl.DataFrame({"item_id": number, "title": "Item " + number.cast(pl.String)}).write_parquet(folder / "items.parquet")
    words = {word: n for n, word in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġyes", "Ġno"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "prompt.toml").write_text(TEMPLATE)


def _write_external(folder: Path, rated: pl.DataFrame, users: int, items: int) -> None:
    """item-embeddings.npy, user-embeddings.npy with their ids."""
    random = np.random.default_rng(1)
    clusters = max(TASTES, items // CLUSTER)
    centres = random.standard_normal((clusters, DIM), np.float32)
    rows = centres[np.arange(items) % clusters] + 0.5 * random.standard_normal((items, DIM), np.float32)
    user, item = rated["user_id"].to_numpy(), rated["item_id"].to_numpy()
    liked = csr_array((np.ones(len(user), np.float32), (user, item)), shape=(users, items))
    of_users = np.lib.format.open_memmap(folder / "user-embeddings.npy", "w+", np.float16, (users, DIM))
    for begin in range(0, users, BATCH):
        end = min(users, begin + BATCH)
        counts = np.maximum(np.diff(liked.indptr[begin : end + 1]), 1)[:, None]
        of_users[begin:end] = (liked[begin:end] @ rows) / counts
    of_users.flush()
    np.save(folder / "user-embeddings.ids.npy", np.arange(users))
    np.save(folder / "item-embeddings.npy", rows.astype(np.float16))
    np.save(folder / "item-embeddings.ids.npy", np.arange(items))


class Stages:
    """A Progress that records seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self._begin("start")

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._name:
            self.end()
            self._begin(what)

    def _begin(self, name: str) -> None:
        self._name, self._since = name, (time.monotonic(), time.process_time())
        Path("/proc/self/clear_refs").write_text("5")

    def end(self) -> None:
        """Records the last stage."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        stage = self.stages.setdefault(self._name, dict(NOTHING))
        stage["seconds"] += time.monotonic() - self._since[0]
        stage["cpu_seconds"] += time.process_time() - self._since[1]
        stage["peak_gib"] = max(stage["peak_gib"], int(status["VmHWM"].split()[0]) / (1 << 20))


def index(folder: Path, epochs: int, threads: int, external: bool) -> dict[str, Any]:
    """Indexes the data of `folder` in this process."""
    import torch

    from rexit.exporter.index import build_catalog
    from rexit.exporter.options import ExternalOptions, IndexOptions, LightGCNOptions

    torch.set_num_threads(threads)
    stages = Stages()
    options = IndexOptions(lightgcn=LightGCNOptions(epochs=epochs))
    if external:
        embeddings = ExternalOptions(folder / "item-embeddings.npy", folder / "user-embeddings.npy")
        options = IndexOptions(external=embeddings)
    info = build_catalog(
        folder / "ratings.parquet",
        folder / "items.parquet",
        str(folder / "tokenizer.json"),
        folder / "prompt.toml",
        folder / "catalog",
        options,
        users=folder / "users.parquet",
        progress=stages,
    )
    stages.end()
    ms = retrieval_ms(folder / "catalog")
    return {"counts": info["counts"], "retrieval": info["retrieval"], "stages": stages.stages, "retrieve_ms": ms}


def retrieval_ms(catalog: Path) -> list[float]:
    """The median milliseconds of retrieving RETRIEVED items for a user, as a request with `retrieve` does, in one thread; and of
    its processor."""
    from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
    from rexit.format.bundle import Catalog

    opened = Catalog.open(catalog)
    builder, times = PromptBuilder(opened), []
    for user in np.random.default_rng(0).integers(0, len(opened.users), 60):
        begin = np.array([time.perf_counter(), time.thread_time()])
        next(builder.retrieve([RowSlate(int(user), ())], min(RETRIEVED, len(opened.items))))
        times.append(1000 * (np.array([time.perf_counter(), time.thread_time()]) - begin))
    medians: list[float] = np.median(times, axis=0).tolist()
    return medians


def measured(folder: Path, users: int, items: int, per_user: int, epochs: int, threads: int, external: bool) -> dict[str, Any]:
    """What index() says, from a process of its own or from an earlier run."""
    place = folder / f"users-{users}-items-{items}-each-{per_user}{'-external' if external else ''}"
    record_path = place / f"epochs-{epochs}-threads-{threads}.json"
    if not record_path.is_file():
        if not (place / "prompt.toml").is_file():
            write_data(place, users, items, per_user, external)
        with multiprocessing.get_context("spawn").Pool(1) as process:
            write_json(record_path, process.apply(index, (place, epochs, threads, external)))
    stage: dict[str, Any] = json.loads(record_path.read_text())
    return stage


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--epochs", type=int, default=20, help="LightGCN's at most; at scale few are needed")
    parser.add_argument("--each", type=int, default=50, help="items drawn for a user, on average")
    parser.add_argument("--items", type=int, help="by default a fifth of the users")
    parser.add_argument("--external", action="store_true", help="external embeddings")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    folder = args.folder.resolve()
    results = {
        users: measured(folder, users, args.items or users // 5, args.each, args.epochs, args.threads, args.external)
        for users in args.users
    }
    table = Table("stage: seconds (of the processor), peak memory", *(f"{users:,} users" for users in results), box=MARKDOWN)
    names = dict.fromkeys(name for stage in results.values() for name in stage["stages"])
    for name in names:
        row = [stage["stages"].get(name, NOTHING) for stage in results.values()]
        table.add_row(name, *(f"{figures['seconds']:.1f} ({figures['cpu_seconds']:.1f})" for figures in row))
        table.add_row("", *(f"{figures['peak_gib']:.2f} GiB" for figures in row))
    retrieved = (stage["retrieve_ms"] for stage in results.values())
    table.add_row("items retrieved for a user: milliseconds", *(f"{wall:.2f} ({cpu:.2f})" for wall, cpu in retrieved))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
