"""Segments, as torch modules, chain to what the whole model computes, and hold their own layers' weights only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.models.checkpoints import tiny_heads, tiny_model
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel

EXITS = (1, 3, 4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "opt", "phi", "cohere"])
def test_chain_is_the_model(family: str) -> None:
    decoder = Decoder.of(tiny_model(family))
    heads = tiny_heads(decoder, len(EXITS))
    segments = [SegmentModule(decoder, heads, k, b, e).eval() for k, (b, e) in enumerate(zip((0, *EXITS), EXITS, strict=False))]
    tokens = np.random.default_rng(0).integers(3, 200, 25)
    size = len(tokens)
    x, log_odds = torch.from_numpy(tokens), []
    for segment in segments:
        past = [torch.zeros(decoder.kv_heads, 0, decoder.head_dim)] * (segment.end - segment.begin)
        with torch.no_grad():
            out = segment(x, torch.arange(size), torch.zeros(size, dtype=torch.int64), torch.tensor([size - 1]), past, past)
        logits = out[0 if segment.last else 1]
        log_odds.append((logits[0, 1] - logits[0, 0]).item())
        assert len(out) == (1 if segment.last else 2) + 2 * len(past)
        assert out[-1].shape == (decoder.kv_heads, size, decoder.head_dim)
        x = out[0]
    expected = MultiExitModel(decoder, heads, EXITS).reference([], [tokens])[0]
    np.testing.assert_allclose(log_odds, expected, atol=2e-5)


def test_holds_its_own_weights_only() -> None:
    decoder = Decoder.of(tiny_model())
    layer = sum(p.numel() for p in decoder.layers[0].parameters())
    segment = SegmentModule(decoder, tiny_heads(decoder, 2), 1, 2, 4)
    head = 64 + 2 * 64 + 2
    assert sum(p.numel() for p in segment.parameters()) == 2 * layer + head
    assert len(decoder.layers) == 4  # the model is unchanged
    assert decoder.model.get_input_embeddings() is decoder.body.embed_tokens
