"""The decoder that training starts from, with heads at its exits, projectors, and LoRA's additions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint
from rexit.exporter.checkpoints.weights import layers, located
from rexit.exporter.libraries.silence import quiet
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import fresh_projectors
from rexit.exporter.options import TrainOptions
from rexit.exporter.preflight import labels_of


def make_model(source: str, catalog: Catalog | None, options: TrainOptions) -> tuple[Checkpoint, MultiExitModel, Any]:
    """Loads the decoder that training starts from, with heads and projectors.

    Args:
        source: a folder, Hub id or GGUF file.
        catalog: None: prompts come from a file of slates.

    Returns:
        The checkpoint, the model to train, and peft's model around its decoder; None without low-rank additions.
    """
    labels = labels_of(catalog, options.label_ids)
    start = load_checkpoint(source, exit_depths(source, options.exits), "shared", labels, options.reranker)
    decoder = start.decoder
    if catalog is not None:
        check_fit(catalog, start)
    projectors, adapted = None if catalog is None else fresh_projectors(catalog, decoder), None
    for module in (decoder.norm, decoder.model.get_output_embeddings()):
        module.requires_grad_(False)  # never computed
    decoder.model.get_input_embeddings().requires_grad_(not options.freeze_embeddings)
    if options.is_frozen:
        decoder.model.requires_grad_(False)
    if options.lora:
        adapted = with_additions(decoder, source, options.lora)
    return start, MultiExitModel(decoder, start.heads, start.exits, projectors).train(), adapted


def with_additions(decoder: Decoder, source: str, rank: int) -> Any:
    """Returns peft's model around the decoder's, with low-rank additions to all linear layers; norms are trained in full."""
    from peft import LoraConfig, get_peft_model

    norms = {
        name.rpartition(".")[2]
        for layer in decoder.layers
        for name, module in layer.named_modules()
        if "norm" in name.rpartition(".")[2].lower() and next(module.parameters(), None) is not None
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=sorted(norms),
        task_type="CAUSAL_LM",
    )
    with quiet():
        adapted = get_peft_model(decoder.model, config)
    # A folder or file by its whole path: the adapter may be exported from anywhere.
    base = str(Path(source).resolve()) if Path(source).exists() else source
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def exit_depths(source: str, exits: str) -> list[int]:
    """Returns the depths in `exits`; if it is empty, every five layers and the last."""
    if exits:
        try:
            return [int(depth) for depth in exits.split(",")]
        except ValueError as exc:
            raise InputError(f"--exits {exits}: expected depths in layers, e.g. 2,4,6") from exc
    depth = layers(located(source))
    return [*range(5, depth, 5), depth]


def check_fit(catalog: Catalog, start: Checkpoint) -> None:
    """Raises InputError for a catalog whose tokens are not for this model."""
    vocabulary, rows = catalog.info["tokenizer"]["vocab_size"], start.decoder.vocab_size
    if vocabulary > rows:
        raise InputError(f"{catalog.path}: its tokenizer has {vocabulary} tokens, {start.path} has embeddings of {rows}")
