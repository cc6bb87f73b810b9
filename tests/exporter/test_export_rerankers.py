"""Rerankers from the folders that people have to heads, bundles, policies and `rexit rerank`: by slates, without a catalog."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from builders.data.token_slates import write_slates
from builders.models.checkpoints import tiny_model
from builders.models.rerankers import VOCAB, write_tokenizer
from rexit import runtime
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import InputError, RexitError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.heads.frozen_heads import fit_heads
from rexit.exporter.libraries import quiet
from rexit.exporter.options import ExportOptions, HeadsOptions, TrainOptions
from rexit.exporter.training.fine_tuning import train_model
from rexit.format.bundle import Bundle
from running.command import Run, assert_one_line

WORDS = ("wing", "lift", "drag", "heat", "flow", "plate", "gas", "shock")
DOCUMENTS = ["wing lift", "drag of a wing", "Find what answers", "lift lift lift drag " * 60, "Answer </s> <|im_end|> yes"]


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"group": n, "query": f"wing {n}", "candidates": DOCUMENTS, "label": [1, 1, 0, 0, 0]} for n in range(16)]
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", rows)


@pytest.fixture(scope="module")
def word_slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries of one word; the documents that have it are relevant."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(40):
        word = WORDS[n % len(WORDS)]
        documents = [" ".join(rng.choice(WORDS, 5)) for _ in range(6)]
        relevant = [int(word in document) for document in documents]
        rows.append({"group": f"q{n}", "query": f"{word}?", "candidates": documents, "label": relevant})
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", rows)


@pytest.mark.medium
def test_a_classifier_becomes_a_reranker_of_texts(run: Run, slates: Path, tmp_path: Path) -> None:
    folder, bundle = tmp_path / "model", tmp_path / "bundle"
    config = tiny_model("llama", None, vocab_size=VOCAB, num_hidden_layers=1).config
    config.num_labels = 2
    with quiet():
        classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        classifier.save_pretrained(folder)
    write_tokenizer(folder)
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps({name: PROMPT[name] for name in ("prefix", "document")}))
    options = ExportOptions(golden_slates=2, with_tokenizer=True, reranker=str(prompt))
    export_bundle(folder, None, bundle, options, slates=slates)
    again = replace(options, precisions=["int8"], accept_loss=True, with_tokenizer=False)
    export_bundle(folder, None, bundle, again, slates=slates)
    prompt.write_text(json.dumps({"prefix": ["{query}"], "document": PROMPT["document"]}))
    with pytest.raises(InputError, match="made from another prompt of a reranker"):
        export_bundle(folder, None, bundle, options, slates=slates)
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS[:3]))
    ended = run("rerank", bundle, "--query", "wing lift", "--documents", documents, "--json")
    assert ended.code == 0, ended.err

    prefix, candidates = bundle_encoder(Bundle.open(bundle)).prompt("wing lift", DOCUMENTS[:3])
    with torch.no_grad():
        states = [
            classifier.model(torch.tensor([[*prefix, *row]]), use_cache=False).last_hidden_state[0, -1] for row in candidates
        ]
        logits = [classifier.score(state) for state in states]
    expected = [float(row[1] - row[0]) for row in logits]
    results = {row["index"]: row["log_odds"] for row in ended.json["results"]}
    assert [results[n] for n in range(3)] == pytest.approx(expected, abs=1e-4)


PROMPT = {"prefix": ["<s>", "{query}\n"], "document": ["{document}\n", "</s>"], "answers": {"no": "no", "yes": "yes"}}


@pytest.fixture(scope="module")
def causal_lm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A plain decoder's folder, and the file of its prompt."""
    folder = tmp_path_factory.mktemp("models") / "model"
    with quiet():
        tiny_model("llama", None, vocab_size=VOCAB).save_pretrained(folder)
    write_tokenizer(folder)
    prompt = folder.parent / "prompt.json"
    prompt.write_text(json.dumps(PROMPT))
    return folder, str(prompt)


@pytest.mark.slow
def test_the_first_stage_is_exit_zero(
    run: Run,
    causal_lm: tuple[Path, str],
    word_slates: Path,
    tmp_path: Path,
) -> None:
    """Scores that rank well, before heads on a random model: the policy stops candidates at exit zero, as its replay says. Seven
    queries with a value certify, too few for a limit of 0.2."""
    rng, scored = np.random.default_rng(1), tmp_path / "slates.jsonl"
    rows = [json.loads(line) for line in word_slates.read_text().splitlines()]
    for row in rows:
        row["score.bm25"] = [round(8 * label - 4 + float(rng.normal()), 3) for label in row["label"]]
    write_slates(scored, rows)
    out, bundle, source = tmp_path / "checkpoint", tmp_path / "bundle", ("--slates", scored)
    for words in (
        ("heads", causal_lm[0], *source, "--exits", "2,4", "--keep-last", "--reranker", causal_lm[1], "--out", out),
        ("export", out, *source, "--with-tokenizer", "--out", bundle),
        ("verify", bundle),
        ("calibrate", bundle, *source, "--metric", "ndcg@5", "--max-drop", "0.45"),
        ("verify", bundle),
        ("calibrate", bundle, *source, "--metric", "ndcg@5", "--max-drop", "0.45", "--from-traces"),
        ("bench", bundle, "--slate", 7, "--requests", 2),
    ):
        ended = run(*words)
        assert ended.code == 0, ended.err
    opened = Bundle.open(bundle)
    policy, encoder = opened.policy(), bundle_encoder(opened)
    assert opened.manifest.exits == (0, 2, 4) and policy is not None
    stopped = np.zeros(3, np.int64)
    with runtime.open(bundle) as session:
        for slate in SlatesFile.read(scored, lambda: encoder).cut("test"):
            trace = session.trace(slate.request)
            likely = slate.scores["bm25"] > 0
            assert likely.all() or not likely.any() or trace[likely, 0].min() > trace[~likely, 0].max(), "kept apart"
            exits = session.score(slate.request).exit
            assert exits.tolist() == policy.stops(trace, np.array([0, len(trace)])).tolist()
            stopped += np.bincount(exits, minlength=3)
    assert stopped[0] > stopped[1:].sum()
    assert_one_line(run("calibrate", bundle, "--slates", word_slates), 4, "columns of scores are none, but", "reads score.bm25")
    assert_one_line(run("export", out, "--slates", word_slates, "--out", bundle), 2, "another choice of exits")


def test_heads_are_not_fitted_on_rows_of_other_prompts_or_labels(
    causal_lm: tuple[Path, str], slates: Path, tmp_path: Path
) -> None:
    """Rows of one prompt, then whatever changes what the model reads or answers."""
    model, _ = causal_lm
    prompt = tmp_path / "prompt.json"

    def fit(changes: dict[str, object]) -> None:
        prompt.write_text(json.dumps(PROMPT | changes))
        options = HeadsOptions(exits="2,4", reranker=str(prompt))
        fit_heads(model, None, tmp_path / "checkpoint", options, slates=slates)

    fit({})
    for changes, message in (
        ({"prefix": ["{query}\n"]}, "holds rows of another training prompts"),
        ({"document": ["{document}"]}, "holds rows of another training prompts"),
        ({"answers": {"no": "no", "yes": "s"}}, "holds rows of another label ids"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            fit(changes)
        assert "\n" not in str(refused.value)
    fit({})


@pytest.mark.medium
def test_a_training_on_slates(causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    model, prompt = causal_lm
    out, options = tmp_path / "checkpoint", TrainOptions(exits="2,4", steps=2, reranker=prompt)
    report = train_model(model, None, out, options, slates=word_slates)
    assert report is not None and report.exits == (2, 4)
    checkpoint = load_checkpoint(out)
    assert checkpoint.catalog is None and checkpoint.reranker == load_checkpoint(model, reranker=prompt).reranker
    after, before = (c.model.model.layers[0].mlp.up_proj.weight for c in (checkpoint, load_checkpoint(model, reranker=prompt)))
    assert not torch.equal(after, before)
    with pytest.raises(InputError, match="head 'shared' needs the token ids"):
        train_model(model, None, tmp_path / "other", TrainOptions(exits="2,4"), slates=word_slates)


def test_commands_say_it_in_one_line(run: Run, causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    model, out = causal_lm[0], tmp_path / "out"
    slates = ("--slates", word_slates, "--out", out)
    assert_one_line(run("heads", model, "--out", out), 2, "neither a catalog nor slates, expected one of them")
    assert_one_line(run("train", model, "--out", out), 2, "neither a catalog nor slates, expected one of them")
    assert_one_line(run("heads", model, *slates, "--reranker", "3"), 2, "--reranker 3: expected two token ids")
    catalog = ("--catalog", tmp_path, "--out", out)
    assert_one_line(
        run("export", model, *catalog, "--reranker", "3,4"), 2, "token ids are for --slates: a catalog has its labels"
    )
    assert_one_line(run("export", model, *slates, "--reranker", "bert"), 2, "--reranker bert: expected one of qwen3-reranker")
    for command in ("heads", "train", "export"):
        assert_one_line(run(command, model, "--slates", tmp_path / "none.jsonl", "--out", out), 2, "none.jsonl: no such file")
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "--reranker .*: expected one of qwen3-reranker, mxbai-rerank-v2, or a JSON file"),
        ("{", "not valid JSON"),
        ('{"prefix": ["{query}"], "document": ["{document}"]}', "has no answers of its own, expected a folder, or `answers`"),
        ('{"prefix": ["{query}"], "document": ["{document}"], "answers": {"no": "0"}}', "`answers` is .*, expected the texts of"),
        ('{"prefix": ["{query}"], "document": ["x"], "answers": {}}', r"document: is \['x'\], expected \{document\} once"),
        (
            '{"prefix": ["{query}"], "document": ["{document}"], "answers": {"no": "no", "yes": "yes no"}}',
            "'yes no' of .* tokens",
        ),
    ],
)
def test_a_bad_prompt_is_one_line(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "prompt.json"
    if content is not None:
        path.write_text(content)
    with quiet():
        tiny_model("llama", None, vocab_size=VOCAB).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(RexitError, match=problem) as caught:
        load_checkpoint(tmp_path, reranker=str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.medium
def test_a_log_without_labels_is_enough_for_heads_and_the_gate(
    causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path
) -> None:
    """Heads learn the model's own answer, the gate compares rankings."""
    model, prompt = causal_lm
    rows = [json.loads(line) for line in word_slates.read_text().splitlines()]
    rows = [{**row, "group": f"{row['group']} {n}"} for n in range(5) for row in rows]  # 24 choose
    few = write_slates(tmp_path / "few.jsonl", [rows[0], *({k: v for k, v in row.items() if k != "label"} for row in rows[1:])])
    log = write_slates(tmp_path / "log.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in rows])
    out, said = tmp_path / "checkpoint", []
    options = HeadsOptions(exits="2,4", reranker=prompt)
    report = fit_heads(model, None, out, options, slates=log, say=said.append)
    assert report.exits == [2, 4] and any("No labels: heads learn the model's own answer" in line for line in said)
    assert report.own_is_last and report.own["expected-ndcg@10"][0] == 1, "the answer is what is held"
    exported = ExportOptions(precisions=("fp32", "int8"), golden_slates=2, quality_slates=0, accept_loss=True)
    export_bundle(out, None, tmp_path / "bundle", exported, slates=log)
    quality = Bundle.open(tmp_path / "bundle", "cpu-int8").variant.quality
    assert not quality["labelled"] and [row["auc"] for row in quality["exits"]] == [None, None]
    assert quality["exits"][-1]["ndcg_change"] is not None
    with pytest.raises(InputError, match=r"few.jsonl: the \w+ split is empty, .* one of the 1 groups with labels"):
        fit_heads(model, None, tmp_path / "other", options, slates=few)
