"""Fine-tunes a pretrained decoder with heads at its exits on a catalog's prompts; writes a checkpoint that `rexit export` takes.

    python examples/finetune/train.py --catalog CATALOG --init HuggingFaceTB/SmolLM2-135M-Instruct --out CHECKPOINT
    torchrun --nproc-per-node 4 examples/finetune/train.py …

The same command again goes on where it was stopped: weights, optimizer, schedule, random numbers and the order of the data stand
in OUT.training, written every `--save-every` steps.

1. One row is one user's prefix at some time with up to `--slate` later interactions packed behind it, as it will be served. A
   batch has rows of similar length, as many as `--batch-tokens` allows, padding included. The rows of a batch stay together in
   all epochs; the order of batches is new in each.
2. Every exit has its own norm and head, which start as the model's final norm and the label rows of its LM head. The loss is the
   mean of the exits' cross-entropies; `--distill W` adds W times the mean divergence of the earlier exits from the last one's
   probabilities, through which no gradient flows. `--teacher FILE` softens the labels: of each, a share of `--teacher-weight`
   is what FILE says of the pair (columns user, item, probability; benchmarks/ranking/teacher.py makes one of boosting). A score
   that has seen its own label teaches that label: make them out of fold.
3. Shallower layers learn faster (OptiRAG-Rec, arXiv 2501.02173): those before exit k at `--rate` / `--rate-ratio`^n with n exits
   after it, their heads (and projectors, with the first) likewise from `--head-rate`. The paper gives neither exits, nor rates,
   nor weights of losses: all numbers here are our choice.
4. Weights are float32, what is computed with them `--precision`. `--lora RANK` trains low-rank additions to all linear layers,
   with norms, heads and projectors in full; token embeddings then stay as they are, as they do with `--freeze-embeddings`.
   `--rate 0` trains heads and projectors alone. The LM head and the final norm are never computed.
5. A prompt's vectors ({item.gcn}, …) come from projectors that are trained along.

Measured with SmolLM2-135M on a busy machine, one thread, seconds of CPU time per step of 1,840 tokens (two steps): all weights
3.0 forward, 3.7 backward, 0.12 for clipping and fused AdamW; without token embeddings 2.2, 3.6, 0.09; LoRA of rank 16 2.6, 3.2,
0.02.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.distributed
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rexit.bundle import Catalog
from rexit.bundle.files import digest, write_json
from rexit.bundle.writer import new_folder
from rexit.errors import InputError, RexitError
from rexit.exporter.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import (
    Rows,
    batches,
    fast_bfloat16,
    fresh_projectors,
    packed_rows,
    parameter_groups,
    with_vectors,
)
from rexit.exporter.model.weights import layers, located
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.quiet import log, quiet
from rexit.ranking import auc, user_auc
from rexit.slates import SIZE

TRAINED = "trained.safetensors"
SETTINGS = "settings.json"


def option(default: Any, help: str, kind: Any = None, free: bool = False, **more: Any) -> Any:
    """free: may differ when a training goes on."""
    return field(default=default, metadata={"help": help, "type": kind, "free": free, **more})


@dataclass(frozen=True)
class Settings:
    """What can be chosen of a training; each is an option of the command line."""

    init: str = option("HuggingFaceTB/SmolLM2-135M-Instruct", "folder, Hub id or GGUF file of a decoder")
    exits: str = option("", "depths in layers (every five layers and the last)")
    lora: int = option(0, "rank of low-rank additions; 0 trains all weights")
    freeze_embeddings: bool = option(False, "leave the token embeddings as they are")
    distill: float = option(0.0, "weight of self-distillation from the last exit")
    teacher: str = option("", "scored training pairs, .parquet, to soften the labels with")
    teacher_weight: float = option(0.5, "share of a label that is the teacher's")
    slate: int = option(12, "interactions packed behind one prefix")
    batch_tokens: int = option(4096, "of one forward pass, padding included")
    accumulate: int = option(1, "forward passes of one step")
    epochs: float = option(1.0, "passes over the training split, unless --steps says how long")
    steps: int = option(0, "optimizer steps")
    rate: float | None = option(
        None, "peak learning rate of the deepest layers (2e-5; 2e-4 with --lora); 0: the base stays as it is", kind=float
    )
    head_rate: float = option(3e-4, "the same of the last head")
    rate_ratio: float = option(0.8, "rate of an exit's layers over that of the exit before")
    schedule: str = option("cosine", "how the rate falls after the warm-up", choices=("cosine", "linear"))
    warmup: float = option(0.05, "share of the steps in which the rate rises")
    weight_decay: float = option(0.01, "AdamW's")
    precision: str = option(
        "auto",
        "of what is computed: bfloat16 on a GPU and on a CPU with AMX, else float32",
        choices=("auto", "bfloat16", "float32"),
    )
    seed: int = option(0, "of the projectors, and of batches and their order")
    save_every: int = option(100, "steps between two states that a stopped training can go on from", free=True)
    max_minutes: float = option(0.0, "stop after so long, to go on another time; 0: when done", free=True)
    validate_slates: int = option(400, "of the validation split, to report AUC on; 0: all", free=True)

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        for one in dataclasses.fields(cls):
            name, more = "--" + one.name.replace("_", "-"), {k: v for k, v in one.metadata.items() if k == "choices"}
            if isinstance(one.default, bool):
                parser.add_argument(name, action="store_true", help=one.metadata["help"])
            else:
                shown = f" ({one.default})" if one.default else ""
                kind = one.metadata["type"] or type(one.default)
                parser.add_argument(name, type=kind, default=one.default, help=one.metadata["help"] + shown, **more)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Settings:
        return cls(**{one.name: getattr(args, one.name) for one in dataclasses.fields(cls)})

    @property
    def fixed(self) -> dict[str, Any]:
        """What must not change while a training goes on."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if not one.metadata["free"]}

    @property
    def peak(self) -> float:
        if self.rate is None:
            return 2e-4 if self.lora else 2e-5
        return self.rate

    @property
    def frozen(self) -> bool:
        """Whether the base stays as it is, token embeddings and all."""
        return self.peak == 0


def joint_loss(logits: Tensor, liked: Tensor, distill: float = 0.0) -> Tensor:
    """The mean of all exits' cross-entropies, and `distill` times the mean divergence of the earlier ones from the last.

    logits: float32 [E, M, 2]; liked: float32 [M], how likely each label is yes.
    """
    loss = F.cross_entropy(logits.flatten(0, 1), torch.stack([1 - liked, liked], -1).repeat(len(logits), 1))
    if distill and len(logits) > 1:
        teacher = logits[-1].detach().log_softmax(-1).expand_as(logits[:-1])
        student = logits[:-1].log_softmax(-1)
        loss = loss + distill * F.kl_div(student.flatten(0, 1), teacher.flatten(0, 1), reduction="batchmean", log_target=True)
    return loss


class Learner(nn.Module):
    """What is trained: a batch as `Collator` makes it to its loss, so that all that learns is inside one module's forward."""

    def __init__(self, model: MultiExitModel, rows: Rows, distill: float) -> None:
        super().__init__()
        self.model, self._rows, self._distill = model, rows, distill

    def forward(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, liked: Tensor, prompts: Sequence[Prompt]
    ) -> dict[str, Tensor]:
        passed, given = with_vectors(self.model, self._rows.sources, tokens, prompts)
        return {"loss": joint_loss(self.model(passed, positions, groups, rows, given), liked, self._distill)}


class Collator:
    """Makes a batch of its rows' numbers, and counts what it made.

    labels: float32 [interactions of the split], each how likely it is yes.
    """

    def __init__(self, data: Rows, labels: NDArray[np.float32]) -> None:
        self._data = data
        self._liked = np.split(labels, np.cumsum([len(row.liked) for row in data.rows])[:-1])
        self.tokens = self.labels = 0

    def __call__(self, chosen: Sequence[Sequence[int]]) -> dict[str, Any]:
        (numbers,) = chosen  # the data set's elements are whole batches
        tokens, positions, groups, rows = self._data.packed(numbers)
        liked = torch.from_numpy(np.concatenate([self._liked[n] for n in numbers]))
        self.tokens += sum(self._data.rows[n].length for n in numbers)
        self.labels += len(liked)
        prompts = [self._data.rows[n].prompt for n in numbers]
        return {"tokens": tokens, "positions": positions, "groups": groups, "rows": rows, "liked": liked, "prompts": prompts}


class MultiExitTrainer(Trainer):
    """Rates by depth; a state to go on from holds the weights that are trained, each once."""

    def __init__(self, learner: Learner, chosen: Settings, **more: Any) -> None:
        super().__init__(learner, **more)
        self._learner, self._chosen = learner, chosen
        self.model_accepts_loss_kwargs = False  # the loss is a batch's mean

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            chosen = self._chosen
            groups = parameter_groups(self._learner.model, chosen.peak, chosen.rate_ratio, chosen.head_rate)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=chosen.weight_decay, fused=True)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self._trained().items()}, Path(output_dir) / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, own = load_file(Path(resume_from_checkpoint) / TRAINED), self._trained()
        assert saved.keys() == own.keys(), "the settings are the same, so is what is trained"
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._learner.named_parameters() if p.requires_grad}


class Progress(TrainerCallback):
    """Prints loss, speed and the end that is to be expected; stops when time is over."""

    def __init__(self, made: Collator, minutes: float) -> None:
        self._made, self._minutes, self._start = made, minutes, time.monotonic()
        self._begun = 0
        self._mark = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._mark = state.global_step, (time.monotonic(), self._made.tokens)
        self._first = self._mark[0]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        assert logs is not None
        now, tokens = time.monotonic(), self._made.tokens
        speed = (tokens - self._mark[1]) * args.world_size / (now - self._mark[0])
        self._mark = (now, tokens)
        left = (now - self._first) / (state.global_step - self._begun) * (state.max_steps - state.global_step)
        ends = time.strftime("%a %H:%M", time.localtime(time.time() + left))
        print(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {speed:.0f} tokens/s  ends {ends}", flush=True
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._minutes:
            return
        over = torch.tensor(float(time.monotonic() - self._start > 60 * self._minutes), device=args.device)
        if torch.distributed.is_initialized():  # clocks differ, and all processes have to stop at the same step
            torch.distributed.all_reduce(over, torch.distributed.ReduceOp.MAX)
        if over:
            control.should_training_stop = control.should_save = True


def softened(catalog: Catalog, teacher: Path, weight: float) -> NDArray[np.float32]:
    """The training split's labels, in its order, each moved by `weight` to what the teacher says of the pair.

    Raises InputError if it is no file of scored pairs or does not have all of them.
    """
    if not 0 < weight <= 1:
        raise InputError(f"--teacher-weight {weight:g}, expected more than 0 and at most 1")
    rows = catalog.split("train")
    pairs = pl.DataFrame({"user": catalog.users.take(rows.users), "item": catalog.items.take(rows.items)})
    try:
        said = pl.read_parquet(teacher, columns=[*pairs.columns, "probability"]).cast({**pairs.schema, "probability": pl.Float64})
    except (OSError, pl.exceptions.PolarsError) as exc:
        raise InputError(f"{teacher}: {str(exc).splitlines()[0]}; expected a .parquet with user, item, probability") from exc
    copy = pl.int_range(pl.len()).over("user", "item").alias("copy")  # a pair may have several interactions
    found = pairs.with_columns(copy).join(said.with_columns(copy), on=["user", "item", "copy"], how="left", maintain_order="left")
    if absent := found.filter(~pl.col("probability").is_between(0, 1).fill_null(False)).rows():
        raise InputError(f"{teacher}: user {absent[0][0]!r}, item {absent[0][1]!r} has no probability from 0 to 1")
    return ((1 - weight) * rows.liked + weight * found["probability"].to_numpy()).astype(np.float32)


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


@torch.no_grad()
def validated(model: MultiExitModel, data: Rows, device: torch.device, tokens: int, half: bool) -> list[tuple[float, float]]:
    """AUC and user AUC of each exit. half: computed with bfloat16."""
    model.eval()
    found: dict[int, Any] = {}
    for chosen in batches(data.lengths, tokens, np.random.default_rng(0)):
        packed, *rest = (tensor.to(device) for tensor in data.packed(chosen))
        passed, given = with_vectors(model, data.sources, packed, [data.rows[n].prompt for n in chosen])
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = model(passed, *rest, given)
        ends = np.cumsum([len(data.rows[n].liked) for n in chosen])[:-1]
        found |= zip(chosen, np.split((logits[..., 1] - logits[..., 0]).float().cpu().numpy().T, ends), strict=True)
    z = np.concatenate([found[n] for n in range(len(data.rows))])
    liked = np.concatenate([row.liked for row in data.rows])
    owner = {user: n for n, user in enumerate(dict.fromkeys(row.user for row in data.rows))}
    users = np.concatenate([np.full(len(row.liked), owner[row.user]) for row in data.rows])
    return [(auc(one, liked), user_auc(one, users, liked)) for one in z.T]


def last_state(work: Path) -> Path | None:
    """The latest whole state of a training: the Trainer writes this file last."""
    states = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def check_same(work: Path, fixed: dict[str, Any]) -> None:
    """Raises InputError if a training that is to go on was begun with other settings."""
    path = work / SETTINGS
    if path.exists():
        before = json.loads(path.read_text())
        for name, value in fixed.items():
            if before.get(name) != value:
                raise InputError(
                    f"{work}: a training was begun there with --{name.replace('_', '-')} {before.get(name)!r}, "
                    f"now it is {value!r}: delete the folder to begin anew"
                )


def arguments(work: Path, chosen: Settings, steps: int) -> TrainingArguments:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,  # one element of the data set is a whole batch
        gradient_accumulation_steps=chosen.accumulate,
        max_steps=steps,
        lr_scheduler_type=chosen.schedule,
        warmup_steps=round(chosen.warmup * steps),
        max_grad_norm=1.0,
        bf16=fast_bfloat16(device) if chosen.precision == "auto" else chosen.precision == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=chosen.seed,
        logging_steps=10,
        save_strategy=SaveStrategy.STEPS,
        save_steps=chosen.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
    )


def train(catalog: Catalog, chosen: Settings, work: Path) -> tuple[Checkpoint, MultiExitModel, Any, Trainer]:
    """What was loaded, what became of it, peft's model around it if there is one, and who trained it."""
    torch.manual_seed(chosen.seed)
    fixed = chosen.fixed | {"catalog": catalog.sha256}
    liked = catalog.split("train").liked.astype(np.float32)
    if chosen.teacher:
        liked = softened(catalog, Path(chosen.teacher), chosen.teacher_weight)
        fixed["teacher"] += f", {digest(Path(chosen.teacher))}"
    check_same(work, fixed)
    start, model, adapted = make_model(catalog, chosen)
    data = packed_rows(catalog, "train", chosen.slate, track=bar("prompts of train"))
    made = batches(data.lengths, chosen.batch_tokens, np.random.default_rng(chosen.seed))
    steps, collate = chosen.steps, Collator(data, liked)
    probe = arguments(work, chosen, 1)
    if not steps:
        steps = max(1, math.ceil(chosen.epochs * len(made) / (chosen.accumulate * probe.world_size)))
    trainer = MultiExitTrainer(
        Learner(model, data, chosen.distill),
        chosen,
        args=arguments(work, chosen, steps),
        train_dataset=made,
        data_collator=collate,
        callbacks=[Progress(collate, chosen.max_minutes)],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
        labels = sum(len(row.liked) for row in data.rows)
        print(
            f"{len(data.rows)} rows, {labels} labels, {int(data.lengths.sum())} tokens in {len(made)} batches; exits "
            f"{','.join(map(str, model.exits))}; {learned:,} weights are trained; {steps} steps",
            flush=True,
        )
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / SETTINGS, fixed)
    state = last_state(work)
    if state and trainer.is_world_process_zero():
        print(f"goes on from {state}", flush=True)
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    return start, model, adapted, trainer


def bar(what: str) -> Any:
    return partial(track, description=what, disable=not sys.stderr.isatty())


def tokenizer_of(start: Checkpoint) -> Any:
    """The model's own tokenizer, to be saved with it; None if it has none."""
    try:
        return AutoTokenizer.from_pretrained(start.path)
    except (OSError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True, help="that `rexit index` wrote with this model's tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--save-adapter", action="store_true", help="with --lora: save the additions alone; merged otherwise")
    Settings.add_options(parser)
    args = parser.parse_args()
    log.set_verbosity_error()
    try:
        run(args)
    except RexitError as exc:
        sys.exit(f"train: {exc}")


def run(args: argparse.Namespace) -> None:
    catalog, chosen = Catalog.open(args.catalog), Settings.of(args)
    work = args.out.with_name(args.out.name + ".training")
    start, model, adapted, trainer = train(catalog, chosen, work)
    if not trainer.is_world_process_zero():
        return
    rows = packed_rows(catalog, "validation", SIZE, chosen.validate_slates, bar("prompts of validation"))
    for depth, (area, by_user) in zip(
        model.exits, validated(model, rows, trainer.args.device, chosen.batch_tokens, trainer.args.bf16), strict=True
    ):
        print(f"exit {depth}: validation AUC {area:.4f}, user AUC {by_user:.4f}", flush=True)
    model.cpu()
    saved = model.model
    if adapted is not None:
        saved = adapted if args.save_adapter else adapted.merge_and_unload()
    with new_folder(args.out) as folder:
        save_checkpoint(folder, saved, model.exits, model.heads, catalog.info["labels"], tokenizer_of(start), model.projectors)
    print(f"wrote {args.out}", flush=True)


if __name__ == "__main__":
    main()
