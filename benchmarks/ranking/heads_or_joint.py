"""Heads fitted after a training of the last head alone, beside heads trained with it: every exit's ranking on the test split.

    rexit calibrate HEADS --catalog CATALOG --slate 100 …, the same for JOINT
    python benchmarks/ranking/heads_or_joint.py CATALOG HEADS JOINT [--variant cpu-int8] [--slate 100]

1. HEADS and JOINT are bundles with the same exits. Rankings are of the traces that `rexit calibrate` left.
2. Differences are paired, with 95 % intervals over users. The second table says what depth pays: the last exit less each other.
3. --model (trained with its last head) and --checkpoint (the same after `rexit heads`): how many tensors have the same bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from frontier import recorded
from judgement import Judgement, Measured
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from rexit.bundle import Bundle, Catalog
from rexit.calibration.options import CalibrationOptions
from rexit.errors import InputError
from rexit.measure.costs import depth_name
from rexit.scripts import script

METRICS = {"auc": "AUC", "user_auc": "user AUC", "ndcg@10": "NDCG@10"}


def exits(catalog: Catalog, path: Path, variant: str, slate: int, max_slates: int) -> dict[int, Measured]:
    """Each exit's ranking of the test split, by its depth in layers."""
    bundle = Bundle.open(path, variant)
    test = recorded(catalog, bundle, slate, max_slates)[1]["test"]
    judgement = Judgement(test.users, test.liked)
    return {layers: judgement.of(test.log_odds[:, k]) for k, layers in enumerate(bundle.manifest.exits)}


def cells(measured: Measured, form: str) -> list[str]:
    interval = measured.interval()
    return [form.format(*interval[name]) for name in METRICS]


def tables(heads: Mapping[int, Measured], joint: Mapping[int, Measured]) -> list[Table]:
    by_exit = Table("layers", "", *METRICS.values(), box=MARKDOWN)
    depth = Table("last exit less", "", *METRICS.values(), box=MARKDOWN)
    value, change = "{:.4f} ({:.4f} to {:.4f})", "{:+.4f} ({:+.4f} to {:+.4f})"
    last = max(heads)
    for layers in heads:
        by_exit.add_row(str(layers), "heads after", *cells(heads[layers], value))
        by_exit.add_row("", "joint", *cells(joint[layers], value))
        by_exit.add_row("", "heads less joint", *cells(heads[layers].minus(joint[layers]), change))
        if layers != last:
            for name, model in (("heads after", heads), ("joint", joint)):
                depth.add_row(depth_name(layers), name, *cells(model[last].minus(model[layers]), change))
    return [by_exit, depth]


def same_bits(model: Path, checkpoint: Path) -> str:
    """How many tensors of the base, and of the last exit's head, are the same in both."""
    base, after = (load_file(folder / "model.safetensors") for folder in (model, checkpoint))
    same = sum(np.array_equal(after[name].view(np.uint8), tensor.view(np.uint8)) for name, tensor in base.items())
    heads = [load_file(folder / "exit_heads.safetensors") for folder in (model, checkpoint)]
    last = [_last_head(tensors) for tensors in heads]
    kept = sum(np.array_equal(last[0][name].view(np.uint8), last[1][name].view(np.uint8)) for name in last[0])
    return f"the same bits: {same} of {len(base)} tensors of the base, {kept} of {len(last[0])} of the last exit's head"


def _last_head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By name without the exit's number, which is the part of a name that is one."""
    numbered = {name: [part for part in name.split(".") if part.isdigit()] for name in tensors}
    last = max(int(parts[0]) for parts in numbered.values())
    return {name.replace(f".{last}.", "."): tensors[name] for name, parts in numbered.items() if int(parts[0]) == last}


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("heads", type=Path, help="bundle of the model whose heads were fitted after")
    parser.add_argument("joint", type=Path, help="bundle of the model whose heads were trained together")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--slate", type=int, default=100, help="as the calibration had it (100)")
    parser.add_argument("--max-slates", type=int, default=CalibrationOptions.max_slates, help="as the calibration had it (5000)")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    catalog = Catalog.open(args.catalog)
    heads, joint = (exits(catalog, path, args.variant, args.slate, args.max_slates) for path in (args.heads, args.joint))
    if heads.keys() != joint.keys():
        raise InputError(f"{args.joint}: exits after {sorted(joint)} layers, {args.heads} has {sorted(heads)}: expected the same")
    console = Console(highlight=False, width=160)
    for table in tables(heads, joint):
        console.print(table)
    if args.model and args.checkpoint:
        console.print(same_bits(args.model, args.checkpoint))


if __name__ == "__main__":
    main()
