"""Segments, as torch modules, chain to what the whole model computes, and hold their own layers' weights only."""

from __future__ import annotations

from builders.models.checkpoints import tiny_heads, tiny_model
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.model.decoder import Decoder

EXITS = (1, 3, 4)


def test_holds_its_own_weights_only() -> None:
    decoder = Decoder.of(tiny_model())
    layer = sum(p.numel() for p in decoder.layers[0].parameters())
    segment = SegmentModule(decoder, tiny_heads(decoder, 2), 1, 2, 4)
    head = 64 + 2 * 64 + 2
    assert sum(p.numel() for p in segment.parameters()) == 2 * layer + head
    assert len(decoder.layers) == 4  # the model is unchanged
    assert decoder.model.get_input_embeddings() is decoder.body.embed_tokens
