"""A product that nobody has bought, from its text to its place in the ranking of a service that does not stop.

    python examples/scientific/new_product.py DATA CATALOG BUNDLE WORK --model MINILM --tokenizer SMOLLM2
        [--title TITLE] [--category CATEGORY] [--about ABOUT]

DATA has the tables of prepare.py and `rexit embed`. A copy of BUNDLE in WORK is served; meanwhile the product is embedded, added
to a copy of CATALOG with one purchase of another product, and swapped in. It is then ranked beside the fifty products retrieved
for the last buyer of the product whose text is nearest to its own. Prints the seconds of each step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rexit.errors import script

HERE, COLUMN, RETRIEVED, PATIENCE_S = Path(__file__).parent, "text_vector", 50, 60
REXIT = str(Path(sys.executable).with_name("rexit"))


def command(*words: object) -> float:
    """Runs `rexit` and returns the seconds that it took."""
    begun = time.monotonic()
    done = subprocess.run([REXIT, *map(str, words)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"new_product.py: `rexit {words[0]}` ended with exit code {done.returncode}")
    return time.monotonic() - begun


@contextmanager
def service(bundle: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Yields a process that serves the bundle, and where it scores."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([REXIT, "serve", str(bundle), "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        yield process, f"http://127.0.0.1:{port}/v1/score"
    finally:
        process.terminate()
        process.wait()


def answer(url: str, request: Mapping[str, Any], refused: int | None = None) -> dict[str, Any]:
    """Asks until the service listens, and then until it no longer answers with the status `refused`."""
    body, until = json.dumps(request).encode(), time.monotonic() + PATIENCE_S
    while True:
        try:
            post = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(post) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as exc:
            if exc.code != refused or time.monotonic() > until:
                sys.exit(f"new_product.py: the service answered {exc.code}: {exc.read().decode()[:200]}")
        except urllib.error.URLError as exc:
            if time.monotonic() > until:
                sys.exit(f"new_product.py: the service does not answer: {exc.reason}")
        time.sleep(0.005)


def nearest_buyer(items: pl.DataFrame, purchases: pl.DataFrame, vector: np.ndarray) -> tuple[int, str]:
    """Returns the last buyer of the product whose text is nearest to the vector, and that product's title."""
    bought = items.filter(pl.col("item_id").is_in(purchases["item_id"].implode()))
    row = bought.row(int(np.argmax(np.stack(bought[COLUMN].to_list()) @ vector)), named=True)
    return purchases.filter(pl.col("item_id") == row["item_id"])["user_id"][-1], row["title"]


@script
def main(args: argparse.Namespace) -> None:
    if args.work.exists():
        sys.exit(f"new_product.py: {args.work}: exists already; expected a new folder")
    args.work.mkdir(parents=True)
    table, vectors, today, bundle = (args.work / name for name in ("new.csv", "new.parquet", "catalog", "bundle"))
    items = pl.read_parquet(args.data / "items.parquet").with_columns(pl.col("item_id").cast(pl.Int64))
    purchases = pl.read_csv(args.data / "purchases.csv")
    new = int(items["item_id"].max()) + 1  # type: ignore[arg-type]
    text = f"{args.title} {args.category}. {args.about}"
    row = {"item_id": new, "title": args.title, "category": args.category, "about": args.about, "text": text}
    pl.DataFrame([row]).write_csv(table)
    day = purchases.tail(1).with_columns(pl.col("place") + 1)  # of another product
    day.write_csv(args.work / "today.csv")
    shutil.copytree(args.bundle, bundle)

    with service(bundle) as (process, url):
        seconds = {
            "rexit embed": command(
                "embed", table, "--model", args.model, "--text", "{text}", "--column", COLUMN, "--out", vectors
            )
        }
        user, title = nearest_buyer(items, purchases, np.array(pl.read_parquet(vectors)[COLUMN][0]))
        known = [score["item"] for score in answer(url, {"user": user, "retrieve": RETRIEVED})["scores"]]
        index = ("index", "--from", args.catalog, "--interactions", args.work / "today.csv", "--items", vectors)
        seconds["rexit index --from"] = command(
            *index, "--tokenizer", args.tokenizer, "--template", HERE / "prompt.toml", "--out", today
        )
        seconds["rexit refresh, with the policy's test"] = command("refresh", bundle, "--catalog", today)
        begun = time.monotonic()
        process.send_signal(signal.SIGHUP)
        scores = answer(url, {"user": user, "items": [*known, new]}, refused=422)["scores"]
        seconds["SIGHUP until it is ranked"] = time.monotonic() - begun

    best_first = [score["item"] for score in sorted(scores, key=lambda score: -score["probability"])]
    print(f"Its text is nearest to {title!r}.")
    print(f"For the last buyer of that it is number {best_first.index(new) + 1} of {len(best_first)}.\n")
    print("| | seconds |\n|---|---|")
    for step, took in seconds.items():
        print(f"| {step} | {took:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "catalog", "bundle", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--model", type=Path, required=True, help="of the vectors in DATA")
    parser.add_argument("--tokenizer", type=Path, required=True, help="of CATALOG")
    parser.add_argument("--title", default="Digital Caliper, 6 Inch, Stainless Steel, Large LCD Screen")
    parser.add_argument("--category", default="Calipers")
    parser.add_argument(
        "--about", default="Electronic vernier caliper that converts inches to millimeters. With a case and a battery."
    )
    main(parser.parse_args())
