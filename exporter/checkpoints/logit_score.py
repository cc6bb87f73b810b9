"""Rerankers as sentence-transformers saves them: a causal LM, and `LogitScore`, which names the tokens of its answer.

    config.json  model.safetensors  tokenizer.json  …        the decoder, as transformers saves it
    modules.json                                             a list: Transformer at "", LogitScore at "1_LogitScore"
    1_LogitScore/config.json                                 {"true_token_id": 9454, "false_token_id": 2753}
    sentence_bert_config.json                                how a query and a document become chat messages
    config_sentence_transformers.json                        `prompts` and `default_prompt_name`: a system message

The score is logit(true) - logit(false) at the last token; logit(true) if `false_token_id` is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rexit.bundle.typed import Natural, typed
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.configs import read_config

MODULES, SETTINGS, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_DECODER, _SCORE = "Transformer", "LogitScore"
_RERANKERS = "CrossEncoder"


class _Module(msgspec.Struct, frozen=True):
    type: str
    path: str = ""


class _Answers(msgspec.Struct, frozen=True):
    true_token_id: Natural
    false_token_id: Natural | None = None


def score_folder(folder: Path) -> Path | None:
    """The folder of LogitScore's config; None if the model is no reranker of sentence-transformers, or one without a module
    behind the transformer.

    Raises:
        CheckpointError: a module of another kind computes the score.
    """
    if not (folder / MODULES).is_file():
        return None
    path = folder / MODULES
    modules = typed(read_config(path), tuple[_Module, ...], str(path), error=CheckpointError)
    kinds = [module.type.rpartition(".")[2] for module in modules]
    if _SCORE not in kinds and not _is_reranker(folder, modules):
        return None  # an encoder of texts, whose decoder can be used as any other
    if kinds == [_DECODER]:
        return None
    if kinds != [_DECODER, _SCORE]:
        other = next((kind for kind in kinds if kind not in (_DECODER, _SCORE)), None)
        actual = f"has a module {other}" if other else f"has the modules {', '.join(kinds)}"
        raise CheckpointError(f"{path}: {actual}, expected {_DECODER} and {_SCORE}")
    if modules[0].path != "":
        raise CheckpointError(f"{path}: {_DECODER} is in {modules[0].path!r}, expected the folder itself, ''")
    if (name := modules[1].path) in ("", ".", "..") or "/" in name:
        raise CheckpointError(f"{path}: {_SCORE} is in {name!r}, expected a folder's plain name")
    if not (folder / name / "config.json").is_file():
        raise CheckpointError(f"{folder / name / 'config.json'}: no such file, {MODULES} names it")
    return folder / name


def answer_tokens(score: Path) -> dict[str, int]:
    """The token ids of `yes` and `no` in LogitScore's folder; without `no` if the score is one logit. Raises CheckpointError."""
    path = score / "config.json"
    answers = typed(read_config(path), _Answers, str(path), error=CheckpointError)
    if answers.false_token_id == answers.true_token_id:
        raise CheckpointError(f"{path}: both token ids are {answers.true_token_id}, expected two answers")
    no = {} if answers.false_token_id is None else {"no": answers.false_token_id}
    return {**no, "yes": answers.true_token_id}


def system_prompt(folder: Path) -> str | None:
    """The system message before a query; None without one."""
    value = read_config(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    prompts, name = (value.get("prompts"), value.get("default_prompt_name")) if isinstance(value, dict) else (None, None)
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    return prompt if isinstance(prompt, str) and prompt else None


def chat_settings(folder: Path) -> dict[str, Any]:
    """Arguments of the chat template, for instance {"add_generation_prompt": True}."""
    value = read_config(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    settings = value.get("processing_kwargs") if isinstance(value, dict) else None
    chat = settings.get("chat_template") if isinstance(settings, dict) else None
    return {name: setting for name, setting in chat.items() if name != "restore_suffix"} if isinstance(chat, dict) else {}


def _is_reranker(folder: Path, modules: Sequence[_Module]) -> bool:
    value = read_config(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}
    named = value.get("model_type") if isinstance(value, dict) else None
    return named == _RERANKERS or any(".cross_encoder." in module.type for module in modules)
