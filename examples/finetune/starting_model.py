"""The decoder that training starts from, with heads at its exits, projectors, and what LoRA adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from settings import Settings

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.model.checkpoint import Checkpoint, load_checkpoint
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import fresh_projectors
from rexit.exporter.model.weights import layers, located
from rexit.exporter.quiet import quiet


def make_model(catalog: Catalog, chosen: Settings) -> tuple[Checkpoint, MultiExitModel, Any]:
    """The decoder that training starts from, with heads and projectors; and peft's model around it, if there is to be one."""
    if chosen.frozen and chosen.lora:
        raise InputError(f"--lora {chosen.lora} with --rate 0, which trains no additions: leave one of them out")
    start = load_checkpoint(chosen.init, chosen_exits(chosen), "shared", catalog.info["labels"])
    decoder = start.decoder
    check_fit(catalog, start)
    projectors, adapted = fresh_projectors(catalog, decoder), None
    for module in (decoder.norm, decoder.model.get_output_embeddings()):
        module.requires_grad_(False)  # never computed
    decoder.model.get_input_embeddings().requires_grad_(not chosen.freeze_embeddings)
    if chosen.frozen:
        decoder.model.requires_grad_(False)
    if chosen.lora:
        adapted = with_additions(decoder, chosen)
    return start, MultiExitModel(decoder, start.heads, start.exits, projectors).train(), adapted


def with_additions(decoder: Decoder, chosen: Settings) -> Any:
    """peft's model around the decoder's, with low-rank additions to all linear layers; norms are trained in full."""
    from peft import LoraConfig, get_peft_model

    norms = {
        name.rpartition(".")[2]
        for layer in decoder.layers
        for name, module in layer.named_modules()
        if "norm" in name.rpartition(".")[2].lower() and next(module.parameters(), None) is not None
    }
    config = LoraConfig(
        r=chosen.lora,
        lora_alpha=2 * chosen.lora,
        target_modules="all-linear",
        modules_to_save=sorted(norms),
        task_type="CAUSAL_LM",
    )
    with quiet():
        adapted = get_peft_model(decoder.model, config)
    # A folder or file by its whole path: the adapter may be exported from anywhere.
    base = str(Path(chosen.init).resolve()) if Path(chosen.init).exists() else chosen.init
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def chosen_exits(chosen: Settings) -> list[int]:
    if chosen.exits:
        return [int(depth) for depth in chosen.exits.split(",")]
    depth = layers(located(chosen.init))
    return [*range(5, depth, 5), depth]


def check_fit(catalog: Catalog, start: Checkpoint) -> None:
    """Raises InputError for a catalog whose tokens or lengths are not for this model."""
    vocabulary, rows = catalog.info["tokenizer"]["vocab_size"], start.decoder.vocab_size
    if vocabulary > rows:
        raise InputError(f"{catalog.path}: its tokenizer has {vocabulary} tokens, {start.path} has embeddings of {rows}")
