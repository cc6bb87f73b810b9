"""Rerankers in the folders that other projects publish: their log-odds at every exit, their prompts, and damage in one line."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, GraniteConfig, GraniteForCausalLM

from builders.bundles.bundle_files import edit_json
from builders.models.checkpoints import tiny_model
from builders.models.encoders import write_dense_score
from builders.models.rerankers import DEPTH, START, VOCAB, write_layerwise, write_logit_score, write_tokenizer
from rexit.data.texts import TextEncoder, read_tokenizer
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rexit.exporter.checkpoints.rerankers import KNOWN
from rexit.exporter.heads.frozen_heads import load_base
from rexit.exporter.libraries import quiet
from rexit.exporter.model.encoder import Encoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.format.bundle import RerankerPrompt
from rexit.format.bundle.files import typed

PARITY = 1e-5
PREFIX, CANDIDATES = [1, 40, 41, 300, 7], [[50, 60, 70], [2], [999, 1, 8, 9]]


@pytest.fixture(scope="module")
def layerwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layerwise(tmp_path_factory.mktemp("rerankers") / "layerwise")


@pytest.fixture(scope="module")
def logit_score(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_logit_score(tmp_path_factory.mktemp("rerankers") / "logit_score")


def answers(checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Log-odds [candidates, exits], packed behind the prefix."""
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval()
    return np.asarray(model.reference(PREFIX, CANDIDATES))


def layerwise_answers(folder: Path) -> NDArray[np.float32]:
    """By transformers' Granite, one candidate after another, with a head for each depth."""
    minicpm, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    depth = minicpm["num_hidden_layers"]
    config = GraniteConfig(
        **{key: value for key, value in minicpm.items() if key.startswith(("num_", "hidden_", "vocab", "inter", "rms", "max_"))},
        embedding_multiplier=minicpm["scale_emb"],
        residual_multiplier=minicpm["scale_depth"] / math.sqrt(depth),
        attention_multiplier=1 / math.sqrt(minicpm["hidden_size"] / minicpm["num_attention_heads"]),
        tie_word_embeddings=True,
    )
    model = GraniteForCausalLM._from_config(config, attn_implementation="eager").eval()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if "lm_head" not in name}, strict=False)
    log_odds = []
    for candidate in CANDIDATES:
        with torch.no_grad():
            states = model.model(torch.tensor([PREFIX + candidate]), output_hidden_states=True).hidden_states
            normed = [*(model.model.norm(state) for state in states[START:-1]), states[-1]]
        rows = [weights[f"lm_head.{k}.linear_head.weight"] for k in range(depth + 1 - START)]
        log_odds.append([float(state[0, -1] @ row[0]) for state, row in zip(normed, rows, strict=True)])
    return np.array(log_odds, np.float32)


def test_layerwise_answers_are_granites(layerwise: Path) -> None:
    checkpoint = load_checkpoint(layerwise)
    expected = layerwise_answers(layerwise)
    assert checkpoint.exits == tuple(range(START, DEPTH + 1)) and checkpoint.head == "own"
    assert np.ptp(expected, axis=0).min() > 0.1, "the candidates' log-odds differ"
    np.testing.assert_allclose(answers(checkpoint), expected, atol=PARITY)


def test_cut_layers_keep_the_uncut_models_residual_multiplier(layerwise: Path) -> None:
    np.testing.assert_allclose(
        answers(load_checkpoint(layerwise, exits=[3, 5])), layerwise_answers(layerwise)[:, [0, 2]], atol=PARITY
    )


def test_one_head_for_all_layers(tmp_path: Path) -> None:
    single, many = (write_layerwise(tmp_path / name, head_multi=name == "many") for name in ("single", "many"))
    weights = load_file(single / "model.safetensors")
    checkpoint = load_checkpoint(single)
    assert checkpoint.exits == load_checkpoint(many).exits
    row = weights["lm_head.linear_head.weight"][0]
    for projection in checkpoint.heads.projections:
        torch.testing.assert_close(projection.weight[1] - projection.weight[0], row)


def test_layerwise_prompt(layerwise: Path) -> None:
    """What FlagEmbedding puts together: <s> A: query \\n B: passage \\n prompt, each tokenized on its own."""
    prompt = load_checkpoint(layerwise).reranker
    assert prompt is not None
    tokenizer = read_tokenizer(layerwise / "tokenizer.json")
    prefix, (candidate,) = TextEncoder(tokenizer, prompt, 999, 999).prompt("why?", ["so."], "Yes?")
    parts = ["A: why?", "\n", "B: so.", "\n", "Yes?"]
    query, *rest = (tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
    assert prefix == [tokenizer.token_to_id("<s>"), *query] and candidate == list(itertools.chain(*rest))
    assert prompt.instruction is not None and prompt.instruction.startswith("Given a query A and a passage B")


def logit_score_answers(folder: Path, rows: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
    """By transformers' model: `rows` of the logits at the last token, one candidate after another."""
    with quiet(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        return np.array([[float(rows(model(torch.tensor([PREFIX + row])).logits[0, -1]))] for row in CANDIDATES], np.float32)


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_logit_score_of_two_tokens(tmp_path: Path, family: str) -> None:
    folder = write_logit_score(tmp_path / "model", family=family)
    score = json.loads((folder / "1_LogitScore" / "config.json").read_text())
    yes, no = score["true_token_id"], score["false_token_id"]
    checkpoint = load_checkpoint(folder)
    assert checkpoint.exits == (4,) and checkpoint.head == "shared" and checkpoint.labels == {"no": no, "yes": yes}
    np.testing.assert_allclose(
        answers(checkpoint), logit_score_answers(folder, lambda logits: logits[yes] - logits[no]), atol=PARITY
    )


def test_logit_score_of_one_token(tmp_path: Path) -> None:
    folder = write_logit_score(tmp_path / "model", false_token=False)
    yes = json.loads((folder / "1_LogitScore" / "config.json").read_text())["true_token_id"]
    checkpoint = load_checkpoint(folder, exits=[2, 4])
    assert checkpoint.labels == {"yes": yes}
    np.testing.assert_allclose(answers(checkpoint)[:, 1:], logit_score_answers(folder, lambda logits: logits[yes]), atol=PARITY)


def test_a_causal_lm_answers_by_the_tokens_of_a_named_prompt(tmp_path: Path) -> None:
    """As Qwen3-Reranker is published: nothing in its folder says that it is a reranker."""
    with quiet():
        tiny_model("qwen3", None, vocab_size=VOCAB).save_pretrained(tmp_path)
    tokenizer = write_tokenizer(tmp_path)
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    checkpoint = load_checkpoint(tmp_path, reranker="qwen3-reranker")
    assert checkpoint.exits == (4,) and checkpoint.labels == {"no": no, "yes": yes}
    expected = logit_score_answers(tmp_path, lambda logits: logits[yes] - logits[no])
    np.testing.assert_allclose(answers(checkpoint), expected, atol=PARITY)


def test_chat_template_is_divided_without_other_tokens(logit_score: Path) -> None:
    prompt = load_checkpoint(logit_score).reranker
    assert prompt is not None and prompt.instruction == "Find what answers."
    assert prompt.prefix[-1] == "user\n<Instruct>: {instruction}\n<Query>: {query}\n"
    assert prompt.document == ("<Document>: {document}", "<|im_end|>\n<|im_start|>assistant\n")
    query, document = "wing, or drag?", "Lift:\n 9.81 N"
    roles = (("system", prompt.instruction), ("query", query), ("document", document))
    messages = [{"role": role, "content": content} for role, content in roles]
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(logit_score)
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    prefix, (candidate,) = TextEncoder(read_tokenizer(logit_score / "tokenizer.json"), prompt, 999, 999).prompt(query, [document])
    assert prefix + candidate == whole


def test_a_folder_without_a_chat_template_has_no_prompt(logit_score: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    assert load_checkpoint(folder).reranker is None


def test_a_template_that_cannot_be_divided(logit_score: Path, tmp_path: Path) -> None:
    """A space belongs to the word behind it, so a document behind a space has other tokens when it is tokenized alone."""
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    edit_json(folder / "tokenizer_config.json", chat_template="{{ messages[-2].content }} {{ messages[-1].content }}")
    with pytest.raises(CheckpointError, match="cannot be divided between query and document without other tokens"):
        load_checkpoint(folder)


def test_a_named_prompt_in_its_place(logit_score: Path, layerwise: Path, tmp_path: Path) -> None:
    """The folder's own template is not even read."""
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    edit_json(folder / "tokenizer_config.json", chat_template="{{ messages[-2].content }} {{ messages[-1].content }}")
    for place in (folder, layerwise):
        prompt = load_checkpoint(place, reranker="qwen3-reranker").reranker
        assert prompt is not None and str(prompt.instruction).startswith("Given a web search query")


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen's tokenizers divide a text into words."""


@pytest.mark.parametrize(("query", "document"), [("what lifts a wing?", "Lift.\n\n9.81"), ("a ", " <b> "), ("?\n", "\nx")])
def test_qwen3_rerankers_prompt_is_its_model_cards(query: str, document: str) -> None:
    """The card tokenizes instruction, query and document in one text; here the query's part is the prefix."""
    value = KNOWN["qwen3-reranker"]
    prompt = typed(value, RerankerPrompt, "here")
    pair = f"<Instruct>: {prompt.instruction}\n<Query>: {query}\n<Document>: {document}"
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([pair, *prompt.prefix, *prompt.document] * 4, trainer)
    begin, end = prompt.prefix[0], prompt.document[-1]
    card = [token for text in (begin, pair, end) for token in tokenizer.encode(text, add_special_tokens=False).ids]
    prefix, (candidate,) = TextEncoder(tokenizer, prompt, 999, 999).prompt(query, [document])
    assert prefix + candidate == card


def test_the_last_answer_for_heads(layerwise: Path, logit_score: Path) -> None:
    """What `rexit heads` keeps is what the reranker says at its end."""
    for folder in (layerwise, logit_score):
        base, own = load_base(folder, {"no": 3, "yes": 5} if folder == layerwise else load_checkpoint(folder).labels)
        assert own is not None and base.exits == (len(base.decoder.layers),) and base.reranker is not None
        np.testing.assert_array_equal(
            answers(base), answers(load_checkpoint(folder, exits=base.exits)), err_msg="its own head at full depth"
        )


def test_a_checkpoint_keeps_the_prompt_and_needs_no_labels(layerwise: Path, tmp_path: Path) -> None:
    model, loaded = tiny_model("granite", vocab_size=VOCAB), load_checkpoint(layerwise)
    save_checkpoint(tmp_path, model, (4,), loaded.heads.pick([0]), {}, None, reranker=loaded.reranker)
    again = load_checkpoint(tmp_path)
    assert again.labels == {} and again.reranker == loaded.reranker
    edit_json(tmp_path / "exits.json", reranker={"prefix": []})
    with pytest.raises(CheckpointError, match=r"exits\.json: reranker: prefix: is \[\], expected {query} once"):
        load_checkpoint(tmp_path)


def test_identity_includes_the_answers_tokens(logit_score: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    before = load_checkpoint(folder).sha256()
    edit_json(folder / "1_LogitScore" / "config.json", false_token_id=7)
    assert load_checkpoint(folder).sha256() != before


def test_an_encoder_of_texts_is_a_decoder_as_any_other(logit_score: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    kind = "sentence_transformers.models.{}"
    (folder / "modules.json").write_text(
        json.dumps([{"path": "", "type": kind.format("Transformer")}, {"path": "1_Pooling", "type": kind.format("Pooling")}])
    )
    edit_json(folder / "config_sentence_transformers.json", model_type="SentenceTransformer")
    with pytest.raises(InputError, match="the exits must be given"):
        load_checkpoint(folder, head="shared", labels={"no": 3, "yes": 5})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"head_type": "raw"}, "config.json: head_type: is 'raw', expected simple"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: is .*, expected null"),
        ({"start_layer": 7}, "start_layer: is 7, expected at most the model's 6 layers"),
        ({"start_layer": 2}, "1 weights are missing, e.g. lm_head.4.linear_head.weight"),
        ({"hidden_size": 0}, "hidden_size: is 0, expected an integer >= 1"),
    ],
)
def test_damaged_layerwise_config(layerwise: Path, tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    folder = Path(shutil.copytree(layerwise, tmp_path / "model"))
    edit_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_a_layerwise_reranker_has_no_lm_head_to_share(layerwise: Path) -> None:
    with pytest.raises(CheckpointError, match="granite: sharing needs an LM head of width 64, found none"):
        load_checkpoint(layerwise, head="shared", labels={"no": 3, "yes": 5})


def _modules(*kinds: str) -> list[dict[str, str]]:
    return [{"path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.x.{kind}"} for n, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "modules.json",
            _modules("Transformer", "Dense"),
            "has the modules Transformer, Dense, expected Transformer and LogitScore, or",
        ),
        ("modules.json", _modules("LogitScore"), "modules.json: has the modules LogitScore, expected Transformer and LogitScore"),
        ("modules.json", _modules("Transformer", "CNN", "LogitScore"), "modules.json: has a module CNN, expected"),
        (
            "modules.json",
            [*_modules("Transformer"), {"path": "../x", "type": "LogitScore"}],
            r"is in '\.\./x', expected a folder's",
        ),
        (
            "modules.json",
            [{"path": "x", "type": "Transformer"}, *_modules("", "LogitScore")[1:]],
            "Transformer is in 'x', expected",
        ),
        ("1_LogitScore/config.json", None, "1_LogitScore/config.json: no such file, modules.json names it"),
        ("1_LogitScore/config.json", {"true_token_id": 3, "false_token_id": 3}, "both token ids are 3, expected two answers"),
        ("1_LogitScore/config.json", {"true_token_id": 3, "false_token_id": 1000}, "label 'no' is token 1000"),
    ],
)
def test_damaged_sentence_transformers_folder(logit_score: Path, tmp_path: Path, name: str, value: Any, problem: str) -> None:
    folder = Path(shutil.copytree(logit_score, tmp_path / "model"))
    if value is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("1_Pooling", {"pooling_mode": "max"}, "1_Pooling/config.json: pooling is max, expected cls or mean$"),
        ("1_Pooling", {"pooling_mode": ["cls", "mean"]}, r"pooling is \['cls', 'mean'\], expected cls or mean$"),
        (
            "1_Pooling",
            {"pooling_mode": None, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "is cls and max, ",
        ),
        ("2_Dense", {"activation_function": "my.Swish"}, "activation_function is my.Swish, expected torch's Identity, Tanh"),
        (
            "2_Dense",
            {"module_input_name": "token_embeddings"},
            "module_input_name: is 'token_embeddings', expected sentence_embedding",
        ),
        ("2_Dense", {"out_features": 8}, r"linear.weight is of shape \[32, 32\], expected \[8, 32\]$"),
        ("4_Dense", {"out_features": 2}, r"linear.weight is of shape \[1, 32\], expected \[2, 32\]$"),
        ("4_Dense", {"activation_function": "torch.nn.Tanh"}, "gives 1 numbers behind Tanh, expected 1 behind"),
        ("3_LayerNorm", None, "3_LayerNorm/model.safetensors: cannot be read"),
    ],
)
def test_modules_that_are_not_read(tmp_path: Path, name: str, changes: dict[str, Any] | None, problem: str) -> None:
    folder = write_dense_score(tmp_path)
    if changes is None:
        (folder / name / "model.safetensors").write_bytes(b"")
    else:
        edit_json(folder / name / "config.json", **changes)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_older_names_of_pooling_and_a_limit_of_tokens(tmp_path: Path) -> None:
    folder = write_dense_score(tmp_path, pooling="mean")
    older = {"pooling_mode": None, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    edit_json(folder / "1_Pooling" / "config.json", **older)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    checkpoint = load_checkpoint(folder)
    assert isinstance(checkpoint.decoder, Encoder) and checkpoint.decoder.pooling == "mean"
    assert checkpoint.reranker is not None and checkpoint.reranker.pair is not None and checkpoint.reranker.pair.tokens == 24
