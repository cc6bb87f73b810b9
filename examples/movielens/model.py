"""SmolLM2's first layers with the words of a small tokenizer and a token for each film: the model that `make demo` trains.

    python examples/movielens/model.py SMOLLM2 TOKENIZER ITEMS OUT [--layers 4]

A word's embedding starts as the mean of SmolLM2's for the same text, a film's as that of its title and genres. A film is one
token in the history and one as a candidate, so a slate of a hundred takes 130 tokens where titles take 1,800; a film that was not
here at training has no token, and needs words. OUT is a folder with the model, its tokenizer, and films.tsv: ITEMS with a column
`token`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl
import torch
from tokenizers import AddedToken, Tokenizer
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from rexit.bundle.writer import new_folder
from rexit.errors import script
from rexit.exporter.checkpoints.weights import decoder_model
from rexit.exporter.libraries import log, quiet
from rexit.exporter.model.decoder import Decoder


def named(items: Path) -> pl.DataFrame:
    """Returns the table of films with the name of each one's token."""
    films = pl.read_csv(items, separator="\t", quote_char=None, infer_schema=False)
    return films.with_columns(pl.format("<{}>", "item_id:token").alias("token:token_seq"))


def texts(tokenizer: Tokenizer, films: pl.DataFrame) -> list[str]:
    """Returns what each token says, and gives the tokenizer the films' tokens."""
    words = [tokenizer.decode([number], skip_special_tokens=False) for number in range(tokenizer.get_vocab_size())]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in films["token:token_seq"]])
    return words + films.select(pl.format(" {}, {}", "movie_title:token_seq", "class:token_seq")).to_series().to_list()


@script
def main(source: Path, words: Path, items: Path, out: Path, layers: int) -> None:
    tokenizer, films = Tokenizer.from_file(str(words / "tokenizer.json")), named(items)
    log.set_verbosity_error()
    with quiet(), new_folder(out) as folder:
        encoder, model = AutoTokenizer.from_pretrained(source), Decoder.of(decoder_model(source)).cut(layers).model
        table = model.get_input_embeddings().weight.detach()
        meant = [encoder(text, add_special_tokens=False)["input_ids"] for text in texts(tokenizer, films)]
        rows = torch.stack([table[ids or [0]].mean(0) for ids in meant])
        rows = normalize(rows) * table.norm(dim=1).mean()  # a mean of several is shorter
        model.resize_token_embeddings(len(rows), mean_resizing=False)
        model.get_input_embeddings().weight.data.copy_(rows)
        model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = None
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        films.write_csv(folder / "films.tsv", separator="\t", quote_style="never")
    print(f"{out}: {layers} layers, {len(rows):,} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder of SmolLM2")
    parser.add_argument("words", type=Path, help="the folder of `rexit tokenizer`")
    parser.add_argument("items", type=Path, help="ml-100k.item of fetch.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4, help="how many to keep, from the first (4)")
    args = parser.parse_args()
    main(args.source, args.words, args.items, args.out, args.layers)
