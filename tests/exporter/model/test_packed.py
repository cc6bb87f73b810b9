"""One packed pass answers what one ordinary sequence per candidate answers, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.models.checkpoints import FAMILIES, LABELS, MORE_FAMILIES, tiny_heads, tiny_model
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.model.packed import PADDING, PREFIX, batch, pack


def _slate(rng: np.random.Generator, prefix: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    return rng.integers(3, 200, prefix), [rng.integers(3, 200, size) for size in sizes]


@pytest.mark.medium
@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_packed_is_one_by_one(family: str) -> None:
    decoder = Decoder.of(tiny_model(family))
    model = MultiExitModel(decoder, tiny_heads(decoder, 2), (2, 4)).eval()
    rng = np.random.default_rng(0)
    slates = [_slate(rng, 30, (7, 1, 9)), _slate(rng, 0, (40,)), _slate(rng, 12, (3, 3))]
    with torch.no_grad():
        logits = model(*batch([pack(*slate) for slate in slates]))
    got = (logits[..., 1] - logits[..., 0]).T.numpy()
    expected = np.concatenate([model.reference(*slate) for slate in slates])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere", "granite"])
def test_shared_heads_are_the_lm_head(family: str) -> None:
    model = tiny_model(family)
    decoder = Decoder.of(model)
    multi = MultiExitModel(decoder, ExitHeads.shared(decoder, 2, LABELS), (2, 4))
    tokens = np.arange(3, 30)
    with torch.no_grad(), decoder.stock_attention():
        logits = model(torch.from_numpy(tokens)[None]).logits[0, -1]
    expected = float(logits[LABELS["yes"]] - logits[LABELS["no"]])
    assert multi.reference([], [tokens])[0, -1] == pytest.approx(expected, abs=1e-5)


def test_pack_and_batch() -> None:
    long, short = pack([10, 11], [[1, 2], [3]]), pack([10], [[4]])
    assert long.tokens.tolist() == [10, 11, 1, 2, 3]
    assert long.positions.tolist() == [0, 1, 2, 3, 2]
    assert long.groups.tolist() == [PREFIX, PREFIX, 0, 0, 1]
    assert long.rows.tolist() == [3, 4]
    tokens, _, groups, rows = batch([long, short])
    assert tokens.shape == (2, 5)
    assert groups[1].tolist() == [PREFIX, 0, PADDING, PADDING, PADDING]
    assert rows.tolist() == [3, 4, 6]


def test_trains_in_bfloat16() -> None:
    decoder = Decoder.of(tiny_model())
    model = MultiExitModel(decoder, ExitHeads.shared(decoder, 2, LABELS), (2, 4)).train()
    rng = np.random.default_rng(0)
    inputs = batch([pack(*_slate(rng, 20, (5, 6))), pack(*_slate(rng, 10, (5,)))])
    liked = torch.tensor([1, 0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(*inputs)
        assert logits.shape == (2, 3, 2) and logits.dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), liked.repeat(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
