"""Trains a small byte-level BPE on the films' and users' texts, so that the embedding table does not dwarf a model of a few
layers.

    python examples/movielens/tokenizer.py DATA OUT

Reads DATA/ml-100k.{item,user}, writes OUT/tokenizer.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rexit.scripts import script

VOCABULARY = 1536
TEMPLATE = Path(__file__).parent / "prompt.toml"
# A word, a number with its sign, or one other mark, each with the space before it: " Story", " 35%", " 2^5", ";".
PIECES = r" ?[\p{L}']+| ?[0-9^%]+| ?[^ ]"


def trained(texts: list[str], template: str, whole: Sequence[str] = (), vocabulary: int = VOCABULARY) -> Tokenizer:
    """A BPE of `vocabulary` tokens, and one token more for each of `whole`, wherever it stands as a word of its own."""
    rates = [f" {percent}%" for percent in range(101)] + [f" 2^{power}" for power in range(16)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Rates and the template's words are repeated so that each becomes one token, as the labels must be.
    tokenizer.train_from_iterator(texts + 50 * [*rates, template], trainer)
    tokenizer.add_tokens([AddedToken(text, single_word=True, normalized=False) for text in whole])
    return tokenizer


@script
def main(data: Path, out: Path) -> None:
    items, users = (
        pl.read_csv(data / f"ml-100k.{name}", separator="\t", quote_char=None, infer_schema=False) for name in ("item", "user")
    )
    texts = [f" {value}" for frame in (items, users) for column in frame.columns[1:] for value in frame[column]]
    out.mkdir(parents=True, exist_ok=True)
    trained(texts, TEMPLATE.read_text()).save(str(out / "tokenizer.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    main(args.data, args.out)
