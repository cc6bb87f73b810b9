"""What a catalog of many users costs the runtime: opening it, looking a user up, and the search for similar users, of all of them
and of those in the nearest lists.

    python benchmarks/scale/catalog_scale.py BUNDLE FOLDER [--users 10000 100000 1000000 10000000] [--ways all lists] [--json]

FOLDER gets a copy of BUNDLE for each size and way, with a catalog whose users are drawn, seeded: embeddings in clusters of 200
on average, each as far from its cluster's middle as that is long, random neighbours, four interactions each with the bundle's
items. Nothing is trained. `users-N` has no lists, `lists-N` has them. Each is measured by a process of its own, with its files
in the page cache: opening (the least of three), resident memory after it, and `retrieval_us` of slates of ten items: for known
users (after a first pass over the same ones), and for a known user with one fresh interaction, whose neighbours are searched for.
Of lists also the recall@20: the share of the exact twenty nearest that a search looks at, over QUERIES embeddings drawn as users'
are, each around a user.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from rexit.bundle.catalog import LISTS, Catalog
from rexit.bundle.files import FileEntry
from rexit.measure.machine import machine
from rexit.scripts import script

EACH, LOOKUPS, SEARCHES, SLATE = 4, 2000, 51, 10
CLUSTER, QUERIES, NEAREST, BLOCK = 200, 200, 20, 1 << 18


def write_copy(bundle: Path, place: Path, users: int, in_lists: bool) -> None:
    """`bundle` with other users."""
    from rexit.exporter.retriever.lists import Lists  # of torch, which would be in the memory measured

    shutil.copytree(bundle, place)
    catalog = place / "catalog"
    info = json.loads((catalog / "catalog.json").read_text())
    info["ids"]["user"], info["counts"]["users"], info["counts"]["interactions"] = "int64", users, users * EACH
    before, items = load_file(catalog / "users.safetensors"), load_file(catalog / "items.safetensors")
    table = _users(before, users, info["counts"]["items"])
    if in_lists:
        lists = Lists.cluster(table["embeddings"])
        table |= lists.tensors(table["embeddings"])
        info["requires"] = [*info["requires"], LISTS]
        info["embedding"]["probes"] = lists.probes
    save_file(table, catalog / "users.safetensors")
    save_file({**items, **_ratings(info["counts"]["items"], users * EACH)}, catalog / "items.safetensors")
    _seal(place, info)


def _users(before: dict[str, Any], users: int, items: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    rated_items = np.sort(random.integers(0, items, (users, EACH), np.int32))
    dim = before["embeddings"].shape[1]
    middles, embeddings = _random_rows(max(1, users // CLUSTER), dim, random), np.empty((users, dim), np.float16)
    for begin in range(0, users, BLOCK):
        part = embeddings[begin : begin + BLOCK]
        part[:] = _around(middles[random.integers(0, len(middles), len(part))], random)
    fields = {name: random.choice(cells, users) for name, cells in before.items() if name.startswith("field.")}
    return {
        "ids": np.arange(users) * 3,
        "embeddings": embeddings,
        "similar": random.integers(0, users, (users, before["similar"].shape[1]), np.int32),
        "history_offsets": np.arange(users + 1) * EACH,
        "history_items": rated_items.ravel(),
        "history_times": np.tile(np.arange(EACH), users),
        "history_liked": random.integers(0, 2, users * EACH, np.uint8),
        "history_by_item": np.tile(np.arange(EACH, dtype=np.int32), users),
        **fields,
    }


def _random_rows(count: int, dim: int, random: np.random.Generator) -> NDArray[np.float32]:
    return random.standard_normal((count, dim), np.float32) / np.float32(dim**0.5)


def _around(middles: NDArray[Any], random: np.random.Generator) -> NDArray[np.float16]:
    """Unit vectors, each around a middle [n, D]."""
    count, dim = middles.shape
    vectors = middles + _random_rows(count, dim, random)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float16)


def recall(place: Path) -> float:
    """Of searches in the lists of the bundle in `place`, by exact products."""
    from rexit.exporter.retriever.lists import Lists

    catalog = Catalog.open(place / "catalog")
    table, lists, random = catalog.user_table, Lists.of(catalog), np.random.default_rng(2)
    assert lists is not None
    embeddings, owner = table["embeddings"], lists.owner[table["list_users"]]
    users = random.integers(0, len(embeddings), QUERIES)
    queries = _around(embeddings[users], random)
    best_scores = np.zeros((QUERIES, 0)), np.zeros((QUERIES, 0), np.int64)
    for begin in range(0, len(embeddings), BLOCK):
        products = queries.astype(np.float64) @ embeddings[begin : begin + BLOCK].astype(np.float64).T
        at = np.argpartition(-products, min(NEAREST, products.shape[1] - 1), 1)[:, :NEAREST]
        scores = np.concatenate([best_scores[0], np.take_along_axis(products, at, 1)], 1)
        places = np.concatenate([best_scores[1], at + begin], 1)
        best = np.argsort(-scores, 1)[:, :NEAREST]
        best_scores = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
    looked_at = (lists.probed(queries)[:, None] == owner[best_scores[1]][:, :, None]).any(2)
    return float(looked_at.mean())


def _ratings(items: int, count: int) -> dict[str, Any]:
    offsets = np.linspace(0, count, items + 1).astype(np.int64)
    place = np.arange(count) - np.repeat(offsets[:-1], np.diff(offsets))
    return {"rating_offsets": offsets, "rating_times": place, "rating_likes": ((place + 1) // 2).astype(np.int32)}


def _seal(place: Path, info: dict[str, Any]) -> None:
    """Sizes and digests; golden samples and policies are of the other users."""
    catalog = place / "catalog"
    info["files"] = {name: FileEntry.of(catalog / name).to_json() for name in info["files"]}
    (catalog / "catalog.json").write_text(json.dumps(info))
    manifest = json.loads((place / "manifest.json").read_text())
    for name in manifest["variants"]:
        path = place / "variants" / name / "variant.json"
        variant = json.loads(path.read_text())
        variant["catalog_sha256"] = FileEntry.of(catalog / "catalog.json").sha256
        path.write_text(json.dumps(variant))
        (path.parent / "policy.json").unlink(missing_ok=True)
    manifest["files"] = {name: FileEntry.of(place / name).to_json() for name in manifest["files"]}
    (place / "manifest.json").write_text(json.dumps(manifest))


def measure(place: Path) -> dict[str, float]:
    """Of the bundle in `place`, in this process."""
    import rexit

    for path in (place / "catalog").iterdir():
        FileEntry.of(path)  # into the page cache
    opened = []
    for _ in range(3):
        begin = time.perf_counter()
        session = rexit.open(place, threads=1)
        opened.append(time.perf_counter() - begin)
        resident = _resident_mib()
        if len(opened) < 3:
            session.close()
    info = json.loads((place / "catalog" / "catalog.json").read_text())
    random = np.random.default_rng(1)
    items = np.array(load_file(place / "catalog" / "items.safetensors")["ids"])
    slates = [
        (int(user) * 3, random.choice(items, SLATE, replace=False).tolist())
        for user in random.integers(0, info["counts"]["users"], LOOKUPS)
    ]
    for _ in range(2):
        microseconds = [session.score(user, slate_items).stats.retrieval_us for user, slate_items in slates]
    searched = [
        session.score(user, slate_items, recent=[(slate_items[0], True)]).stats.retrieval_us
        for user, slate_items in slates[:SEARCHES]
    ]
    session.close()
    p50, p99 = np.percentile(microseconds, [50, 99]).tolist()
    return {
        "open_s": min(opened),
        "opened_mib": resident,
        "p50_us": p50,
        "p99_us": p99,
        "search_ms": float(np.median(searched)) / 1000,
        "recall": recall(place) if "probes" in info["embedding"] else 1.0,
        "catalog_mib": sum(path.stat().st_size for path in (place / "catalog").iterdir()) / (1 << 20),
    }


def _resident_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--ways", nargs="+", choices=["all", "lists"], default=["all", "lists"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {}
    for users, way in itertools.product(args.users, args.ways):
        place = args.folder.resolve() / f"{'users' if way == 'all' else way}-{users}"
        if not place.is_dir():
            write_copy(args.bundle, place, users, way == "lists")
        code = "import json, sys; from pathlib import Path; import catalog_scale as scale; "
        code += "print(json.dumps(scale.measure(Path(sys.argv[1]))))"
        result = subprocess.run(
            [sys.executable, "-c", code, str(place)], check=True, cwd=Path(__file__).parent, stdout=subprocess.PIPE
        )
        results[place.name] = json.loads(result.stdout)
    if args.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=1))
        return
    columns = {"catalog_mib": "catalog, MiB", "open_s": "open, s", "opened_mib": "resident, MiB", "p50_us": "look-up p50, µs"}
    columns |= {"p99_us": "p99, µs", "search_ms": "search, ms", "recall": "recall@20"}
    table = Table("users", *columns.values(), box=MARKDOWN)
    for name, result in results.items():
        table.add_row(name, *(f"{result[name]:.4g}" for name in columns))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
