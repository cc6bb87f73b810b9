"""A number in digits: the same digits in Python and C++, and from a template to every door of an exported bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, CatalogContents, make_catalog
from builders.data.indexed_catalog import byte_tokenizer, write_indexed_catalog
from rexit import runtime
from rexit.exporter.index import build_catalog
from rexit.exporter.model.training import packed_rows
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.format.bundle import Catalog
from rexit.format.bundle.inputs import MAX_DIGITS, Input


def numbers() -> list[float]:
    """Any doubles, decimals and their neighbours, exact ties, what rounds up to another power of ten."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 1 << 63, 200, np.uint64).view(np.float64)
    spread = (10.0 ** random.uniform(-11, 10, 400)).tolist()
    decimals = [round(number, places) for number, places in zip(spread, random.integers(0, 10, 400).tolist(), strict=True)]
    ties = [whole + part / 64 for whole in (0, 1, 9, 99, 12345) for part in range(64)]
    tens = [power - part for power in (1.0, 10.0, 1e3, 1e9) for part in (0.6, 0.5, 0.4, 0.05, 4e-4, 5e-10)]
    named = [0.0, -0.0, 1e-7, 999.6, 5e-324, 1e308, -1.0, -5e-324, math.inf, -math.inf, math.nan]
    near = [math.nextafter(number, way) for number in [*decimals, *ties] for way in (0, math.inf)]
    return [*bits.tolist(), *spread, *decimals, *ties, *tens, *named, *near]


def with_digits() -> tuple[CatalogContents, list[Input]]:
    """A catalog whose prefixes end with numbers of 1 to 9 digits, one token for each code and none for a missing number."""
    catalog = make_catalog()
    inputs = [Input(name=f"d{n}", digits=n, spaced=n % 2 == 0, optional=True) for n in range(1, MAX_DIGITS + 1)]
    pieces, prompt = catalog.tables["pieces.safetensors"], catalog.info["prompt"]
    offsets = np.append(np.arange(len(pieces["offsets"]) - 1), len(pieces["offsets"]) - 2)
    catalog.tables["pieces.safetensors"] = {"offsets": offsets, "tokens": np.arange(offsets[-1], dtype=np.int32)}
    empty = len(offsets) - 2
    ops = [
        {"op": "input", "name": entry.name, "pieces": list(range(len(entry.encoder.texts or ()))), "missing": empty}
        for entry in inputs
    ]
    changes = {"inputs": [entry.to_json() for entry in inputs], "prefix": [*prompt["prefix"], *ops]}
    catalog.info["prompt"] = {**prompt, **changes}
    return catalog, inputs


@pytest.mark.medium
def test_python_and_cpp_write_the_same_digits(tmp_path: Path) -> None:
    catalog, inputs = with_digits()
    values, kept = numbers(), 0
    assert len(values) > 2500
    with runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(catalog))) as session:

        def prefix(**inputs: Any) -> list[int]:
            tokens: list[int] = session.prompt(USER_IDS[0], ITEM_IDS[:1], inputs=inputs)[0].tolist()
            return tokens

        start = prefix()
        for digits, entry in enumerate(inputs, 1):
            for number in values:
                codes = entry.encode(number)
                if math.isfinite(number):  # a request cannot hold another number, but its text
                    assert prefix(**{entry.name: number}) == [*start, *codes], (entry.name, number)
                assert prefix(**{entry.name: repr(number)}) == [*start, *codes], (entry.name, number)
                assert len(codes) <= entry.encoder.max_codes and (len(codes) > 0) == (0 <= number < 10**digits)
                if len(codes):
                    decoded = entry.decode(codes)
                    assert decoded is not None and entry.encode(decoded).tolist() == codes.tolist()
                    kept += 1
    assert kept > 10_000


TEMPLATE = """
prompt = "{history.recent:3} costs {input.price}|{item.title}({input.weight}):"
entry = "{item.title}{verdict},"
[zero]
inputs = []
[labels]
yes = "y"
no = "n"
[input.price]
digits = 3
[input.weight]
digits = 2
missing = "?"
column = "grams"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog and its sources. The weights of interactions from 10 on are outside the range."""
    place = write_indexed_catalog(tmp_path_factory.mktemp("digits")).parent
    (place / "digits.toml").write_text(TEMPLATE)
    time = pl.col("timestamp") / 10
    rows = pl.read_csv(place / "interactions.csv").with_columns(price=time**3 / 8, grams=time * 10)
    rows.write_parquet(place / "interactions.parquet")
    options = IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=2))
    arguments = (place / "interactions.parquet", place / "items.csv", str(place / "tokenizer.json"), place / "digits.toml")
    build_catalog(*arguments, place / "digits", options=options)
    return place


def decode(tokens: Any) -> str:
    return str(byte_tokenizer().decode([int(token) for token in tokens]))


@pytest.mark.medium
def test_training_prompts_have_the_digits_of_their_interactions(place: Path) -> None:
    catalog = Catalog.open(place / "digits")
    assert catalog.inputs.entries == (Input(name="price", digits=3, spaced=True), Input(name="weight", digits=2, optional=True))
    rows = [row.prompt for row in packed_rows(catalog, "train", 20).rows if row.user == 100]
    assert [decode(row.prefix).partition(" costs")[2] for row in rows] == [f" {time**3 / 8:.3g}|" for time in range(16)]
    weights = [decode(row.candidates[0]).partition("(")[2].partition(")")[0] for row in rows]
    assert weights == [*(str(10 * time) for time in range(10)), *["?"] * 6]
