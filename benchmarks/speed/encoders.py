"""Pairs of one query, scored in turn by rexit and what else reranks with the same encoder: times, ratios, and agreement.

    make bench-peers                                              once
    python benchmarks/speed/encoders.py CROSS_ENCODER --slates SLATES [--bundle BUNDLE] [--rounds 9] [--json]
    python benchmarks/speed/encoders.py CROSS_ENCODER --slates SLATES --shape ettin-68m [--only st_onnx_int8]

CROSS_ENCODER is a folder of sentence-transformers or transformers, SLATES a file of `examples/reranker/scifact.py`: 100 documents
for a claim of the test split, pairs cut at 250 tokens, texts in and log-odds out, so tokenization is part of all times. --bundle
gives a calibrated bundle of the model, whose policy is measured too. --shape gives random weights of another model's sizes, with
CROSS_ENCODER's tokenizer; --busy 1 keeps another process computing meanwhile. Rounds and ratios are slate.py's, and log-odds are
compared with PyTorch's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Contender
from processes import Plan, loaded
from rich.console import Console
from rounds import asked_in_turn
from slate import WIDTH, show

from rexit.errors import script
from rexit.upkeep.measure import machine

PAIRS, MAX_LENGTH = 100, 250

SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "bge-reranker-base": (
        "xlm-roberta",
        {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 1},
    ),
    "ettin-17m": ("modernbert", {"num_hidden_layers": 7, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 384}),
    "ettin-68m": (
        "modernbert",
        {"num_hidden_layers": 19, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 768},
    ),
}
"""Families and sizes of the models that these names stand for."""
SENTENCE_TRANSFORMERS = {
    "st_torch": ("openvino", {"backend": "torch"}, "fp32"),
    "st_onnx": ("optimum", {"backend": "onnx"}, "fp32"),
    "st_onnx_int8": ("optimum", {"backend": "onnx", "file": "model_qint8_avx512_vnni.onnx"}, "int8"),
    "st_openvino": ("openvino", {"backend": "openvino"}, "bf16"),
    "st_openvino_static_int8": (
        "openvino",
        {"backend": "openvino", "file": "openvino_model_qint8_quantized.xml", "pairs": ""},
        "int8",
    ),
    "st_openvino_int8_weights": ("openvino", {"backend": "openvino", "file": "openvino_model_int8_weights.xml"}, "int8"),
}
"""Environment of peers.sh, setup, and precision of each peer. `pairs` is filled in: pairs of the training split."""
CALIBRATION_PAIRS = 300  # as many as sentence-transformers takes


def write_model(source: Path, shape: str | None, folder: Path) -> Path:
    """The cross-encoder with pairs cut at MAX_LENGTH, or random weights of a shape with its tokenizer. Returns the folder."""
    if folder.exists():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=MAX_LENGTH)
    if shape is None:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("exit*"))  # of `rexit train`; peers have the own head alone
    else:
        family, sizes = SHAPES[shape]
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
        config = AutoConfig.for_model(
            family, vocab_size=len(tokenizer), max_position_embeddings=514, num_labels=1, **sizes, **ids
        )
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # these families have no token types
    tokenizer.save_pretrained(folder)
    return folder


def write_bundle(model: Path, slates: Path, out: Path, claims: int) -> Path:
    """A bundle of the model with three precisions and no gate, prepared on so many claims of two splits. Returns the folder."""
    if not out.exists():
        from rexit.exporter.export import export_bundle
        from rexit.exporter.options import ExportOptions

        few = out.with_name("slates.jsonl")
        rows = [json.loads(line) for line in slates.read_text().splitlines()]
        chosen = [row for split in ("train", "validation") for row in [row for row in rows if row["split"] == split][:claims]]
        names = ("group", "split", "query", "candidates", "label")
        few.write_text("".join(json.dumps({name: row[name] for name in names}) + "\n" for row in chosen))
        options = ExportOptions(
            precisions=("fp32", "bf16", "int8"), golden_slates=2, quality_slates=2, accept_loss=True, with_tokenizer=True
        )
        export_bundle(model, None, out, options, slates=few)
    return out


def write_pairs(slates: Path, folder: Path) -> Path:
    """Pairs of a query and a document of the training split, in random order, as a data set of `datasets`. Returns the folder."""
    rows = [row for line in slates.read_text().splitlines() if (row := json.loads(line))["split"] == "train"]
    pairs = [[row["query"], document] for row in rows for document in row["candidates"]]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:CALIBRATION_PAIRS]
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"pair": pairs[n]}) + "\n" for n in chosen))
    return folder


def requests(slates: Path) -> Iterator[dict[str, Any]]:
    """Claims of the test split in random order, each with its own documents and then others', with the lowest score."""
    rows = [row for line in slates.read_text().splitlines() if (row := json.loads(line))["split"] == "test"]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for n in order:
        own, scores = list(rows[n]["candidates"]), list(rows[n].get("score.bm25", [0.0] * len(rows[n]["candidates"])))
        others = [document for row in (*rows[n + 1 :], *rows[:n]) for document in row["candidates"] if document not in own]
        documents = [*own, *others[: PAIRS - len(own)]][:PAIRS]
        scores = [*scores, *[min(scores)] * (len(documents) - len(own))][:PAIRS]
        yield {"query": rows[n]["query"], "candidates": documents, "scores": {"bm25": scores}}
    sys.exit(f"encoders.py: all {len(rows)} claims have been asked; expected fewer --rounds")


def plans(
    peers: Path, model: Path, bundle: Path, policy: Path | None, pairs: Path, correlation: float
) -> tuple[dict[str, Plan], list[Contender], list[Contender]]:
    """How all are started, and who is compared with whom."""
    started: dict[str, Plan] = {}
    ours, others = [], []
    for precision in ("fp32", "bf16", "int8"):
        started[precision] = (Path(sys.executable), "our_encoder.py", {"bundle": str(bundle), "variant": f"cpu-{precision}"})
        ours.append(
            Contender(f"{precision}_full", precision, "full", weights=precision, tolerance=np.inf, correlation=correlation)
        )
    if policy is not None:
        started["policy"] = (Path(sys.executable), "our_encoder.py", {"bundle": str(policy), "variant": "cpu-int8"})
        ours.append(Contender("int8_policy", "policy", "policy", weights="int8", tolerance=None))
    for name, (environment, setup, precision) in SENTENCE_TRANSFORMERS.items():
        setup = {"model": str(model), **setup, **({"pairs": str(pairs)} if "pairs" in setup else {})}
        started[name] = (peers / environment / "bin/python", "cross_encoder.py", setup)
        others.append(Contender(name, name, "", weights=precision, tolerance=np.inf, correlation=correlation))
    return started, ours, others


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps so many other processes computing."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cross_encoder", type=Path)
    parser.add_argument("--slates", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/encoders"))
    parser.add_argument("--only", help="the peers to ask, separated by commas; all by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute meanwhile (0)")
    parser.add_argument("--prepare", action="store_true", help="write the models and bundles, and measure nothing")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    work = args.work / (args.shape or args.cross_encoder.name)
    work.mkdir(parents=True, exist_ok=True)
    model = write_model(args.cross_encoder, args.shape, work / "model")
    bundle = write_bundle(model, args.slates, work / "bundle", claims=16 if args.shape is None else 4)
    pairs = write_pairs(args.slates, work / "pairs")
    correlation = 0.9 if args.shape is None else 0.5  # random weights give all documents nearly the same log-odds
    started, ours, others = plans(args.peers, model.absolute(), bundle, args.bundle, pairs.absolute(), correlation)
    skipped = {name for name in SENTENCE_TRANSFORMERS if args.only and name not in args.only.split(",")}
    started = {name: plan for name, plan in started.items() if name not in skipped}
    with loaded(started, args.threads, work, {contender.peer for contender in ours}) as (running, left_out):
        if args.prepare:
            return
        others = [contender for contender in others if contender.peer in running]
        draw = requests(args.slates)
        names = [[contender.name for contender in side] for side in (ours, others)]
        reference = "st_torch" if "st_torch" in running else "fp32_full"
        with busy(args.busy):
            case = asked_in_turn(
                running, [*ours, *others], (names[0], names[1]), lambda: next(draw), work.name, False, args.rounds, reference
            )
        about = {name: peer.about for name, peer in running.items()}
    result = {
        "cases": {f"{work.name}, {PAIRS} pairs": case},
        "left_out": left_out | dict.fromkeys(sorted(skipped), "not asked for"),
        "threads": args.threads,
        "busy": args.busy,
        "machine": machine(),
        "about": about,
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result, Console(highlight=False, width=WIDTH))
    if case["disagreements"]:
        sys.exit("\n".join(["encoders.py: not the same computation", *case["disagreements"]]))


if __name__ == "__main__":
    main()
