"""What the benchmarks share: a model's shape, prompts of known lengths, and the catalog they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SIX_EXITS = (5, 10, 15, 20, 25, 30)
CANDIDATE = 12
EACH = 20
"""Interactions of each user."""


@dataclass(frozen=True)
class Words:
    """A tokenizer and words of one token each, also when joined by `joint`, so that texts have a known number of tokens."""

    tokenizer: str
    words: Sequence[str]
    joint: str
    yes: str
    no: str

    @classmethod
    def letters(cls, folder: Path) -> Words:
        """One token per letter."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({chr(n): n - 32 for n in range(32, 127)}, unk_token=" "))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.save(str(folder / "tokenizer.json"))
        return cls(str(folder / "tokenizer.json"), "abcdefgh", "", "y", "n")

    @classmethod
    def of_checkpoint(cls, folder: Path) -> Words:
        """English words that are one token of the checkpoint's own tokenizer, a byte-level BPE."""
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        words = sorted(w[1:] for w in vocabulary if w[0] == "Ġ" and w[1:].isascii() and w[1:].isalpha() and w[1:].islower())
        return cls(str(folder / "tokenizer.json"), [w for w in words if len(w) > 3], " ", " yes", " no")


@dataclass(frozen=True)
class Lengths:
    """Numbers of users, items and tokens: user u has a prefix of `prefixes[u % len(prefixes)]` tokens."""

    users: int = 40
    items: int = 100
    prefixes: Sequence[int] = field(default=(200,))


def checkpoint(folder: Path) -> Path:
    """A Hugging Face folder with random weights in SmolLM2-135M's shape."""
    if not (folder / "config.json").exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def catalog_of_fixed_lengths(folder: Path, words: Words, lengths: Lengths) -> Path:
    """A catalog of random words and ratings: prefixes as long as `lengths` says, candidates of CANDIDATE tokens."""
    out = folder / "catalog"
    if not (out / "catalog.json").exists():
        from rexit.exporter.index import build_catalog
        from rexit.exporter.options import IndexOptions, LightGCNOptions

        random = np.random.default_rng(0)

        def text(count: int) -> str:
            return words.joint.join(random.choice(list(words.words), count))

        rows = ["user_id,item_id,rating,timestamp"]
        for user in range(lengths.users):
            rows += [
                f"{user},{item},{random.integers(1, 6)},{n}" for n, item in enumerate(random.permutation(lengths.items)[:EACH])
            ]
        sizes = [lengths.prefixes[user % len(lengths.prefixes)] for user in range(lengths.users)]
        (folder / "interactions.csv").write_text("\n".join(rows))
        (folder / "users.csv").write_text("\n".join(["user_id,text", *(f"{n},{text(size)}" for n, size in enumerate(sizes))]))
        (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"{n},{text(CANDIDATE)}" for n in range(lengths.items))]))
        prompt = f"{words.joint}{{user.text}}{words.joint}{{item.title}}"
        (folder / "prompt.toml").write_text(f'prompt = "{prompt}"\n[labels]\nyes = "{words.yes}"\nno = "{words.no}"\n')
        build_catalog(
            folder / "interactions.csv",
            folder / "items.csv",
            words.tokenizer,
            folder / "prompt.toml",
            out,
            users=folder / "users.csv",
            options=IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=1)),
        )
    return out
