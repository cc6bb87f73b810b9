"""Are a layerwise reranker's log-odds those of FlagEmbedding's own code, at every exit?

    python benchmarks/rerankers/flag_embedding.py

1. Makes an environment with FlagEmbedding and a transformers that its MiniCPM can import (about 60 MB, torch is this one's).
2. There, FlagEmbedding's code saves a random model of 40 layers and 96 numbers, and scores prompts after layers 8 to 40.
3. Here, `load_checkpoint` reads the folder, and the heads score the same prompts, unsplit. `rexit export` compares the segments.

Prints the largest difference by exit; fails above the tolerance, or if the environment cannot be made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch

from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel

PACKAGES = ("transformers==4.48.3",)
ALONE = ("FlagEmbedding==1.4.2",)
"""Installed without what they depend on."""
TOLERANCE = 1e-4
PREFIX, CANDIDATES = 30, (12, 1, 40, 25)
"""Tokens."""


def environment(folder: Path) -> Path:
    """The environment's Python. Exits with a line if it cannot be made."""
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        try:
            venv.create(folder, clear=True, with_pip=True)
            for options in (PACKAGES, ("--no-deps", *ALONE)):
                subprocess.run([python, "-m", "pip", "install", "-q", *options], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            output = (getattr(exc, "stderr", None) or "").strip() or str(exc)
            raise SystemExit(f"{folder}: the environment cannot be made: {output.splitlines()[-1]}") from None
        # Behind its own packages, so that torch alone comes from here.
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "zz_torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
        (folder / "made").touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path("build/flag-embedding"))
    args = parser.parse_args()
    python = environment(args.environment)
    rng = np.random.default_rng(0)
    prefix, *candidates = (rng.integers(3, 500, count).tolist() for count in (PREFIX, *CANDIDATES))
    with tempfile.TemporaryDirectory() as place:
        folder, tokens, answers = Path(place, "model"), Path(place, "tokens.json"), Path(place, "answers.json")
        tokens.write_text(json.dumps([prefix + candidate for candidate in candidates]))
        script = Path(__file__).with_name("flag_embedding_model.py")
        done = subprocess.run([python, script, folder, tokens, answers], check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"FlagEmbedding's code failed: {done.stderr.strip().splitlines()[-1]}")
        theirs = np.array(json.loads(answers.read_text()))
        checkpoint = load_checkpoint(folder)
        model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval()
        ours = model.reference(prefix, candidates)
    differences = np.abs(ours - theirs).max(0)
    print(f"{len(candidates)} prompts, log-odds of {theirs.min():.2f} to {theirs.max():.2f}")
    for depth, difference in zip(checkpoint.exits, differences, strict=True):
        print(f"after layer {depth:2}: {difference:.1e}")
    worst = float(differences.max())
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    if worst > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
