"""Embeddings of texts by a language model: the mean of its last hidden states, and a folder that keeps them.

embed = MeanOfLastHidden(checkpoint, torch.bfloat16, threads=2)
embed(["Toy Story", "GoldenEye"])                                 # float32 [2, H]
Kept(embed, folder)(texts)                                        # the same, nothing twice, also not in the next run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

BATCH = 8
CHUNK = 256
"""Texts in a file of those kept."""

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
"""Texts, none of them empty, to float32 [n, H]."""


class MeanOfLastHidden:
    """A Hugging Face decoder folder as an Embed."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="right")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = AutoModel.from_pretrained(checkpoint, dtype=dtype).eval()

    def tokens(self, text: str) -> int:
        return len(self._tokenizer(text)["input_ids"])

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        found = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            inputs = self._tokenizer([texts[n] for n in rows], return_tensors="pt", padding=True)
            hidden = self._model(**inputs, use_cache=False).last_hidden_state.float()
            mask = inputs["attention_mask"][:, :, None]
            found[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return found


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
