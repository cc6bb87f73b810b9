"""SmolLM2's first layers with the words of a small tokenizer and a token for each film: the model that `make demo` trains.

    python examples/movielens/model.py SMOLLM2 TOKENIZER RATINGS ITEMS OUT [--layers 4]

A word's embedding starts as the mean of SmolLM2's for the same text. A film's starts from that of its title and genres, and from
which films were rated soon before and after it. A film is one token in the history and one as a candidate, so a slate of a
hundred takes 130 tokens where titles take 1,800; a film that was not here at training has no token, and needs words. OUT is a
folder with the model, its tokenizer, and films.parquet: ITEMS with columns `token` and `neighbours`, a vector.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy.sparse import coo_array
from scipy.sparse.linalg import svds
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from rexit.errors import script
from rexit.exporter.checkpoints.weights import decoder_model
from rexit.exporter.libraries import log, quiet
from rexit.exporter.model.decoder import Decoder
from rexit.format.bundle.writer import new_folder

WINDOW, DIMENSIONS = 10, 128
"""Films so many places apart are neighbours; numbers that say whose neighbour a film is."""
COMMON = 0.75
"""The power of a film's count: neighbours that are everybody's say less (word2vec's)."""
NEIGHBOURS, WORDS = 0.9, 0.1
"""Weights in a film's embedding."""


def named(items: Path) -> pl.DataFrame:
    """Returns the table of films with the name of each one's token."""
    films = pl.read_csv(items, separator="\t", quote_char=None, infer_schema=False)
    return films.with_columns(pl.format("<{}>", "item_id:token").alias("token:token_seq"))


def texts(tokenizer: Tokenizer, films: pl.DataFrame) -> list[str]:
    """Returns what each token says, and gives the tokenizer the films' tokens."""
    words = [tokenizer.decode([number], skip_special_tokens=False) for number in range(tokenizer.get_vocab_size())]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in films["token:token_seq"]])
    return words + films.select(pl.format(" {}, {}", "movie_title:token_seq", "class:token_seq")).to_series().to_list()


def training_ratings(ratings: Path, films: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns users and rows of films in the order of rating: the first eight tenths of each user, the split that trains."""
    numbers = films.select("item_id:token").with_row_index("film")
    read = pl.read_csv(ratings, separator="\t", schema_overrides={"item_id:token": pl.String}).join(numbers, "item_id:token")
    ordered = read.sort("user_id:token", "timestamp:float", "film")
    place, count = pl.int_range(pl.len()).over("user_id:token"), pl.len().over("user_id:token")
    rated = ordered.filter(place < count - 2 * (count // 10))  # as `index --split user:0.8,0.9`
    return rated["user_id:token"].to_numpy(), rated["film"].to_numpy()


def neighbours(users: np.ndarray, rated: np.ndarray, films: int) -> Tensor:
    """Returns numbers that are alike for films with the same neighbours, float32 [films, DIMENSIONS], 0 for a film that has none.

    Factors of the pointwise mutual information of neighbours where it is positive, as word2vec's are (O. Levy and Y. Goldberg,
    NeurIPS 2014); of films: O. Barkan and N. Koenigstein, 2016.
    """
    pairs = [(rated[:-apart], rated[apart:], users[apart:] == users[:-apart]) for apart in range(1, WINDOW + 1)]
    earlier, later = (np.concatenate([pair[side][pair[2]] for pair in pairs]) for side in (0, 1))
    ends = np.concatenate([earlier, later]), np.concatenate([later, earlier])
    together = coo_array((np.ones(len(ends[0])), ends), shape=(films, films)).tocsr().tocoo()
    count = np.bincount(ends[0], minlength=films)
    expected = count[together.row] * count[together.col] ** COMMON / (count**COMMON).sum()
    together.data = np.maximum(np.log(together.data / expected), 0)
    factors, sizes, _ = svds(together.tocsr(), k=DIMENSIONS, random_state=0)
    return torch.tensor(factors * np.sqrt(sizes), dtype=torch.float32)


def embeddings(said: Tensor, beside: Tensor) -> Tensor:
    """Returns each film's embedding, of length 1, float32 [films, H]. said: that of its words; beside: of `neighbours`."""
    own = normalize(said - said.mean(0))
    turn = torch.linalg.qr(torch.randn(said.shape[1], DIMENSIONS, generator=torch.Generator().manual_seed(0)))[0]
    return normalize(WORDS * own + NEIGHBOURS * normalize(beside) @ turn.T)


@script
def main(source: Path, words: Path, ratings: Path, items: Path, out: Path, layers: int) -> None:
    tokenizer, films = Tokenizer.from_file(str(words / "tokenizer.json")), named(items)
    log.set_verbosity_error()
    with quiet(), new_folder(out) as folder:
        encoder, model = AutoTokenizer.from_pretrained(source), Decoder.of(decoder_model(source)).cut(layers).model
        table = model.get_input_embeddings().weight.detach()
        meant = [encoder(text, add_special_tokens=False)["input_ids"] for text in texts(tokenizer, films)]
        rows = normalize(torch.stack([table[ids or [0]].mean(0) for ids in meant]))  # a mean of several is shorter
        beside = neighbours(*training_ratings(ratings, films), len(films))
        rows[-len(films) :] = embeddings(rows[-len(films) :], beside)
        model.resize_token_embeddings(len(rows), mean_resizing=False)
        model.get_input_embeddings().weight.data.copy_(rows * table.norm(dim=1).mean())
        model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = None
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        vectors = pl.Series("neighbours", [row if any(row) else None for row in beside.tolist()], dtype=pl.List(pl.Float32))
        films.rename(lambda name: name.partition(":")[0]).with_columns(vectors).write_parquet(folder / "films.parquet")
    print(f"{out}: {layers} layers, {len(rows):,} tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder of SmolLM2")
    parser.add_argument("words", type=Path, help="the folder of `rexit tokenizer`")
    parser.add_argument("ratings", type=Path, help="ml-100k.inter of fetch.py")
    parser.add_argument("items", type=Path, help="ml-100k.item of fetch.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4, help="how many to keep, from the first (4)")
    args = parser.parse_args()
    main(args.source, args.words, args.ratings, args.items, args.out, args.layers)
