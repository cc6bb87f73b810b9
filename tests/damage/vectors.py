"""Vectors in prompts: their tables, their ids, and what says that they are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from builders.bundles.bundle_files import refresh
from damage.cases import Cases
from damage.edits import CATALOG, MANIFEST, PIECES, VARIANT, edit_json, edit_table, put

CASES = Cases("opening")
"""Of a bundle whose prompts have vectors."""
ends_in = CASES.ends_in

VECTORS = "vectors.safetensors"


def edit_vectors(folder: Path, tensor: str, edit: Callable[[Any], Any]) -> None:
    edit_table(folder, VECTORS, tensor, edit)


@ends_in("OK", found="running")
def sound_with_vectors(folder: Path) -> None:
    pass


@ends_in("OK", found="running")
def prefixes_that_differ_in_the_user_alone(folder: Path) -> None:
    """Everybody's has the same ids: three tokens, the user's vector, three tokens."""
    text = [{"op": "piece", "piece": 0}, {"op": "piece", "piece": 1}]
    edit_json(folder, CATALOG, "prompt", "prefix", to=[*text, {"op": "user_vector"}, *text])


@ends_in("NOT_FOUND", VECTORS)
def missing_vectors(folder: Path) -> None:
    (folder / VECTORS).unlink()


@ends_in("CORRUPT", f"manifest.json files: does not list `{VECTORS}`")
def vectors_that_are_not_listed(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", to={CATALOG: {}, VARIANT: {}})


@ends_in("CORRUPT", "truncated or edited")
def grown_vectors(folder: Path) -> None:
    with open(folder / VECTORS, "ab") as file:
        file.write(b"\0")


@ends_in("CORRUPT", "`gcn` has shape [20, 16], expected [20, 1, 16]")
def vectors_without_a_count(folder: Path) -> None:
    edit_vectors(folder, "gcn", lambda array: array[:, 0])


@ends_in("CORRUPT", "`title:2` has shape [20, 1, 16], expected [20, 2, 16]")
def fewer_vectors_than_their_count(folder: Path) -> None:
    edit_vectors(folder, "title:2", lambda array: array[:, :1])


@ends_in("CORRUPT", "`title:2` has shape [19, 2, 16], expected [20, 2, 16]")
def vectors_of_fewer_items(folder: Path) -> None:
    edit_vectors(folder, "title:2", lambda array: array[1:])


@ends_in("CORRUPT", "`gcn` has shape [20, 1, 15], expected [20, 1, 16]")
def vectors_of_another_width(folder: Path) -> None:
    edit_vectors(folder, "gcn", lambda array: np.ascontiguousarray(array[:, :, 1:]))


@ends_in("CORRUPT", "`gcn` is F32, expected F16")
def vectors_of_another_dtype(folder: Path) -> None:
    edit_vectors(folder, "gcn", lambda array: array.astype(np.float32))


@ends_in("CORRUPT", "tensor `title:2` is missing")
def missing_table_of_vectors(folder: Path) -> None:
    edit_vectors(folder, "title:2", lambda array: None)


@ends_in("CORRUPT", "tensor `user` is missing")
def users_vectors_without_likes(folder: Path) -> None:
    edit_vectors(folder, "user", lambda array: None)


@ends_in("CORRUPT", "`user.none` has shape [1, 16], expected [16]")
def user_without_a_like_of_another_shape(folder: Path) -> None:
    edit_vectors(folder, "user.none", lambda array: array[None])


@ends_in("CORRUPT", "`title:2` of item row 5 is not finite", "running")
def vector_that_is_not_a_number(folder: Path) -> None:
    edit_vectors(folder, "title:2", put((5, 1, 3), np.nan))


@ends_in("CORRUPT", "`user` of item row ", "running")
def user_made_of_infinity(folder: Path) -> None:
    edit_vectors(folder, "user", lambda array: np.full_like(array, np.inf))


@ends_in("OK", found="running")
def vectors_that_nothing_takes_are_infinite(folder: Path) -> None:
    """User 106 has likes."""
    edit_vectors(folder, "user.none", lambda array: np.full_like(array, np.inf))


@ends_in("UNSUPPORTED", "requires `time-travel`")
def unknown_requirement_beside_vectors(folder: Path) -> None:
    edit_json(folder, MANIFEST, "requires", to=["vectors", "time-travel"])


@ends_in("CORRUPT", "table: `horoscope` is not one of the prompt's `vectors`")
def table_that_is_not_there(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "candidate", 0, "table", to="horoscope")


@ends_in("CORRUPT", "table: `gcn` is not one of the prompt's `vectors`")
def ops_without_tables(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", to=[])


@ends_in("CORRUPT", "prompt vectors: is object, expected an array")
def tables_that_are_no_list(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", to={"gcn": 1})


@ends_in("CORRUPT", "name: `gcn` is empty, taken or reserved")
def two_tables_of_one_name(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", 1, "name", to="gcn")


@ends_in("CORRUPT", "name: `user` is empty, taken or reserved")
def table_named_like_the_users(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", 0, "name", to="user")


@ends_in("CORRUPT", "count: is 17, expected 1 to 16")
def too_many_vectors_for_an_item(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", 1, "count", to=17)


@ends_in("CORRUPT", "prompt vectors: the vectors need ids up to 2147483648, expected at most 2147483647")
def ids_beyond_31_bits(folder: Path) -> None:
    """Twenty items, three vectors each: the last id but for the user's is the largest there is."""
    edit_json(folder, CATALOG, "tokenizer", "vocab_size", to=(1 << 31) - 60)


@ends_in("CORRUPT", "prompt vectors: the vectors need ids up to 21")
def tables_without_end(folder: Path) -> None:
    edit_json(folder, CATALOG, "tokenizer", "vocab_size", to=(1 << 31) - 1 - (1 << 20))
    edit_json(folder, CATALOG, "prompt", "vectors", to=[{"name": str(n), "count": 16} for n in range(10_000)])


@ends_in("CORRUPT", "tokenizer: vocab_size is 65, the model's is 64")
def tokenizer_larger_than_the_model(folder: Path) -> None:
    edit_json(folder, CATALOG, "tokenizer", "vocab_size", to=65)


@ends_in("CORRUPT", "expected 0 to 64 exclusive", "running")
def tokens_that_are_ids_of_vectors(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "vocab_size", to=128)
    edit_table(folder, PIECES, "tokens", put(3, 64))


@ends_in("CORRUPT", "`item_vector` depends on the target item")
def items_vector_in_the_prefix(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, to={"op": "item_vector", "table": "gcn"})


@ends_in("CORRUPT", "segments[0] inputs: `vectors` is missing, but the prompt program has vectors")
def segment_that_takes_no_vectors(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 0, "inputs", "vectors", to=None)


@ends_in("CORRUPT", "segments[0] inputs: has `vectors`, but the prompt program has none")
def segment_that_takes_vectors_for_nothing(folder: Path) -> None:
    no_vectors(folder)
    edit_json(folder, CATALOG, "requires", to=[])


@ends_in("CORRUPT", "catalog.json requires: holds `vectors`, but the prompt has none")
def requirement_without_vectors(folder: Path) -> None:
    no_vectors(folder)


@ends_in("CORRUPT", "catalog.json requires: lacks `vectors`, but the prompt has vectors")
def vectors_not_in_requires(folder: Path) -> None:
    edit_json(folder, CATALOG, "requires", to=[])


@ends_in("CORRUPT", "vectors: no op places `more`")
def table_that_nothing_places(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", 1, "name", to="more")
    edit_json(folder, CATALOG, "prompt", "candidate", 0, to={"op": "piece", "piece": 0})
    edit_json(folder, CATALOG, "prompt", "prefix", 6, "entry", 0, to={"op": "piece", "piece": 0})


def no_vectors(folder: Path) -> None:
    for part in ("prefix", "candidate"):
        edit_json(folder, CATALOG, "prompt", part, to=[{"op": "piece", "piece": 0}])
    edit_json(folder, CATALOG, "prompt", "vectors", to=[])


def edit_input(folder: Path, edit: Callable[[Any], None]) -> None:
    path = folder / "variants/cpu-fp32/segment-0.onnx"
    model = onnx.load(path, load_external_data=False)
    (entry,) = (value for value in model.graph.input if value.name == "given")
    edit(entry.type.tensor_type)
    onnx.save(model, path)
    refresh(folder)


@ends_in("CORRUPT", "no input `nowhere`")
def graph_that_names_its_vectors_otherwise(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 0, "inputs", "vectors", to="nowhere")


@ends_in("CORRUPT", "input `given` has size 3 in dimension 0, expected a dynamic size")
def graph_that_takes_three_vectors(folder: Path) -> None:
    edit_input(folder, lambda tensor: setattr(tensor.shape.dim[0], "dim_value", 3))


@ends_in("TOO_LONG", "the prefix is longer than 96 tokens", "running")
def vectors_beyond_the_longest_prompt(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "user_vector"}] * 97)


@ends_in("OK", found="running")
def as_many_vectors_as_a_prompt_can_have(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", to=[{"name": "gcn", "count": 1}])
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "user_vector"}] * 93)
    edit_json(folder, CATALOG, "prompt", "candidate", to=[{"op": "item_vector", "table": "gcn"}] * 3)


@ends_in("OK", found="running")
def candidates_of_nothing_but_vectors(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "vectors", to=[{"name": "title:2", "count": 2}])
    edit_json(folder, CATALOG, "prompt", "prefix", to=[])
    edit_json(folder, CATALOG, "prompt", "candidate", to=[{"op": "item_vector", "table": "title:2"}])
