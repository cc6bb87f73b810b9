"""examples/movielens/model.py: words and films start as the means of what they say."""

from __future__ import annotations

from pathlib import Path

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
"""


def words(*texts: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({text: n for n, text in enumerate(texts)}, unk_token=texts[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return tokenizer


def test_embeddings_are_means_of_what_tokens_say(tmp_path: Path) -> None:
    import model as program

    whole = tiny_model()
    whole.save_pretrained(tmp_path / "whole")
    PreTrainedTokenizerFast(tokenizer_object=words("?", "Heat,", "Alien", "Crime", "Horror", "yes")).save_pretrained(
        tmp_path / "whole"
    )
    (tmp_path / "words").mkdir()
    words("?", "yes").save(str(tmp_path / "words/tokenizer.json"))
    (tmp_path / "items").write_text(ITEMS)
    program.main(tmp_path / "whole", tmp_path / "words", tmp_path / "items", tmp_path / "out", 2)

    table, tokenizer = whole.get_input_embeddings().weight, Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    short = decoder_model(tmp_path / "out")
    assert short.config.num_hidden_layers == 2 and tokenizer.encode("yes<12>").ids == [1, 3]
    assert (tmp_path / "out/films.tsv").read_text().splitlines()[2] == "12\tAlien Heat\t1979\tHorror\t<12>"
    length = table.norm(dim=1).mean()
    expected = [table[[0]], table[[5]], table[[1, 3]], table[[2, 1, 4]]]
    for row, of_words in zip(short.get_input_embeddings().weight, expected, strict=True):
        torch.testing.assert_close(row, normalize(of_words.mean(0), dim=0) * length)
