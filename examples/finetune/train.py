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
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import softened
from learner import Collator, Learner
from rich.progress import track
from settings import SETTINGS, Settings, check_same
from starting_model import make_model
from trainer import MultiExitTrainer, Progress, arguments, last_state
from transformers import AutoTokenizer, PrinterCallback, Trainer

from rexit.bundle import Catalog
from rexit.bundle.files import digest, write_json
from rexit.bundle.writer import new_folder
from rexit.exporter.model.checkpoint import Checkpoint, save_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Rows, batches, packed_rows, with_vectors
from rexit.exporter.quiet import log
from rexit.ranking import auc, user_auc
from rexit.scripts import script
from rexit.slates import SIZE


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True, help="that `rexit index` wrote with this model's tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--save-adapter", action="store_true", help="with --lora: save the additions alone; merged otherwise")
    Settings.add_options(parser)
    args = parser.parse_args()
    log.set_verbosity_error()
    run(args)


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
        labels, tokenizer = catalog.info["labels"], tokenizer_of(start)
        save_checkpoint(folder, saved, model.exits, model.heads, labels, catalog.traits, tokenizer, model.projectors)
    print(f"wrote {args.out}", flush=True)


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


def bar(what: str) -> Any:
    return partial(track, description=what, disable=not sys.stderr.isatty())


def tokenizer_of(start: Checkpoint) -> Any:
    """The model's own tokenizer, to be saved with it; None if it has none."""
    try:
        return AutoTokenizer.from_pretrained(start.path)
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main()
