"""Small random rerankers in the folders that other projects publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from builders.models.checkpoints import tiny_model
from rexit.exporter.libraries import quiet

VOCAB, HIDDEN, DEPTH, START = 1000, 64, 6, 3
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n"
    "<Instruct>: {{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('Find it.') }}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the manner of Qwen3-Reranker's."""
TEXTS = (
    "Find what answers the query",
    "Answer yes or no",
    "wing lift drag",
    "What? Lift and drag",
    "A: B:\nDocument Query Instruct",
)


def write_layerwise(folder: Path, **changes: Any) -> Path:
    """As BAAI/bge-reranker-v2-minicpm-layerwise. changes: keys of its config.json."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig"},
        "model_type": "minicpm",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "scale_emb": 12,
        "dim_model_base": 16,
        "scale_depth": 1.4,
        "start_layer": START,
        "head_multi": True,
        "head_type": "simple",
    } | changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_minicpm(config), folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    return folder


def write_logit_score(folder: Path, false_token: bool = True, family: str = "qwen3") -> Path:
    """As sentence-transformers saves a decoder with LogitScore."""
    model = tiny_model(family, None, vocab_size=VOCAB)
    with quiet():
        model.save_pretrained(folder)
    tokenizer = write_tokenizer(folder)
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    kind = "sentence_transformers.{}"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": kind.format("base.modules.transformer.Transformer")},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind.format("cross_encoder.modules.logit_score.LogitScore")},
    ]
    score = {"true_token_id": yes, "false_token_id": no if false_token else None, "module_input_name": "causal_logits"}
    settings = {"transformer_task": "text-generation", "processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    prompts = {"model_type": "CrossEncoder", "prompts": {"web": "Find what answers."}, "default_prompt_name": "web"}
    (folder / "1_LogitScore").mkdir()
    for name, value in (
        ("modules.json", modules),
        ("1_LogitScore/config.json", score),
        ("sentence_bert_config.json", settings),
        ("config_sentence_transformers.json", prompts),
    ):
        (folder / name).write_text(json.dumps(value))
    return folder


def write_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level tokenizer whose words `yes` and `no` are tokens, with a chat template."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Decoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["yes", "no", *TEXTS] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def _minicpm(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random weights under the names of FlagEmbedding's code."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * float(shape[-1] ** -0.5)

    width, inner = config["hidden_size"], config["intermediate_size"]
    pairs = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (pairs, width),
        "self_attn.v_proj": (pairs, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    tensors = {"model.embed_tokens.weight": normal(config["vocab_size"], width), "model.norm.weight": 1 + normal(width)}
    for n in range(config["num_hidden_layers"]):
        tensors |= {f"model.layers.{n}.{name}.weight": normal(*shape) for name, shape in shapes.items()}
        tensors |= {
            f"model.layers.{n}.{name}.weight": 1 + normal(width) for name in ("input_layernorm", "post_attention_layernorm")
        }
    heads = [f"{n}." for n in range(config["num_hidden_layers"] + 1 - config["start_layer"])] if config["head_multi"] else [""]
    return tensors | {f"lm_head.{head}linear_head.weight": 4 * normal(1, width) for head in heads}
