"""A template, its tokenizer and the data's columns: all of a catalog that is words. Nothing of it depends on the retriever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rexit.errors import InputError
from rexit.exporter.catalog.encoded import Encoded
from rexit.exporter.catalog.encoded import rows as encoded_rows
from rexit.exporter.catalog.interactions import holds_vectors
from rexit.exporter.prompt.pieces import Pieces, load_tokenizer, single_token
from rexit.exporter.prompt.program import Fields, Lengths, Program, bounds, compile_program, vector_count
from rexit.exporter.prompt.template import RESERVED, Template, read_template, written
from rexit.progress import Progress, silent


@dataclass(frozen=True)
class Language:
    """A template, the tokenizer that spells it, and the token of each answer."""

    template: Template
    tokenizer: Tokenizer
    labels: Mapping[str, int]

    @classmethod
    def load(cls, tokenizer: str, path: Path) -> Language:
        """Raises InputError: a template or tokenizer that cannot be read, an answer that is not one token."""
        template = read_template(path)
        encoder = load_tokenizer(tokenizer)
        if template.bos is not None:
            single_token(encoder, template.bos, f"{path}: bos")
        labels = {name: single_token(encoder, template.labels[name], f"{path}: labels.{name}") for name in ("no", "yes")}
        if labels["no"] == labels["yes"]:
            raise InputError(f"{path}: labels.yes and labels.no are the same token {labels['yes']}, expected two answers")
        return cls(template, encoder, labels)


@dataclass(frozen=True)
class Worded:
    """A compiled template: `prompt` of catalog.json, the tensors of pieces.safetensors, the pieces of the data's columns, and the
    columns of vectors that it places."""

    prompt: dict[str, Any]
    pieces: dict[str, NDArray[Any]]
    fields: Fields
    encoded: Encoded


def worded(language: Language, users: pl.DataFrame, items: pl.DataFrame, progress: Progress = silent) -> Worded:
    """users, items: `id`, then the columns that the template may name, in the catalog's rows. Raises InputError."""
    pieces, template, entities = Pieces(), language.template, {"user": users, "item": items}
    of_vectors = [f"{what}.{one.name}" for what, frame in entities.items() for one in frame.iter_columns() if holds_vectors(one)]
    vectors = [name for name in of_vectors if name not in RESERVED]
    texts = {what: [name for name in frame.columns[1:] if f"{what}.{name}" not in vectors] for what, frame in entities.items()}
    program = compile_program(template, texts["user"], texts["item"], pieces, vectors)
    encoded = {name: encoded_rows(items[name], items["id"]) for name in program.vectors if f"item.{name}" in vectors}
    fields = _fields(program, entities, template, pieces)
    offsets, tokens = pieces.encode(language.tokenizer, progress)
    most = _most_tokens(program, np.diff(offsets), fields, template)
    told = {"template": template.text, "prefix": program.prefix, "candidate": program.candidate, **most}
    if program.vectors:
        dims = {name: {"dim": table.shape[1]} for name, table in encoded.items()}
        told["vectors"] = [{"name": name, "count": vector_count(name), **dims.get(name, {})} for name in program.vectors]
    return Worded(told, {"offsets": offsets, "tokens": tokens}, fields, encoded)


def _fields(
    program: Program, entities: Mapping[str, pl.DataFrame], template: Template, pieces: Pieces
) -> dict[str, NDArray[np.int32]]:
    fields = {}
    for what, frame in entities.items():
        for name, (column, spaced) in getattr(program, f"{what}_fields").items():
            texts = " " + frame[column] if spaced else frame[column]
            missing = pieces.literal(written(template.words["missing"], spaced))
            fields[f"{what}.{name}"] = pieces.column(texts, missing, template.limits.get(f"{what}.{column}"))
    return fields


def _most_tokens(program: Program, lengths: Lengths, fields: Fields, template: Template) -> dict[str, int]:
    low, high = bounds(program.candidate, lengths, fields)
    if low < 1:
        raise InputError(f"{template.path}: the part after the prefix can be without a token: end the prompt with a text")
    return {"max_prefix_tokens": bounds(program.prefix, lengths, fields)[1], "max_candidate_tokens": high}
