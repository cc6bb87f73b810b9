"""A small random layerwise reranker, saved and scored by FlagEmbedding's own code. Started by `flag_embedding.py`.

Runs in an environment with an older transformers: FlagEmbedding's MiniCPM imports what transformers 5 no longer has.

    python flag_embedding_model.py FOLDER TOKENS.json ANSWERS.json
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import torch

MODELS = "FlagEmbedding.inference.reranker.decoder_only.models"
SHAPE = {
    "vocab_size": 500,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "scale_emb": 12,
    "dim_model_base": 256,
    "scale_depth": 1.4,
    "start_layer": 8,
    "head_multi": True,
    "head_type": "simple",
    "tie_word_embeddings": False,
}
"""Depth, first exit and factors are the published model's."""


def without_the_packages() -> None:
    """Makes FlagEmbedding's models importable without the packages around them, which import data loaders and trainers."""
    spec = importlib.util.find_spec("FlagEmbedding")
    assert spec is not None and spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    parts = MODELS.split(".")
    for n in range(len(parts)):
        package = types.ModuleType(".".join(parts[: n + 1]))
        package.__path__ = [str(root.joinpath(*parts[1 : n + 1]))]
        sys.modules[package.__name__] = package


@torch.no_grad()
def main(folder: str, tokens: str, answers: str) -> None:
    torch.manual_seed(0)
    without_the_packages()
    config = importlib.import_module(f"{MODELS}.configuration_minicpm_reranker").LayerWiseMiniCPMConfig(**SHAPE)
    config._attn_implementation = "eager"
    model = importlib.import_module(f"{MODELS}.modeling_minicpm_reranker").LayerWiseMiniCPMForCausalLM(config).eval()
    for name, parameter in model.named_parameters():  # as initialized, all layers would say nearly the same
        parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5 + (1 if parameter.ndim == 1 else 0))
        if name.startswith("lm_head"):
            parameter.mul_(4)
    model.save_pretrained(folder)
    depths = list(range(config.start_layer, config.num_hidden_layers + 1))
    scores = []
    for sequence in json.loads(Path(tokens).read_text()):
        outputs = model(torch.tensor([sequence]), cutoff_layers=depths, output_hidden_states=True, use_cache=False)
        scores.append([float(logits[0, -1]) for logits in outputs.logits])
    Path(answers).write_text(json.dumps(scores))


if __name__ == "__main__":
    main(*sys.argv[1:])
