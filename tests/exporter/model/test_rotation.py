"""Rotation: the same answers from other weights, for every family that it says it can rotate; the others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.models.checkpoints import tiny_heads, tiny_model
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.rotation import obstacle, orthogonal, rotate

ROTATED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "granite", "gemma", "glm")
WHY = {  # docs/families.md has the others
    "gemma2": "gemma2: its layers have `post_feedforward_layernorm`",
    "olmo2": "olmo2: its layers lack `input_layernorm`",
    "gpt2": "gpt2: its final norm, LayerNorm, is not RMSNorm",
}
EXITS = (1, 2, 4)
PREFIX, CANDIDATES = np.arange(30) + 10, [np.array([3, 4, 5]), np.array([7, 8])]


def _model(family: str, **changes: object) -> MultiExitModel:
    decoder = Decoder.of(tiny_model(family, **changes))
    return MultiExitModel(decoder, tiny_heads(decoder, len(EXITS)), EXITS).eval()


@pytest.mark.parametrize("family", ROTATED)
def test_the_model_answers_the_same(family: str) -> None:
    model = _model(family)
    assert obstacle(model.decoder) is None
    before, weights = model.reference(PREFIX, CANDIDATES), model.decoder.layers[0].mlp.down_proj.weight.clone()
    rotate(model.decoder, model.heads, orthogonal(64))
    np.testing.assert_allclose(model.reference(PREFIX, CANDIDATES), before, atol=1e-5)
    assert (model.decoder.layers[0].mlp.down_proj.weight - weights).abs().max() > 0.01 and np.ptp(before) > 0.5


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32}),
        ("llama", {"num_key_value_heads": 4}),
    ],
)
def test_the_same_with_tied_embeddings_biases_and_other_heads(family: str, changes: dict[str, object]) -> None:
    model = _model(family, **changes)
    before, head = model.reference(PREFIX, CANDIDATES), model.model.get_output_embeddings().weight.clone()
    rotate(model.decoder, model.heads, orthogonal(64))
    np.testing.assert_allclose(model.reference(PREFIX, CANDIDATES), before, atol=1e-5)
    assert torch.equal(model.model.get_output_embeddings().weight, head)


@pytest.mark.parametrize("family", WHY)
def test_a_family_that_cannot_be_rotated_is_named_with_the_reason(family: str) -> None:
    assert obstacle(Decoder.of(tiny_model(family))) == WHY[family]


def test_the_matrix_is_orthogonal_and_always_the_same() -> None:
    turn = orthogonal(96)
    torch.testing.assert_close(turn @ turn.T, torch.eye(96, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.equal(turn, orthogonal(96)) and not torch.equal(turn, orthogonal(96, seed=1))


def test_large_channels_are_spread() -> None:
    """One of the stream's channels is 50 times as large as the rest; afterwards all are alike."""
    model = _model("llama")
    model.model.get_input_embeddings().weight.data[:, 7] *= 50
    rotate(model.decoder, model.heads, orthogonal(64))
    sizes = model.model.get_input_embeddings().weight.detach().abs().amax(0)
    assert float(sizes.max() / sizes.median()) < 4
