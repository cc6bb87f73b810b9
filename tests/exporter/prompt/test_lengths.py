"""What `rexit index` says of its prompts' lengths, against the prompts themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.bundle import Catalog
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.pieces import load_tokenizer

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


def test_the_figures_are_those_of_the_prompts(catalog: Catalog) -> None:
    measured, builder = prompt_lengths(catalog), PromptBuilder(catalog)
    assert measured == catalog.info["prompt"]["lengths"]
    prefixes = sorted(len(builder.prompt(user, []).prefix) for user in range(1, 25))  # all of those with a history
    assert measured["users"] == 24
    assert {name: measured["prefix"][name] for name in ("p50", "p99", "max")} == {
        "p50": prefixes[11],
        "p99": prefixes[-1],
        "max": prefixes[-1],
    }
    candidates = [len(c) for user in range(1, 25) for c in builder.prompt(user, list(range(1, 41))).candidates]
    figures = measured["candidate"]
    assert min(candidates) <= figures["p50"] <= figures["p99"] <= figures["max"] <= max(candidates)
    assert abs(figures["p50"] - np.median(candidates)) <= 3, "ten items of each user were drawn"


def test_the_longest_prompt_is_blamed_on_the_list_that_could_hold_the_long_title_several_times(catalog: Catalog) -> None:
    lengths, prompt = catalog.info["prompt"]["lengths"], catalog.info["prompt"]
    blamed = lengths["prefix"]["longest"]
    assert blamed["placeholder"] == "{similar_liked:6}" and blamed["tokens"] * 2 > prompt["max_prefix_tokens"]
    column = blamed["column"]
    assert (column["name"], column["id"]) == ("item.title", 17) and column["max"] > 10 * column["p50"]
    assert lengths["prefix"]["max"] * 3 < prompt["max_prefix_tokens"], "no prompt has it: what is possible is not what comes"
    blamed = lengths["candidate"]["longest"]
    assert blamed["placeholder"] == "{history.nearest:3}" and blamed["column"]["id"] == 17


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
    assert cut.info["prompt"]["lengths"]["prefix"]["longest"]["column"]["max"] == 8
