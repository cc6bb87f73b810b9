"""Heads fitted after a training of the last head alone, beside heads trained with it: every exit's ranking on the test split.

    rexit calibrate HEADS --catalog CATALOG --slate 100 …, the same for JOINT
    python benchmarks/ranking/heads_or_joint.py CATALOG HEADS JOINT [--variant cpu-int8] [--slate 100]

1. HEADS and JOINT are bundles with the same exits. Rankings are of the traces that `rexit calibrate` left.
2. Differences are paired, with 95 % intervals over users. The second table says what depth pays: the last exit less each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from frontier import recorded
from judgement import Judgement, Measured
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

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


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("heads", type=Path, help="bundle of the model whose heads were fitted after")
    parser.add_argument("joint", type=Path, help="bundle of the model whose heads were trained together")
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--slate", type=int, default=100, help="as the calibration had it (100)")
    parser.add_argument("--max-slates", type=int, default=CalibrationOptions.max_slates, help="as the calibration had it (5000)")
    args = parser.parse_args()
    catalog = Catalog.open(args.catalog)
    heads, joint = (exits(catalog, path, args.variant, args.slate, args.max_slates) for path in (args.heads, args.joint))
    if heads.keys() != joint.keys():
        raise InputError(f"{args.joint}: exits after {sorted(joint)} layers, {args.heads} has {sorted(heads)}: expected the same")
    console = Console(highlight=False, width=160)
    for table in tables(heads, joint):
        console.print(table)


if __name__ == "__main__":
    main()
