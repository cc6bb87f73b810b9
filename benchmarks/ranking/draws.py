"""The demo's model trained from several seeds: what its exits rank, and how sure that is.

    make demo
    python benchmarks/ranking/draws.py build/demo OUT [--seeds 5]

Each seed is trained, given heads and exported as `make demo` does, into OUT/SEED; a second run continues. Maps read all heads so
far and are fitted on the validation users who choose. Test slates of up to 100. Differences are of the means over the draws, with
95 % intervals over users; behind them is each draw's figure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from judgement import Judgement, Measured, mean
from numpy.typing import NDArray

import rexit
from rexit.bundle import Catalog
from rexit.calibration import maps
from rexit.calibration.traces import collect, join, split_users
from rexit.errors import script
from rexit.slates import cut

SLATE = 100
SPLITS = ("validation", "test")
TRAIN = Path(__file__).parents[2] / "examples/movielens/train.py"


def traces(demo: Path, out: Path, seed: int) -> dict[str, NDArray[np.float32]]:
    """Returns a seed's log-odds at every exit, float32 [pairs, exits] by split; what is in OUT/SEED is not made again."""
    folder = out / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    catalog, rexit_ = ("--catalog", demo / "catalog"), Path(sys.executable).parent / "rexit"
    training = ("--exits", 6, "--epochs", 0.15, "--slate", 32, "--batch-tokens", 1600, "--seed", seed)
    heads = ("--exits", "auto:4", "--keep-last", "--max-slates", 1000, "--validation-slates", 400)
    for made, words in (
        ("model", (sys.executable, TRAIN, "--out", folder / "model", *catalog, *training)),
        ("checkpoint", (rexit_, "heads", folder / "model", "--out", folder / "checkpoint", *catalog, *heads)),
        ("bundle", (rexit_, "export", folder / "checkpoint", "--out", folder / "bundle", *catalog)),
    ):
        if not any((folder / made / last).exists() for last in ("exits.json", "manifest.json")):
            subprocess.run(list(map(str, words)), check=True)
    for split in SPLITS:
        if not (path := folder / f"{split}.npy").exists():
            with rexit.open(folder / "bundle", threads=1) as session:
                np.save(path, collect(session, cut(Catalog.open(demo / "catalog"), split, SLATE)))
    return {split: np.load(folder / f"{split}.npy") for split in SPLITS}


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    slates = {split: cut(Catalog.open(args.demo / "catalog"), split, SLATE) for split in SPLITS}
    runs: dict[str, list[Measured]] = {}
    for seed in range(args.seeds):
        z = traces(args.demo, args.out, seed)
        fitted = maps.choose(maps.ALL, split_users(join(slates["validation"], z["validation"]))[0], ()).maps
        test, c = join(slates["test"], z["test"]), maps.apply(fitted, z["test"])
        judgement = Judgement(test.users, test.liked)
        rankings = {"last head alone": z["test"][:, -1], "exit zero": c[:, 0], "1 layer": c[:, 1], "full depth": c[:, -1]}
        for name, score in rankings.items():
            runs.setdefault(name, []).append(judgement.of(score))
    reference = runs["last head alone"]
    for name, draws in runs.items():
        less = mean([draw.minus(other) for draw, other in zip(draws, reference, strict=True)]).interval()
        each = {metric: [draw.interval()[metric][0] for draw in draws] for metric in ("user_auc", "ndcg@10")}
        for metric, values in each.items():
            value, low, high = less[metric]
            shown = " ".join(f"{figure:.4f}" for figure in values)
            difference = f"less the last head alone {value:+.4f} ({low:+.4f} to {high:+.4f})"
            print(f"{name:16} {metric:8} {np.mean(values):.4f}, {difference}; {shown}")


if __name__ == "__main__":
    main()
