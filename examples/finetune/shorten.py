"""Cuts a decoder after its first layers, into a smaller model to fine-tune.

    python examples/finetune/shorten.py smollm2 smollm2-10 --layers 10

Embeddings, the final norm, the LM head and the tokenizer's files stay the same, so every exit's head starts as in the whole
model. The result is useless until it is fine-tuned: the removed layers prepared what the LM head reads.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rexit.errors import InputError, script
from rexit.exporter.checkpoints.weights import decoder_model, located
from rexit.exporter.libraries import log, quiet
from rexit.exporter.model.decoder import Decoder
from rexit.format.bundle.writer import new_folder


def shorten(source: str, out: Path, layers: int) -> None:
    """Writes the first layers of a model.

    Args:
        source: a folder, Hub id or GGUF file.
        out: the new folder.
        layers: how many to keep.

    Raises:
        InputError: The model has fewer layers, or cannot be loaded.
    """
    with quiet():
        place = located(source)
        decoder = Decoder.of(decoder_model(place))
    if not 1 <= layers <= len(decoder.layers):
        raise InputError(f"--layers {layers}: {source} has {len(decoder.layers)} layers, expected 1 to as many")
    with quiet(), new_folder(out) as folder:
        decoder.cut(layers).model.save_pretrained(folder)
        for path in place.glob("tokenizer*"):
            shutil.copy(path, folder)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, Hub id or GGUF file of a decoder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, required=True, help="how many to keep, from the first")
    args = parser.parse_args()
    log.set_verbosity_error()
    shorten(args.model, args.out, args.layers)


if __name__ == "__main__":
    main()
