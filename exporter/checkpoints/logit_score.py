"""Rerankers as sentence-transformers saves them: the modules of an encoder (`dense_score`) or of a causal LM, whose `LogitScore`
names the tokens of its answer.

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

from rexit.bundle.files import Natural, typed
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.configs import read_config, read_object

MODULES, SETTINGS, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_FIRST, SCORE, POOLING = "Transformer", "LogitScore", "Pooling"
_LAYERS = ("Dense", "LayerNorm")
_RERANKERS = "CrossEncoder"


class Module(msgspec.Struct, frozen=True):
    """A module in `modules.json`. path: its folder's name."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The name of its class."""
        return self.type.rpartition(".")[2]


class _Answers(msgspec.Struct, frozen=True):
    true_token_id: Natural
    false_token_id: Natural | None = None


def score_modules(folder: Path) -> tuple[Module, ...]:
    """The modules behind the transformer of a reranker of sentence-transformers; empty if it has none, or is no such reranker.

    Raises:
        CheckpointError: modules that are not read, or that are not there.
    """
    path = folder / MODULES
    if not path.is_file():
        return ()
    modules = typed(read_config(path), tuple[Module, ...], str(path), error=CheckpointError)
    kinds = [module.kind for module in modules]
    if SCORE not in kinds and not _is_reranker(folder, modules):
        return ()  # an encoder of texts, whose transformer can be used as any other
    first, *rest = kinds or [""]
    dense = rest[:1] == [POOLING] and rest[-1] == _LAYERS[0] and set(rest[1:]) <= set(_LAYERS)
    if first != _FIRST or not (dense or rest in ([], [SCORE])):
        other = next((kind for kind in kinds if kind not in (_FIRST, SCORE, POOLING, *_LAYERS)), None)
        actual = f"has a module {other}" if other else f"has the modules {', '.join(kinds)}"
        raise CheckpointError(
            f"{path}: {actual}, expected {_FIRST} and {SCORE}, or {_FIRST}, {POOLING} and {' or '.join(_LAYERS)}"
        )
    if modules[0].path != "":
        raise CheckpointError(f"{path}: {_FIRST} is in {modules[0].path!r}, expected the folder itself, ''")
    for module in modules[1:]:
        if module.path in ("", ".", "..") or "/" in module.path:
            raise CheckpointError(f"{path}: {module.kind} is in {module.path!r}, expected a folder's plain name")
        if not (config := folder / module.path / "config.json").is_file():
            raise CheckpointError(f"{config}: no such file, {MODULES} names it")
    return modules[1:]


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
    value = read_object(folder / PROMPTS)
    prompts = value.get("prompts")
    prompt = prompts.get(value.get("default_prompt_name")) if isinstance(prompts, dict) else None
    return prompt if isinstance(prompt, str) and prompt else None


def chat_settings(folder: Path) -> dict[str, Any]:
    """Arguments of the chat template, for instance {"add_generation_prompt": True}."""
    settings = read_object(folder / SETTINGS).get("processing_kwargs")
    chat = settings.get("chat_template") if isinstance(settings, dict) else None
    return {name: setting for name, setting in chat.items() if name != "restore_suffix"} if isinstance(chat, dict) else {}


def _is_reranker(folder: Path, modules: Sequence[Module]) -> bool:
    return read_object(folder / PROMPTS).get("model_type") == _RERANKERS or any(
        ".cross_encoder." in module.type for module in modules
    )
