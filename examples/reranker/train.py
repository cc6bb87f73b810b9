"""Makes a cross-encoder of a plain encoder, on the training split of a file of slates.

    python examples/reranker/train.py MODEL OUT --slates slates.jsonl [--steps 400] [--negatives 7] …

MODEL is a folder of transformers' (`examples/finetune/fetch.py --model minilm` fetches one). OUT becomes the same with one label,
for sentence-transformers' CrossEncoder and for `rexit heads`. A step takes a relevant candidate of each of two queries and
others. The loss is the cross entropy of the relevant one among them, plus that of every label by itself, so that scores are
log-odds. A state is written to OUT.state every two minutes: the same command resumes from it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rexit.bundle.writer import new_folder
from rexit.process.scripts import script

WARM_UP, SAVE_SECONDS, REPORT = 0.05, 120, 20
"""Share of the steps with a rising learning rate; seconds between two states; steps between two lines."""


def training_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the training slates with both kinds of labels."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("split") == "train" and 0 < sum(map(bool, row["label"])) < len(row["label"])]
    if not rows:
        sys.exit(f"train: {path}: has no slate with `split` train and both kinds of labels")
    return rows


def sample(row: dict[str, Any], rows: Sequence[dict[str, Any]], negatives: int, rng: random.Random) -> list[str]:
    """Returns a relevant candidate, then others: half of them of this query, and half of any query, by which a model that never
    read pairs learns first."""
    relevant = [text for text, label in zip(row["candidates"], row["label"], strict=True) if label]
    others = [text for text, label in zip(row["candidates"], row["label"], strict=True) if not label]
    hard = rng.sample(others, min(negatives - negatives // 2, len(others)))
    return [rng.choice(relevant), *hard, *(rng.choice(rng.choice(rows)["candidates"]) for _ in range(negatives - len(hard)))]


def rate(share: float) -> float:
    """Returns the learning rate's factor after a share of the steps."""
    return min(share / WARM_UP, (1 - share) / (1 - WARM_UP))


@script
def main(
    model_path: Path, out: Path, slates: Path, steps: int, negatives: int, queries: int, max_tokens: int, learning_rate: float
) -> None:
    if out.exists():
        sys.exit(f"train: {out} exists")
    rows, rng = training_rows(slates), random.Random(0)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # drawing it takes longer than the layers
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, **no_dropout).train()
    model.get_input_embeddings().weight.requires_grad_(False)
    learning = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learning, learning_rate)
    state_path, step, spent = Path(f"{out}.state"), 0, 0.0
    losses: list[float] = []
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        rng.seed(step)
        print(f"resumes after {step} steps and {spent / 60:.1f} minutes", flush=True)
    order: list[int] = []
    saved = spent
    while step < steps:
        began = time.monotonic()
        if len(order) < queries:
            order = rng.sample(range(len(rows)), len(rows))
        batch = [rows[order.pop()] for _ in range(queries)]
        texts = [(row["query"], text) for row in batch for text in sample(row, rows, negatives, rng)]
        inputs = tokenizer(texts, padding=True, truncation="only_second", max_length=max_tokens, return_tensors="pt")
        optimizer.param_groups[0]["lr"] = learning_rate * rate((step + 1) / (steps + 1))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs).logits[:, 0]
        parts = logits.float().view(queries, -1)
        relevant = torch.zeros_like(parts)
        relevant[:, 0] = 1
        loss = F.cross_entropy(parts, relevant) + F.binary_cross_entropy_with_logits(parts, relevant)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, spent = step + 1, spent + time.monotonic() - began
        losses.append(loss.item())
        if step % REPORT == 0:
            print(f"step {step}, {spent / 60:.1f} minutes, loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()
        if spent - saved > SAVE_SECONDS:
            saved = spent
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "spent": spent}, f"{state_path}.new")
            os.replace(f"{state_path}.new", state_path)
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    state_path.unlink(missing_ok=True)
    print(f"{step} steps of {queries} queries with {1 + negatives} candidates, in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slates", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()
    main(args.model, args.out, args.slates, args.steps, args.negatives, args.queries, args.max_tokens, args.learning_rate)
