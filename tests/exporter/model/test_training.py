"""What trainings share: rows and batches of slates, rates by depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.data.indexed_catalog import WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_heads, tiny_model
from rexit.data.slates import TokenSlate
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Row, Rows, batches, fresh_projectors, packed_rows, parameter_groups
from rexit.format.bundle import Catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("vectors"), template=WITH_VECTORS))


@pytest.fixture(scope="module")
def rows(catalog: Catalog) -> Rows:
    return packed_rows(catalog, "train", 5)


def multi_exit(catalog: Catalog) -> MultiExitModel:
    decoder = Decoder.of(tiny_model())
    return MultiExitModel(decoder, tiny_heads(decoder, 3), (1, 2, 4), fresh_projectors(catalog, decoder))


def test_every_label_of_the_split_is_in_one_row(catalog: Catalog, rows: Rows) -> None:
    split = catalog.split("train")
    np.testing.assert_array_equal(rows.liked(range(len(rows.rows))), split.liked)
    assert all(len(row.liked) == len(row.prompt.candidates) <= 5 for row in rows.rows)


def test_a_seed_draws_the_slates(catalog: Catalog, rows: Rows) -> None:
    def users(seed: int | None) -> list[list[int]]:
        return [row.prompt.candidates[0].tolist() for row in packed_rows(catalog, "train", 5, 6, seed=seed).rows]

    assert users(1) == users(1) != users(2) and len(users(1)) == len(users(None)) == 6


def test_batches_have_each_row_once_within_the_tokens_allowed(rows: Rows) -> None:
    groups = batches(rows.lengths, 700, np.random.default_rng(0))
    assert sorted(n for batch in groups for n in batch) == list(range(len(rows.rows)))
    assert all(rows.lengths[batch].max() * len(batch) <= 700 or len(batch) == 1 for batch in groups)
    assert groups == batches(rows.lengths, 700, np.random.default_rng(0)) != batches(rows.lengths, 700, np.random.default_rng(1))


def test_candidates_that_share_nothing_are_a_sequence_each() -> None:
    slates = [
        TokenSlate(
            n, np.empty(0, np.int32), tuple(np.array(part) for part in ([1, 2], [3], [4, 5, 6])), np.array([True, False, False])
        )
        for n in range(2)
    ]
    tokens, positions, _, rows = Rows([Row(slate.user, slate, slate.liked) for slate in slates], None).packed([0, 1])
    assert tokens.tolist()[:3] == [[1, 2, 0], [3, 0, 0], [4, 5, 6]] and positions.tolist()[2] == [0, 1, 2]
    assert tokens.flatten()[rows].tolist() == [2, 3, 6] * 2


def test_vectors_are_float32_under_autocast(catalog: Catalog, rows: Rows) -> None:
    model = multi_exit(catalog)
    plain = rows.inputs(model, [0, 1])[-1]
    with torch.autocast("cpu", torch.bfloat16):
        under = rows.inputs(model, [0, 1])[-1]
    torch.testing.assert_close(under.vectors, plain.vectors, rtol=0, atol=0)


def test_shallower_layers_learn_faster(catalog: Catalog) -> None:
    model = multi_exit(catalog)
    rate = {id(p): group["lr"] for group in parameter_groups(model, 1.0, 0.5, 10.0) for p in group["params"]}
    layers, heads = model.decoder.layers, model.heads
    assert [rate[id(next(layer.parameters()))] for layer in layers] == [4.0, 2.0, 1.0, 1.0]
    assert [rate[id(p.weight)] for p in heads.projections] == [rate[id(n.weight)] for n in heads.norms] == [40.0, 20.0, 10.0]
    assert rate[id(model.model.get_input_embeddings().weight)] == 4.0
    assert {rate[id(p)] for p in model.projectors.parameters()} == {40.0}


def test_each_parameter_that_learns_is_in_one_group(catalog: Catalog) -> None:
    model = multi_exit(catalog)
    for never_computed in (model.decoder.norm, model.model.get_output_embeddings()):
        never_computed.requires_grad_(False)
    model.decoder.layers[0].mlp.requires_grad_(False)
    listed = [id(p) for group in parameter_groups(model, 1.0, 0.5) for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
