"""What `rexit index` costs as users grow: seconds and peak memory of each of its stages, on synthetic interactions.

    python benchmarks/scale/index_scale.py FOLDER [--users 10000 30000 100000] [--epochs 20] [--each 50] [--threads 1] [--json]

Interactions are drawn, seeded: a fifth as many items as users, popular by a power law, in clusters; each user likes three
clusters and draws `--each` items on average, four in five of them from these; what is drawn twice counts once. FOLDER keeps data
and results, so that a run that was stopped goes on with the next size. Each size is indexed by a process of its own; memory is
the kernel's high-water mark of resident memory, reset at the start of each stage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from rexit.measure.machine import machine
from rexit.scripts import script

CLUSTER, TASTES = 100, 3  # items of a cluster, clusters that a user likes
NOTHING = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_gib": 0.0}  # of a stage
DRAWN = 100_000  # users whose interactions are drawn at once
TEMPLATE = """
prompt = "{user.group}|{history.recent:8}|{similar_liked:6}|{item.title}|{similar_verdict:5}|Answer:"
entry = " {item.title}{verdict};"
[entries]
similar = " {item.title};"
[labels]
yes = " yes"
no = " no"
[words]
liked = " yes"
disliked = " no"
"""


def interactions(users: int, items: int, per_user: int, seed: int = 0) -> pl.DataFrame:
    """`user_id`, `item_id`, `rating` and `timestamp`; nobody meets an item twice. each: items drawn for a user, on average."""
    return pl.concat(
        _interactions(begin, min(users, begin + DRAWN), items, per_user, np.random.default_rng([seed, begin]))
        for begin in range(0, users, DRAWN)
    )


def _interactions(begin: int, end: int, items: int, per_user: int, random: np.random.Generator) -> pl.DataFrame:
    clusters = max(TASTES, items // CLUSTER)
    counts = np.maximum(10, random.geometric(1 / per_user, end - begin))
    user = np.repeat(np.arange(begin, end), counts)
    tastes = np.repeat(random.integers(0, clusters, (end - begin, TASTES)), counts, axis=0)
    fits = random.random(len(user)) < 0.8
    # Rank r of n items has a share in proportion to about 1 / r, within a cluster and among all.
    share = random.random(len(user))
    inside = tastes[np.arange(len(user)), random.integers(0, TASTES, len(user))] + clusters * (CLUSTER**share - 1).astype(int)
    item = np.where(fits, np.minimum(inside, items - 1), np.minimum(items**share, items - 1).astype(int))
    liked = random.random(len(user)) < np.where(fits, 0.75, 0.25)
    columns = {"user_id": user, "item_id": item, "rating": 2 + 3 * liked, "timestamp": random.integers(0, 1 << 30, len(user))}
    return pl.DataFrame(columns).unique(["user_id", "item_id"], keep="first", maintain_order=True)


def write_data(folder: Path, users: int, per_user: int) -> None:
    """ratings.parquet, items.csv, users.csv, tokenizer.json and prompt.toml."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    items = users // 5
    interactions(users, items, per_user).write_parquet(folder / "ratings.parquet")
    pl.DataFrame({"item_id": range(items), "title": [f"Item {n}" for n in range(items)]}).write_csv(folder / "items.csv")
    pl.DataFrame({"user_id": range(users), "group": [f"Group {n % 97}" for n in range(users)]}).write_csv(folder / "users.csv")
    words = {word: n for n, word in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġyes", "Ġno"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "prompt.toml").write_text(TEMPLATE)


class Stages:
    """A Progress that keeps seconds and peak memory of each stage."""

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
        """Of the last stage."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        stage = self.stages.setdefault(self._name, dict(NOTHING))
        stage["seconds"] += time.monotonic() - self._since[0]
        stage["cpu_seconds"] += time.process_time() - self._since[1]
        stage["peak_gib"] = max(stage["peak_gib"], int(status["VmHWM"].split()[0]) / (1 << 20))


def index(folder: Path, epochs: int, threads: int) -> dict[str, Any]:
    """Indexes the data of `folder` in this process."""
    import torch

    from rexit.exporter.index import build_catalog
    from rexit.exporter.options import IndexOptions, LightGCNOptions

    torch.set_num_threads(threads)
    stages = Stages()
    info = build_catalog(
        folder / "ratings.parquet",
        folder / "items.csv",
        str(folder / "tokenizer.json"),
        folder / "prompt.toml",
        folder / "catalog",
        IndexOptions(lightgcn=LightGCNOptions(epochs=epochs)),
        users=folder / "users.csv",
        progress=stages,
    )
    stages.end()
    return {"counts": info["counts"], "retrieval": info["retrieval"], "stages": stages.stages}


def measured(folder: Path, users: int, per_user: int, epochs: int, threads: int) -> dict[str, Any]:
    """What index() says, from a process of its own or from an earlier run."""
    place = folder / f"users-{users}-each-{per_user}"
    record_path = place / f"epochs-{epochs}-threads-{threads}.json"
    if not record_path.is_file():
        if not (place / "prompt.toml").is_file():
            write_data(place, users, per_user)
        code = (
            "import sys; from pathlib import Path; import index_scale as scale; from rexit.bundle.files import write_json; "
            "place, kept, epochs, threads = sys.argv[1:]; "
            "write_json(Path(kept), scale.index(Path(place), int(epochs), int(threads)))"
        )
        command = [sys.executable, "-c", code, str(place), str(record_path), str(epochs), str(threads)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
    stage: dict[str, Any] = json.loads(record_path.read_text())
    return stage


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--epochs", type=int, default=20, help="LightGCN's at most; at scale few are needed")
    parser.add_argument("--each", type=int, default=50, help="items drawn for a user, on average")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = args.folder.resolve()
    results = {users: measured(folder, users, args.each, args.epochs, args.threads) for users in args.users}
    if args.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=1))
        return
    table = Table("stage: seconds (of the processor), peak memory", *(f"{users:,} users" for users in results), box=MARKDOWN)
    names = dict.fromkeys(name for stage in results.values() for name in stage["stages"])
    for name in names:
        row = [stage["stages"].get(name, NOTHING) for stage in results.values()]
        table.add_row(name, *(f"{figures['seconds']:.1f} ({figures['cpu_seconds']:.1f})" for figures in row))
        table.add_row("", *(f"{figures['peak_gib']:.2f} GiB" for figures in row))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
