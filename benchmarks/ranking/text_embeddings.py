"""Embeddings of texts that a folder keeps.

embed = MeanOfLastHidden(checkpoint, torch.bfloat16)              # examples/encode.py
embed(["Toy Story", "GoldenEye"])                                 # float32 [2, H]
Kept(embed, folder)(texts)                                        # the same, nothing twice, also not in the next run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 256
"""Texts in a file of those kept."""

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
"""Texts, none of them empty, to float32 [n, H]."""


class Kept:
    """An Embed that keeps what another one made, in files of `folder`: of one model and dtype."""

    def __init__(self, embed: Embed, folder: Path) -> None:
        self._embed, self._folder = embed, folder
        self._known: dict[str, Vectors] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        new = sorted(set(texts) - set(self._known), key=lambda text: (len(text), text))
        for begin in range(0, len(new), CHUNK):
            chunk = new[begin : begin + CHUNK]
            path = self._folder / f"{hashlib.sha256(json.dumps(chunk).encode()).hexdigest()[:16]}.npy"
            if not path.exists():
                partial = path.with_suffix(".partial.npy")
                np.save(partial, self._embed(chunk))
                partial.rename(path)
            self._known |= dict(zip(chunk, np.load(path), strict=True))
        return np.array([self._known[text] for text in texts])
