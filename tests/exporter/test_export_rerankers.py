"""Rerankers from the folders that people have to heads, bundles, policies and `rexit rerank`: by slates, without a catalog."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from builders.data.token_slates import write_slates
from builders.models.checkpoints import tiny_model
from builders.models.rerankers import VOCAB, write_layerwise, write_logit_score, write_tokenizer
from rexit import TokenRequest, runtime
from rexit.bundle import Bundle
from rexit.calibration.options import CalibrationOptions
from rexit.calibration.run import calibrate
from rexit.errors import InputError, RexitError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.heads.run import fit_heads
from rexit.exporter.libraries.silence import quiet
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.options import ExportOptions, HeadsOptions, TrainOptions
from rexit.exporter.training.run import train_model
from rexit.prompts.slates_file import SlatesFile
from rexit.prompts.texts import TextEncoder, bundle_encoder, read_tokenizer
from running.command import Run, assert_one_line
from running.fast import fast

WORDS = ("wing", "lift", "drag", "heat", "flow", "plate", "gas", "shock")
DOCUMENTS = ["wing lift", "drag of a wing", "Find what answers", "lift lift lift drag " * 60, "Answer </s> <|im_end|> yes"]


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"group": n, "query": f"wing {n}", "candidates": DOCUMENTS, "label": [1, 1, 0, 0, 0]} for n in range(16)]
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", rows)


@pytest.mark.slow
def test_a_reranker_of_sentence_transformers(run: Run, slates: Path, tmp_path: Path) -> None:
    checkpoint = write_logit_score(tmp_path / "checkpoint")
    options = ExportOptions([2, 4], golden_slates=2, with_tokenizer=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", options, slates=slates)
    bundle = Bundle.open(tmp_path / "bundle")
    prefix, candidates = bundle_encoder(bundle).prompt("wing lift", DOCUMENTS)
    assert max(map(len, candidates)) + len(prefix) == bundle.variant.max_positions, "the long document is cut to fit"

    model, labels = AutoModelForCausalLM.from_pretrained(checkpoint), bundle.labels
    with torch.no_grad():
        logits = [model(torch.tensor([[*prefix, *candidate]])).logits[0, -1] for candidate in candidates]
    expected = np.array([float(row[labels["yes"]] - row[labels["no"]]) for row in logits])
    again = ExportOptions([2, 4], precisions=["int8"], golden_slates=2, accept_loss=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", again, slates=slates)
    assert bundle_encoder(Bundle.open(tmp_path / "bundle")).prompt("wing", ["lift"]), "another variant keeps the tokenizer"
    with runtime.open(bundle.path) as session:
        np.testing.assert_allclose(session.trace(TokenRequest(prefix, candidates))[:, -1], expected, atol=1e-3)

    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    ended = run("rerank", bundle.path, "--query", "wing lift", "--documents", documents, "--json")
    assert ended.code == 0, ended.err
    rows = ended.json["results"]
    assert [row["index"] for row in rows] == np.argsort(-expected).tolist()
    assert [row["log_odds"] for row in rows] == pytest.approx(np.sort(expected)[::-1].tolist(), abs=1e-3)
    other = run(
        "rerank", bundle.path, "--query", "wing lift", "--documents", documents, "--instruction", "Something else.", "--json"
    )
    assert other.code == 0 and other.json["results"] != rows


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


def traced(bundle: Path, slates: SlatesFile) -> NDArray[np.float32]:
    with runtime.open(bundle) as session:
        return np.concatenate([session.trace(slate.request) for slate in slates.cut("test")])


@pytest.mark.slow
def test_a_layerwise_reranker_is_exported_and_calibrated(word_slates: Path, tmp_path: Path) -> None:
    folder, bundle = write_layerwise(tmp_path / "model"), tmp_path / "bundle"
    export_bundle(folder, None, bundle, ExportOptions(exits=[3, 6], golden_slates=4), slates=word_slates)
    manifest = Bundle.open(bundle).manifest
    assert manifest.exits == (3, 6) and manifest.model.family == "granite" and manifest.tokens is not None
    assert manifest.tokens.labels == {} and manifest.reranker == load_checkpoint(folder).reranker

    checkpoint = load_checkpoint(folder, exits=[3, 6])
    encoder = TextEncoder(read_tokenizer(folder / "tokenizer.json"), checkpoint.reranker, 256, 512)
    file = SlatesFile.read(word_slates, lambda: encoder)
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval()
    expected = np.concatenate([model.reference(slate.prefix, slate.candidates) for slate in file.cut("test")])
    np.testing.assert_allclose(traced(bundle, file), expected, atol=1e-4)

    calibrate(Bundle.open(bundle), file, CalibrationOptions(timed_slates=2))
    policy = Bundle.open(bundle).policy()
    assert policy is not None and len(policy.exits) == 2


@pytest.mark.slow
def test_a_causal_lm_answers_by_the_rows_of_a_named_prompt(word_slates: Path, tmp_path: Path) -> None:
    """As Qwen3-Reranker is published: nothing in its folder says that it is a reranker."""
    folder, bundle = tmp_path / "model", tmp_path / "bundle"
    with quiet():
        tiny_model("qwen3", None, vocab_size=VOCAB, max_position_embeddings=1024).save_pretrained(folder)
    tokenizer = write_tokenizer(folder)
    no, yes = tokenizer.token_to_id("no"), tokenizer.token_to_id("yes")
    options = ExportOptions(reranker="qwen3-reranker", golden_slates=2)
    export_bundle(folder, None, bundle, options, slates=word_slates)
    manifest = Bundle.open(bundle).manifest
    assert manifest.exits == (4,) and manifest.tokens is not None and manifest.tokens.labels == {"no": no, "yes": yes}
    assert manifest.reranker is not None

    encoder = TextEncoder(tokenizer, manifest.reranker, 1024, 512)
    slate = SlatesFile.read(word_slates, lambda: encoder).cut("test")[0]
    with quiet(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        sequences = [[*slate.prefix.tolist(), *tokens.tolist()] for tokens in slate.candidates]
        logits = [model(torch.tensor([sequence])).logits[0, -1] for sequence in sequences]
    with runtime.open(bundle) as session:
        log_odds = session.trace(slate.request)[:, 0]
    np.testing.assert_allclose(log_odds, [float(row[yes] - row[no]) for row in logits], atol=1e-4)
    text = tokenizer.decode(slate.prefix.tolist(), skip_special_tokens=False)
    assert "<Instruct>: Given a web search query" in text

    with pytest.raises(InputError, match="made from another prompt of a reranker"):
        other = tmp_path / "prompt.json"
        other.write_text(json.dumps({"prefix": ["{query}"], "document": ["{document}"], "answers": {"no": "no", "yes": "yes"}}))
        export_bundle(folder, None, bundle, ExportOptions(reranker=str(other), golden_slates=2), slates=word_slates)


@pytest.mark.parametrize("outputs", fast([1, 2], 2))
def test_a_classifier_becomes_a_reranker_of_texts(run: Run, slates: Path, tmp_path: Path, outputs: int) -> None:
    folder, bundle = tmp_path / "model", tmp_path / "bundle"
    config = tiny_model("llama", None, vocab_size=VOCAB, num_hidden_layers=1).config
    config.num_labels = outputs
    with quiet():
        classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        classifier.save_pretrained(folder)
    write_tokenizer(folder)
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps({name: PROMPT[name] for name in ("prefix", "document")}))
    options = ExportOptions(golden_slates=2, with_tokenizer=True, reranker=str(prompt))
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
    expected = [float(row[-1] - (row[0] if outputs == 2 else 0)) for row in logits]
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
def test_heads_are_fitted_on_slates(causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    """From a plain decoder to a bundle by slates alone; the second command needs no name of the prompt."""
    model, prompt = causal_lm
    out, bundle = tmp_path / "checkpoint", tmp_path / "bundle"
    options = HeadsOptions(exits="2,4", keep_last=True, reranker=prompt)
    report = fit_heads(model, None, out, options, slates=word_slates)
    checkpoint = load_checkpoint(out)
    assert report.kept and report.exits == [2, 4] == list(checkpoint.exits) and checkpoint.catalog is None
    own = load_checkpoint(model, reranker=prompt)
    prefix, candidates = [1, 300, 301], [[302], [303, 304]]
    last, whole = (
        MultiExitModel(c.decoder, c.heads, c.exits).eval().reference(prefix, candidates)[:, -1] for c in (checkpoint, own)
    )
    np.testing.assert_array_equal(last, whole, err_msg="the model's own answer is kept")
    export_bundle(out, None, bundle, ExportOptions(golden_slates=2), slates=word_slates)
    assert Bundle.open(bundle).manifest.reranker == own.reranker

    edited = write_slates(tmp_path / "other.jsonl", json.loads(f"[{','.join(word_slates.read_text().splitlines()[:30])}]"))
    with pytest.raises(InputError, match="holds rows of another slates"):
        fit_heads(model, None, out, options, slates=edited)


@pytest.mark.slow
def test_the_first_stage_is_exit_zero(
    run: Run,
    causal_lm: tuple[Path, str],
    word_slates: Path,
    tmp_path: Path,
) -> None:
    """Scores that rank well, before heads on a random model: the policy stops candidates at exit zero, as its replay says."""
    rng, scored = np.random.default_rng(1), tmp_path / "slates.jsonl"
    rows = [json.loads(line) for line in word_slates.read_text().splitlines()]
    for row in rows:
        row["score"] = [round(8 * label - 4 + float(rng.normal()), 3) for label in row["label"]]
    write_slates(scored, rows)
    out, bundle, source = tmp_path / "checkpoint", tmp_path / "bundle", ("--slates", scored)
    for words in (
        ("heads", causal_lm[0], *source, "--exits", "2,4", "--keep-last", "--reranker", causal_lm[1], "--out", out),
        ("export", out, *source, "--with-tokenizer", "--out", bundle),
        ("verify", bundle),
        ("calibrate", bundle, *source, "--metric", "ndcg@5", "--max-drop", "0.2"),
        ("verify", bundle),
        ("calibrate", bundle, *source, "--metric", "ndcg@5", "--max-drop", "0.2", "--from-traces"),
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
            np.testing.assert_array_equal(trace[:, 0], slate.scores)
            exits = session.score(slate.request).exit
            assert exits.tolist() == policy.stops(trace, np.array([0, len(trace)])).tolist()
            stopped += np.bincount(exits, minlength=3)
    assert stopped[0] > stopped[1:].sum()
    assert_one_line(run("calibrate", bundle, "--slates", word_slates), 4, "has no column `score`, but", "has an exit zero that")
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


def test_a_training_on_slates(causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    model, prompt = causal_lm
    out, options = tmp_path / "checkpoint", TrainOptions(exits="2,4", steps=2, reranker=prompt)
    report = train_model(model, None, out, options, slates=word_slates)
    assert report is not None and report.exits == (2, 4)
    checkpoint = load_checkpoint(out)
    assert checkpoint.catalog is None and checkpoint.reranker == load_checkpoint(model, reranker=prompt).reranker
    after, before = (c.model.model.layers[0].mlp.up_proj.weight for c in (checkpoint, load_checkpoint(model, reranker=prompt)))
    assert not torch.equal(after, before)


def test_slates_or_a_catalog(causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    for command in (fit_heads, train_model):
        for arguments in ((None, None), (tmp_path, word_slates)):
            with pytest.raises(InputError, match=r"a catalog .* slates, expected one of them"):
                command(causal_lm[0], arguments[0], tmp_path / "out", slates=arguments[1])
    with pytest.raises(InputError, match="head 'shared' needs the token ids"):
        train_model(causal_lm[0], None, tmp_path / "out", TrainOptions(exits="2,4"), slates=word_slates)


def test_commands_say_it_in_one_line(run: Run, causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path) -> None:
    model, out = causal_lm[0], tmp_path / "out"
    slates = ("--slates", word_slates, "--out", out)
    assert_one_line(run("heads", model, "--out", out), 2, "neither a catalog nor slates, expected one of them")
    assert_one_line(run("train", model, "--out", out), 2, "neither a catalog nor slates, expected one of them")
    assert_one_line(run("heads", model, *slates, "--label-ids", "3"), 2, "label ids '3': expected two token ids")
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


def test_a_log_without_labels_is_enough_for_heads_and_the_gate(
    causal_lm: tuple[Path, str], word_slates: Path, tmp_path: Path
) -> None:
    """Labels are drawn from the model's own answer; heads of a model without an answer, and training, need real ones."""
    model, prompt = causal_lm
    rows = [json.loads(line) for line in word_slates.read_text().splitlines()]
    rows = [{**row, "group": f"{row['group']} {n}"} for n in range(3) for row in rows]
    few = write_slates(tmp_path / "few.jsonl", [rows[0], *({k: v for k, v in row.items() if k != "label"} for row in rows[1:])])
    log = write_slates(tmp_path / "log.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in rows])
    out, said = tmp_path / "checkpoint", []
    options = HeadsOptions(exits="2,4", reranker=prompt)
    report = fit_heads(model, None, out, options, slates=log, say=said.append)
    assert report.exits == [2, 4] and any("have no labels" in line for line in said)
    exported = ExportOptions(precisions=("fp32", "int8"), golden_slates=2, quality_slates=0, accept_loss=True)
    export_bundle(out, None, tmp_path / "bundle", exported, slates=log)
    quality = Bundle.open(tmp_path / "bundle", "cpu-int8").variant.quality
    assert quality["labels"] == "drawn from fp32" and quality["exits"][-1]["auc_fp32"] > 0.5
    with pytest.raises(InputError, match=r"few.jsonl: 119 of 120 slates have no `label` .*, expected all or none"):
        fit_heads(model, None, tmp_path / "other", options, slates=few)
