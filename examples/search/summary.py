"""The end of `make demo-search`: what layers, look-up and policy are worth, a search, and the same over HTTP.

python examples/search/summary.py DEMO           measure, write DEMO/summary.json
python examples/search/summary.py DEMO --show    print it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import rexit
from rexit.calibration import Verdict
from rexit.errors import script
from rexit.format.bundle import Bundle, write_json
from rexit.upkeep.measure import depth_name

METRIC = "ndcg@10"
SHOWN = 5
BUNDLE = "bundle"


@contextmanager
def served(bundle: Path) -> Any:
    """Serves a bundle at a free port while the block runs. Yields its address."""
    command = [str(Path(sys.executable).with_name("rexit")), "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "http://" in line:
                yield "http://" + line.partition("http://")[2].split()[0].rstrip("/")
                break
        else:
            sys.exit(f"summary: rexit serve ended with exit code {process.wait()}")
    finally:
        process.terminate()
        process.communicate()


def answered(address: str, query: str, documents: Sequence[str], scores: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Returns what `POST /rerank` answers, in the form that Cohere's and other clients read."""
    body = {"query": query, "documents": documents, "scores": scores, "top_n": SHOWN}
    request = urllib.request.Request(f"{address}/rerank", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        results: list[dict[str, Any]] = json.load(answer)["results"]
    return results


def measure(demo: Path) -> dict[str, Any]:
    bundle = Bundle.open(demo / BUNDLE)
    report = json.loads((bundle.folder / "report.json").read_text())
    search = json.loads((demo / "data" / "asked.json").read_text())
    texts, bm25 = ([document[name] for document in search["documents"]] for name in ("text", "score"))
    scores = {"bm25": bm25}
    reranker = rexit.Reranker(demo / BUNDLE)
    hits = reranker.rank(search["query"], texts, scores=scores, top_k=SHOWN)
    begin = time.perf_counter()
    for _ in range(10):
        reranker.rank(search["query"], texts, scores=scores, top_k=SHOWN)
    milliseconds = (time.perf_counter() - begin) * 100
    with served(demo / BUNDLE) as address:
        results = answered(address, search["query"], texts, scores)
    if [row["index"] for row in results] != [hit["corpus_id"] for hit in hits]:
        sys.exit(f"summary: Python and HTTP differ: {hits} and {results}")
    return {
        "variant": bundle.variant.name,
        "exits": bundle.manifest.exits,
        "candidates": len(texts),
        "table": report["table"],
        "verdict": report["verdict"],
        "layers_add": report["layers_add"],
        "report": str(bundle.folder / "report.html"),
        "query": search["query"],
        "hits": [
            {"package": search["documents"][hit["corpus_id"]]["package"], "place": hit["corpus_id"] + 1, **hit} for hit in hits
        ],
        "ms": milliseconds,
    }


def milliseconds(row: Mapping[str, Any]) -> str:
    """Of a query: as timed, or, with ~, by the cost model if the policy was decided on earlier traces."""
    return f"~{row['cost_us'] / 1000:.2f}" if row["ms_per_slate"] is None else f"{row['ms_per_slate']:.2f}"


def show(figures: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(title=f"Debian's packages by what they are for: {figures['variant']}, test queries", title_justify="left")
    for column in ("", METRIC.upper(), "lost by stopping", "layers", "ms"):
        table.add_column(column, justify="right" if column else "left")
    names = [*map(depth_name, figures["exits"][:-1]), "full depth", "policy"]
    rows = {row["policy"]: row for row in figures["table"]}
    for name in (name for name in names if name in rows):  # an exit that the gate refused is none
        row = rows[name]
        lost, low, high = row["drops"][METRIC]
        drop = "" if name == "full depth" else f"{lost:+.4f} ({low:+.4f} to {high:+.4f})"
        table.add_row(name, f"{row['values'][METRIC]:.4f}", drop, f"{row['mean_layers']:.1f}", milliseconds(row))
    console.print(table)

    table = Table(title=f'reranker.rank("{figures["query"]}", …), {figures["ms"]:.1f} ms in Python', title_justify="left")
    for column in ("package", "probability", "BM25's place"):
        table.add_column(column, justify="left" if column == "package" else "right")
    for hit in figures["hits"]:
        table.add_row(hit["package"], f"{hit['score']:.3f}", str(hit["place"]))
    console.print(table)
    console.print("`POST /rerank` of `rexit serve` gave the same order.")
    verdict = Verdict(**figures["verdict"])
    console.print(verdict.text, markup=False)
    if verdict.layers:
        console.print(verdict.layers, markup=False)
    console.print(f"With curves and the guarantee: {figures['report']}", markup=False, soft_wrap=True)


@script
def main(demo: Path, again: bool) -> None:
    if again:
        show(json.loads((demo / "summary.json").read_text()))
    else:
        write_json(demo / "summary.json", measure(demo))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--show", action="store_true", help="print the figures measured before")
    args = parser.parse_args()
    main(args.demo, args.show)
