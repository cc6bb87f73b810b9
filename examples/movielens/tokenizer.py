"""Trains a small byte-level BPE on the films' and users' texts, so that the embedding table does not dwarf a model of a few
layers.

    python examples/movielens/tokenizer.py DATA OUT

Reads DATA/ml-100k.{item,user}, writes OUT/tokenizer.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 6144
# A word, a number with its sign, or one other mark, each with the space before it: " Story", " 35%", " 2^5", ";".
PIECES = r" ?[\p{L}']+| ?[0-9^%]+| ?[^ ]"


def main(data: Path, out: Path) -> None:
    items = pl.read_csv(data / "ml-100k.item", separator="\t", quote_char=None, infer_schema=False)
    users = pl.read_csv(data / "ml-100k.user", separator="\t", quote_char=None, infer_schema=False)
    texts = [f" {value}" for frame in (items, users) for column in frame.columns[1:] for value in frame[column]]
    template = (Path(__file__).parent / "prompt.toml").read_text()
    rates = [f" {percent}%" for percent in range(101)] + [f" 2^{power}" for power in range(16)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Rates and the template's words are repeated so that each becomes one token, as the labels must be.
    tokenizer.train_from_iterator(texts + 50 * [*rates, template], trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
