"""What makes the longest prompt long, and what limits of columns do about it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.errors import InputError
from rexit.exporter.preflight import check_fit, longest_part
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.pieces import load_tokenizer
from rexit.format.bundle import Catalog

LONG = "A very long title " * 12
TEMPLATE = ratings.TEMPLATE.replace("[words]\n", '[words]\nmissing = "nobody knows"\n')  # more than a token


def index(folder: Path, template: str = TEMPLATE) -> Catalog:
    """The catalog of `builders.data.ratings`, in which item 17 has a long title and no rating, and user 25 has no history."""
    ratings.write(folder, template, ratings.interactions().filter(pl.col("item_id") != 17))
    titled = pl.when(pl.col("item_id") == 17).then(pl.lit(LONG)).otherwise("title")
    ratings.items().with_columns(title=titled).write_csv(folder / "items.csv")
    with open(folder / "users.csv", "a") as file:
        file.write("25,pilot\n")
    return ratings.index_files(folder)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return index(tmp_path_factory.mktemp("lengths"))


def test_the_longest_prompt_is_blamed_on_the_list_that_could_hold_the_long_title_several_times(catalog: Catalog) -> None:
    prompt = catalog.info["prompt"]
    for part, placeholder in (("prefix", "{similar_liked:6}"), ("candidate", "{history.nearest:3}")):
        source, text = longest_part(catalog, part)
        assert source.startswith(f"{placeholder}: ") and 2 * int(source.split()[1]) > prompt[f"max_{part}_tokens"]
        assert re.fullmatch(r"item\.title of item 17: (\d{3}) \(99 %: \1\)", text)


def test_an_export_that_refuses_the_longest_prompt_names_it(catalog: Catalog) -> None:
    checkpoint: Any = SimpleNamespace(decoder=SimpleNamespace(causal=True, vocab_size=1 << 20, max_positions=100))
    with pytest.raises(InputError, match=r"model takes 100; .* come from \{similar_liked:6\}: \d+, item\.title of item 17: "):
        check_fit(checkpoint, catalog, 512)


def test_a_limit_cuts_the_one_long_title_and_nothing_else(catalog: Catalog, tmp_path: Path) -> None:
    cut = index(tmp_path, TEMPLATE + "[limits]\nitem.title = 8\nitem.year = 1\n")
    assert cut.info["prompt"]["prefix"] == catalog.info["prompt"]["prefix"], "the program is the same, its pieces are shorter"
    was, now = PromptBuilder(catalog), PromptBuilder(cut)
    items = [n for n in range(1, 41) if n != 17 and n % 7 == 4]  # of these the year is missing
    for user in range(1, 26):
        before, after = was.prompt(user, [1, *items]), now.prompt(user, [1, *items])
        assert np.array_equal(before.prefix, after.prefix)
        assert all(map(np.array_equal, before.candidates[1:], after.candidates[1:])), "the template's words are never cut"
        assert len(after.candidates[0]) < len(before.candidates[0]), "a year is one token"
    title = len(load_tokenizer(str(tmp_path / "tok")).encode(LONG.strip()).ids)
    before, after = (builder.prompt(1, [17]).candidates[0] for builder in (was, now))
    assert title > 100 and (after[:8] == before[:8]).all() and (after[8:10] == before[title : title + 2]).all()
    assert cut.info["prompt"]["max_prefix_tokens"] * 4 < catalog.info["prompt"]["max_prefix_tokens"]
    assert longest_part(cut, "prefix")[1].endswith(": 8 (99 %: 8)")
