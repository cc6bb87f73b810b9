"""Peak memory and time of `rexit score --pairs` by the number of pairs, each in a process of its own.

    python benchmarks/scale/batch_memory.py BUNDLE --work FOLDER [--pairs 100000,1000000] [--slate 50] [--no-model] [--json]

Pairs are drawn from the bundle's users and items: slates of one user and one time, shuffled within every million rows, as
Parquet with a fourth column that scoring copies. With --no-model a session is opened, but `Session.score` answers at once, with
zeros: what is left is the reading, partitioning, ordering and writing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl

from rexit.bundle import Bundle
from rexit.scripts import script


def write_pairs(bundle: Path, path: Path, count: int, slate: int) -> None:
    """Slates of `slate` items; their rows are shuffled within every million."""
    random, catalog = np.random.default_rng(0), Bundle.open(bundle).catalog
    slates = -(-count // slate)
    user = np.repeat(random.integers(0, len(catalog.users), slates), slate)[:count]
    time = np.repeat(np.arange(slates) // len(catalog.users), slate)[:count]
    mixed = np.concatenate([begin + random.permutation(min(1_000_000, count - begin)) for begin in range(0, count, 1_000_000)])
    users, items = (np.array(ids.take(np.arange(len(ids)))) for ids in (catalog.users, catalog.items))
    item = items[random.integers(0, len(items), count)]
    frame = pl.DataFrame({"user_id": users[user], "item_id": item, "as_of": time, "n": np.arange(count)})
    frame[mixed].write_parquet(path)


NO_MODEL = """
import sys
import numpy as np
from rexit import runtime
stats = runtime.Stats(*[0] * 5, *[0.0] * 4)
def score(self, user, items, **options):
    zero = np.zeros(len(items), np.float32)
    depth = zero.astype(np.int64)
    return runtime.Scores(np.array(items), np.arange(len(items)), zero, zero, depth, depth, zero > 0, stats, (), zero[:, None])
runtime.Session.score = score
from rexit.cli import main
main()
"""


def measure(bundle: Path, pairs: Path, out: Path, model: bool) -> dict[str, float]:
    """Seconds, and the peak of the process's memory in MB."""
    program = ("-m", "rexit") if model else ("-c", NO_MODEL)
    files = ("--pairs", str(pairs), "--out", str(out))
    words = [sys.executable, *program, "score", str(bundle), *files, "--threads", "1", "--json"]
    with open(out.with_suffix(".json"), "w") as report:
        child = os.posix_spawn(sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, report.fileno(), 1)])
        _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"rexit score ended with {os.waitstatus_to_exitcode(status)}")
    seconds = json.loads(out.with_suffix(".json").read_text())["seconds"]
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1000}


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where pairs and scores go")
    parser.add_argument("--pairs", default="100000,1000000,10000000")
    parser.add_argument("--slate", type=int, default=50)
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in map(int, options.pairs.split(",")):
        pairs = options.work / f"pairs-{count}.parquet"
        # In a process of its own: Linux hands a parent's peak down to the processes it starts.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_pairs, args=(options.bundle, pairs, count, options.slate)
        )
        writer.start()
        writer.join()
        out = options.work / f"scores-{count}.parquet"
        rows.append({"pairs": count, **measure(options.bundle, pairs, out, not options.no_model)})
        line = "{pairs:>10} pairs {seconds:8.1f} s {cpu_seconds:8.1f} s of CPU {peak_mb:6.0f} MB".format(**rows[-1])
        print(json.dumps(rows[-1]) if options.json else line, flush=True)


if __name__ == "__main__":
    main()
