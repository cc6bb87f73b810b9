"""What int8 and int4 save in time, disk and memory: the variants of one bundle at full depth, request by request in turn.

    python benchmarks/quantized.py [--requests 20] [--json]

The model has the shape of SmolLM2-135M (30 layers, 576 wide, six exits) and random weights, so nothing here is about quality.
A request is 20 candidates of 12 tokens behind a prefix of 200, cold each time. Catalog and bundle are made once in --work and
reused. All variants answer in one process; peak memory is that of a process of its own for each, which opens the variant and
answers five requests, less that of one that only imports rexit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from chain import EXITS, checkpoint
from rich.console import Console
from rich.table import Table

import rexit
from rexit.bundle import Bundle, Catalog

PRECISIONS = ("fp32", "int8", "int4")
USERS, ITEMS, EACH = 40, 100, 20
SLATE, PREFIX, CANDIDATE = 20, 200, 12

# Not getrusage: a process inherits its parent's peak there.
_MEMORY = """
import sys
import numpy, rexit
if len(sys.argv) > 1:
    with rexit.open(sys.argv[1], sys.argv[2]) as session:
        for user in range(5):
            session.score(user, list(range(int(sys.argv[3]))), force_exit=int(sys.argv[4]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def catalog_of_fixed_lengths(folder: Path) -> Path:
    """Every prefix has PREFIX tokens, every candidate CANDIDATE: a tokenizer of letters, and texts that long."""
    out = folder / "catalog"
    if not (out / "catalog.json").exists():
        from tokenizers import Tokenizer, models, pre_tokenizers

        from rexit.exporter import lightgcn
        from rexit.exporter.index import build_catalog

        random = np.random.default_rng(0)
        rows = ["user_id,item_id,rating,timestamp"]
        for user in range(USERS):
            rows += [f"{user},{item},{random.integers(1, 6)},{n}" for n, item in enumerate(random.permutation(ITEMS)[:EACH])]
        (folder / "interactions.csv").write_text("\n".join(rows))
        titles = ["".join(random.choice(list("abcdefgh"), CANDIDATE)) for _ in range(ITEMS)]
        (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"{n},{title}" for n, title in enumerate(titles))]))
        (folder / "prompt.toml").write_text(f'prompt = "{"p" * PREFIX}{{item.title}}"\n[labels]\nyes = "y"\nno = "n"\n')
        tokenizer = Tokenizer(models.WordLevel({chr(n): n - 32 for n in range(32, 127)}, unk_token=" "))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.save(str(folder / "tokenizer.json"))
        build_catalog(
            folder / "interactions.csv",
            folder / "items.csv",
            str(folder / "tokenizer.json"),
            folder / "prompt.toml",
            out,
            neighbours=2,
            settings=lightgcn.Settings(dim=8, epochs=1),
        )
    return out


def bundle_of_all(work: Path) -> Path:
    """One bundle with a variant per precision, exported where it is not there yet."""
    out = work / "bundle"
    if not (out / "manifest.json").exists():
        from rexit.exporter.export import export

        work.mkdir(parents=True, exist_ok=True)
        print(f"exporting {out}", file=sys.stderr)
        export(
            checkpoint(work / "checkpoint"),
            catalog_of_fixed_lengths(work),
            out,
            exits=EXITS["chain"],
            head="shared",
            precisions=PRECISIONS,
            golden_slates=1,
            quality_slates=15,
            accept_loss=True,  # random weights
        )
    return out


def latencies(path: Path, requests: int) -> dict[str, np.ndarray]:
    """Milliseconds of each request, by precision; the first request, which warms up, is left out."""
    catalog = Catalog.open(path / "catalog")
    random = np.random.default_rng(0)
    taken = {precision: np.zeros(requests + 1) for precision in PRECISIONS}
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(rexit.open(path, f"cpu-{name}")) for name in PRECISIONS}
        for n in range(requests + 1):
            items = random.choice(len(catalog.items), SLATE, replace=False).tolist()
            order = PRECISIONS if n % 2 else PRECISIONS[::-1]
            for name in order:
                sessions[name].clear_cache()
                stats = sessions[name].score(n % USERS, items, force_exit=len(EXITS["chain"]) - 1).stats
                assert (stats.prefix_tokens, stats.candidate_tokens) == (PREFIX, SLATE * CANDIDATE), stats
                taken[name][n] = stats.total_us / 1000
    return {name: values[1:] for name, values in taken.items()}


def peak(*arguments: object) -> int:
    """Bytes. On Linux."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) * 1024


def measure(path: Path, requests: int) -> dict[str, Any]:
    """Figures of every precision, and its ratio to fp32; of time, request by request."""
    taken = latencies(path, requests)
    imports = peak()
    found: dict[str, Any] = {"slate": SLATE, "prefix": PREFIX, "candidate": CANDIDATE, "requests": requests, "precisions": {}}
    for name in PRECISIONS:
        opened = Bundle.open(path, f"cpu-{name}")
        found["precisions"][name] = {
            "ms": float(np.median(taken[name])),
            "bytes": sum(entry.bytes for entry in opened.variant.files.values()),
            "peak_bytes": peak(path, f"cpu-{name}", SLATE, len(EXITS["chain"]) - 1) - imports,
        }
    exact = found["precisions"]["fp32"]
    found["ratios"] = {
        name: {
            "speed": float(np.median(taken["fp32"] / taken[name])),
            **{what: found["precisions"][name][what] / exact[what] for what in ("bytes", "peak_bytes")},
        }
        for name in PRECISIONS[1:]
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench/quantized"))
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(bundle_of_all(args.work), args.requests)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    table = Table(title=f"{SLATE} candidates of {CANDIDATE} tokens behind {PREFIX}, full depth, cold", title_justify="left")
    for column in ("", "ms", "times as fast", "MB", "of fp32", "peak MB", "of fp32"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result["precisions"].items():
        ratio = result["ratios"].get(name, {"speed": 1, "bytes": 1, "peak_bytes": 1})
        figures = (f"{row['ms']:.0f}", f"{ratio['speed']:.2f}", f"{row['bytes'] / 1e6:.0f}", f"{ratio['bytes']:.2f}")
        table.add_row(name, *figures, f"{row['peak_bytes'] / 1e6:.0f}", f"{ratio['peak_bytes']:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
