"""The catalog's text: template, tokenizer, text columns. Nothing here depends on the retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rexit.bundle.inputs import Input
from rexit.bundle.manifest import ANSWERS
from rexit.errors import InputError
from rexit.exporter.catalog.encoded import Encoded, vector_rows
from rexit.exporter.catalog.entities import holds_vectors
from rexit.exporter.prompt.pieces import Pieces, load_tokenizer, single_token
from rexit.exporter.prompt.program import Fields, Lengths, Program, bounds, compile_program, vector_count
from rexit.exporter.prompt.template import RESERVED, Template, written
from rexit.progress import Progress, silent


@dataclass(frozen=True)
class Language:
    """A template, its tokenizer, and the token ids of the labels `no` and `yes`."""

    template: Template
    tokenizer: Tokenizer
    labels: Mapping[str, int]

    @classmethod
    def load(cls, tokenizer: str, template: Template) -> Language:
        """Loads the tokenizer, see `load_tokenizer`. Raises InputError if that fails or a label is not one token."""
        encoder, path = load_tokenizer(tokenizer), template.path
        if template.bos is not None:
            single_token(encoder, template.bos, f"{path}: bos")
        labels = {answer: single_token(encoder, template.labels[answer], f"{path}: labels.{answer}") for answer in ANSWERS}
        if labels["no"] == labels["yes"]:
            raise InputError(f"{path}: labels.yes and labels.no are the same token {labels['yes']}, expected two answers")
        return cls(template, encoder, labels)


@dataclass(frozen=True)
class Compiled:
    """A compiled template.

    prompt: of catalog.json. pieces: the tensors of pieces.safetensors. fields: the pieces of the text columns, by `user.NAME` and
    `item.NAME`. encoded: the columns of vectors that the template places.
    """

    prompt: dict[str, Any]
    pieces: dict[str, NDArray[Any]]
    fields: Fields
    encoded: Encoded


def compile_template(
    language: Language,
    users: pl.DataFrame,
    items: pl.DataFrame,
    inputs: Sequence[Input] = (),
    progress: Progress = silent,
) -> Compiled:
    """Compiles a template for the data.

    Args:
        language: template and tokenizer.
        users, items: `id` and the files' columns, in the catalog's rows.
        inputs: those of the template, with their values.
        progress: called with "tokens", the texts tokenized and their number.

    Raises:
        InputError: a placeholder or limit that does not fit the columns, or a column of vectors that is not valid.
    """
    pieces, template, entities = Pieces(), language.template, {"user": users, "item": items}
    columns = [(f"{what}.{column.name}", column) for what, frame in entities.items() for column in frame.iter_columns()]
    vectors = [name for name, column in columns if holds_vectors(column) and name not in RESERVED]
    texts = {what: [name for name in frame.columns[1:] if f"{what}.{name}" not in vectors] for what, frame in entities.items()}
    program = compile_program(template, texts["user"], texts["item"], pieces, vectors, inputs)
    encoded = {name: vector_rows(items[name], items["id"]) for name in program.vectors if f"item.{name}" in vectors}
    fields = _fields(program, entities, template, pieces)
    offsets, tokens = pieces.encode(language.tokenizer, progress)
    limits = _limits(program, np.diff(offsets), fields, inputs, template)
    prompt = {"template": template.text, "prefix": program.prefix, "candidate": program.candidate, **limits}
    if program.vectors:
        dims = {name: {"dim": table.shape[1]} for name, table in encoded.items()}
        prompt["vectors"] = [{"name": name, "count": vector_count(name), **dims.get(name, {})} for name in program.vectors]
    if inputs:
        prompt["inputs"] = [entry.to_json() for entry in inputs]
    if program.numbers:
        prompt["numbers"] = program.numbers
    return Compiled(prompt, {"offsets": offsets, "tokens": tokens}, fields, encoded)


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


def _limits(program: Program, lengths: Lengths, fields: Fields, inputs: Sequence[Input], template: Template) -> dict[str, int]:
    low, high = bounds(program.candidate, lengths, fields, inputs)
    if low < 1:
        raise InputError(f"{template.path}: the part after the prefix can be without a token: end the prompt with a text")
    return {"max_prefix_tokens": bounds(program.prefix, lengths, fields, inputs)[1], "max_candidate_tokens": high}
