"""The model that training starts from, with heads at its exits, projectors, and LoRA's additions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import Checkpoint, check_exits, load_checkpoint, read_exits
from rexit.exporter.checkpoints.pairs import pair_prompt
from rexit.exporter.checkpoints.rerankers import read_reranker
from rexit.exporter.checkpoints.weights import decoder_model, encodes, layers, located
from rexit.exporter.libraries.silence import quiet
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import Encoder, split
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import fresh_projectors
from rexit.exporter.options import TrainOptions
from rexit.exporter.preflight import check_causal, labels_of


def make_model(source: str, catalog: Catalog | None, options: TrainOptions) -> tuple[Checkpoint, MultiExitModel, Any]:
    """Loads the model that training starts from, with heads and projectors.

    Args:
        source: a folder, Hub id or GGUF file.
        catalog: None: prompts come from a file of slates.

    Returns:
        The checkpoint, the model to train, and peft's model around its decoder; None without low-rank additions.
    """
    labels, depths = labels_of(catalog, options.label_ids), exit_depths(source, options.exits)
    if encodes(folder := located(source)):
        start = _encoder(folder, depths, options.reranker)
    else:
        start = load_checkpoint(source, depths, "shared", labels, options.reranker)
    decoder = start.decoder
    if catalog is not None:
        check_fit(catalog, start)
    projectors, adapted = None if catalog is None else fresh_projectors(catalog, decoder), None
    decoder.model.requires_grad_(False)  # final norm, LM head and pooler are never computed
    if not options.is_frozen:
        for module in (*decoder.layers, decoder.embeddings):
            module.requires_grad_(True)
        decoder.model.get_input_embeddings().requires_grad_(not options.freeze_embeddings)
    if options.lora:
        adapted = with_additions(decoder, source, options.lora)
    return start, MultiExitModel(decoder, start.heads, start.exits, projectors).train(), adapted


def _encoder(folder: Path, depths: Sequence[int], reranker: str | None) -> Checkpoint:
    """An encoder whose last head is its classifier, a new one if it has none. It has no dropout: drawing it takes longer than the
    layers."""
    form, saved = read_reranker(folder, reranker), read_exits(folder)
    check_exits(depths, layers(folder))
    with quiet():
        decoder = split(decoder_model(folder, new_classifier=form is None)).cut(depths[-1])
        assert isinstance(decoder, Encoder)
        own = ExitHeads.own(decoder) if form is None else form.heads_at(decoder, form.exits)
        early = ExitHeads.like(decoder, len(depths) - 1)
    for module in decoder.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    heads = ExitHeads([*early.norms, *own.norms], [*early.projections, *own.projections])
    prompt, roles = pair_prompt(folder) if form is None else form.prompt, None if saved is None else saved[0].roles
    return Checkpoint(folder, decoder, tuple(depths), heads, "own", {}, None, None, prompt, roles)


def with_additions(decoder: Decoder, source: str, rank: int) -> Any:
    """Returns peft's model around the decoder's, with low-rank additions to all linear layers; norms are trained in full."""
    from peft import LoraConfig, get_peft_model

    norms = {
        name.rpartition(".")[2]
        for layer in decoder.layers
        for name, module in layer.named_modules()
        if "norm" in name.rpartition(".")[2].lower() and next(module.parameters(), None) is not None
    }
    parts = {part for layer in decoder.layers for part in layer.modules()}
    matrices = [
        name
        for name, part in decoder.model.named_modules()
        if part in parts and isinstance(weight := getattr(part, "weight", None), Tensor) and weight.ndim == 2
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=matrices, modules_to_save=sorted(norms))
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
    """Raises InputError for a catalog whose prompts or tokens are not for this model."""
    check_causal(start)
    vocabulary, rows = catalog.info["tokenizer"]["vocab_size"], start.decoder.vocab_size
    if vocabulary > rows:
        raise InputError(f"{catalog.path}: its tokenizer has {vocabulary} tokens, {start.path} has embeddings of {rows}")
