"""`rexit train`: fine-tunes a decoder with heads at its exits on a catalog's prompts and writes a multi-exit checkpoint.

The same command resumes a stopped training: OUT.training has weights, optimizer, schedule, random numbers and the order of the
data, written every `save_every` steps and at a signal, once the step that it meets has ended.

1. One row is one user's prefix at some time with up to `slate` later interactions packed behind it, as in serving. A batch has
   rows of similar length, as many as `batch_tokens` allows, padding included. The rows of a batch stay together in all epochs;
   the order of batches is new in each.
2. Every exit has its own norm and head, which start as the model's final norm and the label rows of its LM head. The loss is the
   mean of the exits' cross-entropies.
3. Shallower layers learn faster (OptiRAG-Rec, arXiv 2501.02173): those before exit k at `rate` / RATE_RATIO^n with n exits
   after it, their heads (and projectors, with the first) likewise from `head_rate`. The paper gives neither exits, nor rates,
   nor weights of losses: all numbers here are our choice.
4. Weights are float32, computations in `precision`. `lora` trains low-rank additions to all linear layers, and norms, heads and
   projectors in full; token embeddings are then frozen, as with `freeze_embeddings`. A rate of 0 trains only heads and
   projectors: no other weight has a gradient. The LM head and the final norm are never computed.
5. A prompt's vectors ({item.gcn}, …) come from projectors, which are trained too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, PrinterCallback, Trainer

from rexit import interrupts
from rexit.data.ranking import auc, user_auc
from rexit.data.slates import SIZE, cut, spread_users
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError
from rexit.exporter.assembly import encoder_of
from rexit.exporter.checkpoints.checkpoint import Checkpoint, check_exits, load_checkpoint, read_exits, save_checkpoint
from rexit.exporter.checkpoints.rerankers import pair_prompt, positive_label, read_reranker
from rexit.exporter.checkpoints.sentence_modules import write_scores
from rexit.exporter.checkpoints.weights import decoder_model, encodes, layers, located
from rexit.exporter.libraries import log, quiet
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import SCORES, Encoder, split
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.model.training import Rows, batches, fresh_projectors, packed_rows
from rexit.exporter.options import ExportOptions, TrainOptions
from rexit.exporter.preflight import check_causal, check_one_source, labels_of, read_slates
from rexit.exporter.source import LabelledPairs, Source
from rexit.exporter.training.trainer import (
    SETTINGS,
    Collator,
    Learner,
    MultiExitTrainer,
    Pairs,
    Progress,
    arguments,
    check_same,
    fixed_settings,
    last_state,
)
from rexit.format.bundle import Catalog
from rexit.format.bundle.files import digest, write_json
from rexit.format.bundle.manifest import log_odds_of
from rexit.format.bundle.writer import new_folder
from rexit.progress import Progress as ShowProgress
from rexit.progress import silent, tracked


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


MIN_LOSSES = 9
"""With fewer logged losses nothing is said of their slope."""


LENGTH_SAMPLE = 64
"""Training slates whose lengths say how many a number of steps can read."""


@dataclass(frozen=True)
class TrainReport:
    """The result of a training.

    Attributes:
        checkpoint: the folder written.
        exits: depths in layers.
        auc, user_auc: each exit's, on slates of the validation split.
        validation_slates: number of these slates.
        state: the folder to resume from, which may be deleted.
        baselines: AUC and user AUC of each baseline (`rexit.data.baselines`), by its name.
        doubt: why the last exit's ranking may be worth nothing, see `rexit.data.ranking.doubt`; None if there is no reason.
        falling: that the loss still falls at the end, in a sentence; None if it does not.
    """

    checkpoint: str
    exits: tuple[int, ...]
    auc: list[float]
    user_auc: list[float]
    validation_slates: int
    state: str
    baselines: dict[str, tuple[float, float]] = field(default_factory=dict)
    doubt: str | None = None
    falling: str | None = None


def train_model(
    model: str | Path,
    catalog: Path | None,
    out: Path,
    options: TrainOptions | None = None,
    *,
    slates: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: ShowProgress = silent,
) -> TrainReport | None:
    """Trains and writes the checkpoint `out`, whole or not at all.

    Args:
        model: folder, Hub id or GGUF file of a decoder; an encoder's folder or id.
        catalog: made with the model's tokenizer; None: there are `slates`.
        slates: a file of slates instead of a catalog.
        say: called with lines about the training.

    Returns:
        The report; None in all processes of a `torchrun` except the first.

    Raises:
        InputError: options that cannot work, or a training in OUT.training that was begun with other settings.
        CheckpointError: a model that cannot be loaded or split.
    """
    options = options or TrainOptions()
    options.check()
    log.set_verbosity_error()
    check_one_source(catalog, slates)
    opened, out = slates if catalog is None else Catalog.open(Path(catalog)), Path(out)
    assert opened is not None
    work = out.with_name(out.name + ".training")
    start, source, trained, adapted, trainer = _train(str(model), opened, options, work, say, progress)
    if not trainer.is_world_process_zero():
        return None
    tokens = options.step_tokens(start.decoder.causal)
    rows = packed_rows(
        source, "validation", SIZE, options.validation_slates, partial(tracked, what="prompts of validation", progress=progress)
    )
    log_odds = validation_log_odds(trained, rows, trainer.args.device, tokens, trainer.args.bf16, progress)
    held_out = spread_users(cut(source, "validation", SIZE), options.validation_slates)
    pairs = LabelledPairs.of(source, held_out)
    areas, user_areas = zip(*(_figures(np.ascontiguousarray(score), pairs) for score in log_odds.T), strict=True)
    trained.cpu()
    saved = trained.model
    if adapted is not None:
        saved = adapted.merge_and_unload()
    modules = getattr(saved, SCORES, None)
    if isinstance(start.decoder, Encoder):
        trained.heads.write_own(start.decoder, positive_label(saved.config) if modules is None else 1)
    with new_folder(out) as folder, quiet():
        if modules is not None:
            delattr(saved, SCORES)  # it would be saved as a part of the model
            write_scores(modules, start.path, folder)
        save_checkpoint(
            folder,
            saved,
            trained.exits,
            trained.heads,
            start.labels,
            source.traits if isinstance(source, Catalog) else None,
            _tokenizer_of(start),
            trained.projectors,
            start.reranker,
            source.roles.rule,
        )
    return TrainReport(
        str(out),
        trained.exits,
        list(areas),
        list(user_areas),
        len(rows.rows),
        str(work),
        {name: _figures(score.astype(np.float32), pairs) for name, score in pairs.baselines.items()},
        pairs.doubt(log_odds[:, -1]),
        still_falling([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]),
    )


def _train(
    name: str, place: Catalog | Path, options: TrainOptions, work: Path, say: Callable[[str], None], progress: ShowProgress
) -> tuple[Checkpoint, Source, MultiExitModel, Any, Trainer]:
    """Trains. Returns the loaded checkpoint, the prompts' source, the trained model, peft's model around it or None, and the
    trainer.

    place: a catalog, or the path of a file of slates, whose texts need the model.
    """
    torch.manual_seed(options.seed)
    catalog = place if isinstance(place, Catalog) else None
    settings = {"model": name, "catalog": digest(place) if isinstance(place, Path) else place.sha256} | fixed_settings(options)
    check_same(work, settings)
    start, model, adapted = make_model(name, catalog, options)
    source = read_slates(place, start, ExportOptions.max_tokens, labels=True) if isinstance(place, Path) else place
    source.roles.check(source.path, start.roles, start.path)
    rng, world, most, passes = np.random.default_rng(options.seed), arguments(work, options, 1).world_size, 0, 1
    if start.decoder.causal:
        slate, budget = options.slate_size(True), options.step_tokens(True)
        if options.steps:  # assembling all slates may take longer than training on the few that these steps read
            sample = packed_rows(source, "train", slate, LENGTH_SAMPLE).lengths
            tokens = np.minimum(sample, budget).mean()  # a longer slate is a batch of its own
            most = math.ceil(options.steps * world * budget / tokens)
        data = packed_rows(
            source, "train", slate, most, partial(tracked, what="prompts of train", progress=progress), options.seed
        )
        steps_data = batches(data.lengths, budget, rng)
    else:
        assert isinstance(source, SlatesFile)
        pairs = Pairs(source, encoder_of(start, ExportOptions.max_tokens), options, rng)
        data, steps_data, passes = pairs.drawn(options.steps * world, partial(tracked, what="pairs of train", progress=progress))
    steps, collate = options.steps or max(1, math.ceil(options.epochs * len(steps_data) / passes / world)), Collator(data)
    trainer = MultiExitTrainer(
        Learner(model, data),
        options,
        args=arguments(work, options, steps),
        train_dataset=steps_data,
        data_collator=collate,
        callbacks=[Progress(collate, say)],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        say(
            f"{len(data.rows)} rows, {len(data.targets())} labels, {int(data.lengths.sum())} tokens in "
            f"{len(steps_data)} batches; exits {','.join(map(str, model.exits))}; {weights:,} weights are trained; {steps} steps"
        )
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / SETTINGS, settings)
    state = last_state(work)
    if state and trainer.is_world_process_zero():
        say(f"goes on from {state}")
    with interrupts.deferred():
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    interrupts.check()
    return start, source, model, adapted, trainer


def still_falling(losses: Sequence[float]) -> str | None:
    """Returns that the loss still falls at the end of a training, in a sentence; None if it does not.

    It falls if the slope over the last third is below 0 by more than two of its standard errors. losses: as logged, in order.
    """
    last = np.array(losses[-(len(losses) // 3) :] if len(losses) >= MIN_LOSSES else [], np.float64)
    if not len(last):
        return None
    steps = np.arange(len(last)) - (len(last) - 1) / 2
    slope = float(steps @ last / (steps @ steps))
    rest = last - last.mean() - slope * steps
    error = math.sqrt(float(rest @ rest) / (len(last) - 2) / float(steps @ steps))
    if slope >= -2 * error or slope == 0:
        return None
    first, end = last.mean() + slope * steps[[0, -1]]
    return (
        f"The loss still falls at the end, from {first:.4f} to {end:.4f} over the last third: train longer (--epochs or --steps)."
    )


@torch.no_grad()
def validation_log_odds(
    model: MultiExitModel, data: Rows, device: torch.device, tokens: int, half: bool, progress: ShowProgress
) -> NDArray[np.float32]:
    """Returns the candidates' log-odds, float32 [n, E]. half: compute in bfloat16."""
    model.eval()
    log_odds: dict[int, Any] = {}
    for numbers in tracked(batches(data.lengths, tokens, np.random.default_rng(0)), "validation batches", progress):
        inputs = data.inputs(model, numbers, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = model(*inputs)
        ends = np.cumsum([len(data.rows[n].liked) for n in numbers])[:-1]
        by_candidate = log_odds_of(logits).float().cpu().numpy().swapaxes(0, 1)
        log_odds |= zip(numbers, np.split(by_candidate, ends), strict=True)
    return np.concatenate([log_odds[n] for n in range(len(data.rows))])


def _figures(score: NDArray[np.float32], pairs: LabelledPairs) -> tuple[float, float]:
    """AUC and user AUC."""
    return auc(score, pairs.liked), user_auc(score, pairs.users, pairs.liked)


def _tokenizer_of(start: Checkpoint) -> Any:
    """The model's own tokenizer, to save with it; None if it has none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(start.path)
    except (OSError, ValueError):
        return None
    if start.reranker is not None and start.reranker.pair is not None:
        tokenizer.model_max_length = start.reranker.pair.tokens  # also where a file that is not copied says it
    return tokenizer
