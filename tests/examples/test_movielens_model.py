"""examples/movielens/model.py: words start as the means of what they say, films also as what was rated soon before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerFast

from builders.models.checkpoints import tiny_model
from rexit.exporter.checkpoints.weights import decoder_model
from running.scripts import scripts_of

scripts = scripts_of("examples/movielens")
ITEMS = """item_id:token	movie_title:token_seq	release_year:token	class:token_seq
7	Heat	1995	Crime
12	Alien Heat	1979	Horror
3	Alien	1979	Horror
5	Heat	1986	Crime
"""
EARLY, LATE = (7, 12, 7, 12, 7, 12, 7, 12), (5, 3)
"""What each user rates, in this order; the last two of ten are no training."""


def ratings(path: Path) -> Path:
    lines = [f"{user}\t{film}\t4.0\t{time}" for user in (1, 2) for time, film in enumerate((*EARLY, *LATE))]
    path.write_text("\n".join(("user_id:token\titem_id:token\trating:float\ttimestamp:float", *reversed(lines))))
    return path


def words(*texts: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({text: n for n, text in enumerate(texts)}, unk_token=texts[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return tokenizer


def test_embeddings_are_means_of_what_tokens_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import model as program

    monkeypatch.setattr(program, "DIMENSIONS", 2)
    whole = tiny_model()
    whole.save_pretrained(tmp_path / "whole")
    PreTrainedTokenizerFast(tokenizer_object=words("?", "Heat,", "Alien", "Crime", "Horror", "yes", "Alien,")).save_pretrained(
        tmp_path / "whole"
    )
    (tmp_path / "words").mkdir()
    words("?", "yes").save(str(tmp_path / "words/tokenizer.json"))
    (tmp_path / "items").write_text(ITEMS)
    program.main(tmp_path / "whole", tmp_path / "words", ratings(tmp_path / "ratings"), tmp_path / "items", tmp_path / "out", 2)

    table, tokenizer = whole.get_input_embeddings().weight, Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    short = decoder_model(tmp_path / "out")
    assert short.config.num_hidden_layers == 2 and tokenizer.encode("yes<12>").ids == [1, 3]
    films = pl.read_parquet(tmp_path / "out/films.parquet")
    assert films.row(1)[:5] == ("12", "Alien Heat", "1979", "Horror", "<12>")
    assert [row and len(row) for row in films["neighbours"].to_list()] == [2, 2, None, None]
    rows, length = short.get_input_embeddings().weight, table.norm(dim=1).mean()
    torch.testing.assert_close(rows[:2], normalize(table[[0, 5]]) * length)
    torch.testing.assert_close(rows[2:].norm(dim=1), length.expand(4))
    said = normalize(torch.stack([table[ids].mean(0) for ids in ([1, 3], [2, 1, 4], [6, 4], [1, 3])]))
    for film in (2, 3):  # rated late alone: no neighbours are known
        torch.testing.assert_close(rows[2 + film], normalize(said[film] - said.mean(0), dim=0) * length)


def test_a_user_s_last_ratings_are_no_training(tmp_path: Path) -> None:
    import model as program

    (tmp_path / "items").write_text(ITEMS)
    users, rated = program.training_ratings(ratings(tmp_path / "ratings"), program.named(tmp_path / "items"))
    assert users.tolist() == [1] * 8 + [2] * 8 and rated.tolist() == [0, 1] * 8


def test_neighbours_of_a_film_make_it_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    import model as program

    monkeypatch.setattr(program, "DIMENSIONS", 2)
    monkeypatch.setattr(program, "WINDOW", 1)
    rated = np.array([0, 1, 0, 2, 0, 1, 0, 2, 3, 4, 3, 4, 3, 4, 3, 4])
    factors = normalize(program.neighbours(np.repeat([1, 2], 8), rated, 6))
    assert factors[1] @ factors[2] > 0.9 > abs(factors[1] @ factors[3]) and not factors[5].any()
