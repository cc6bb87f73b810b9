"""Rerankers as sentence-transformers saves them.

A causal LM, whose `LogitScore` names the tokens of its answer:

    config.json  model.safetensors  tokenizer.json  …        the decoder, as transformers saves it
    modules.json                                             a list: Transformer at "", LogitScore at "1_LogitScore"
    1_LogitScore/config.json                                 {"true_token_id": 9454, "false_token_id": 2753}
    sentence_bert_config.json                                how a query and a document become chat messages
    config_sentence_transformers.json                        `prompts` and `default_prompt_name`: a system message

The score is logit(true) - logit(false) at the last token; logit(true) if `false_token_id` is null.

An encoder with modules behind it:

    modules.json              a list: Transformer at "", Pooling, then Dense and LayerNorm, at last a Dense of one number
    1_Pooling/config.json     {"pooling_mode": "cls"} or "mean", or the older {"pooling_mode_cls_token": true, …}
    2_Dense/config.json       {"in_features": 384, "out_features": 384, "bias": false, "activation_function": "torch.nn.….GELU"}
    2_Dense/model.safetensors `linear.weight`, `linear.bias`; of LayerNorm `norm.weight`, `norm.bias`

The last Dense's number is the log-odds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rexit.errors import CheckpointError
from rexit.exporter.libraries import first_line, read_config, read_object
from rexit.format.bundle.files import Natural, Positive, typed

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


def text_pooling(folder: Path) -> str:
    """How an encoder of texts pools its last hidden rows: `cls` or `mean`, which a folder without modules has.

    Raises:
        CheckpointError: modules or a pooling that are not read.
    """
    path = folder / MODULES
    if not path.is_file():
        return "mean"
    first, *rest = typed(read_config(path), tuple[Module, ...], str(path), error=CheckpointError) or (Module(""),)
    kinds = [module.kind for module in rest]
    if first.kind != _FIRST or first.path != "" or kinds not in ([POOLING], [POOLING, "Normalize"]):
        shown = ", ".join([first.kind, *kinds])
        raise CheckpointError(f"{path}: has the modules {shown}, expected {_FIRST}, {POOLING} and perhaps Normalize")
    return _pooling_mode(folder / rest[0].path / CONFIG)


def longest_text(folder: Path) -> int | None:
    """Most tokens of a text, where the settings say so."""
    longest = read_object(folder / SETTINGS).get("max_seq_length")
    return longest if isinstance(longest, int) and longest > 0 else None


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


CONFIG, WEIGHTS = "config.json", "model.safetensors"
_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU)}
_OLD_MODE = "pooling_mode_"
"""How the keys of older files begin: `pooling_mode_cls_token`, `pooling_mode_mean_tokens`."""


class SentenceScores(nn.Module):
    """What stands behind the encoder. pooling: `cls` or `mean`. features: of a pair's row. projection: to the log-odds."""

    def __init__(self, pooling: str, features: nn.Sequential, projection: nn.Linear) -> None:
        super().__init__()
        self.pooling, self.features, self.projection = pooling, features, projection


class _Dense(msgspec.Struct, frozen=True):
    in_features: Positive
    out_features: Positive
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    use_residual: Literal[False] = False


class _LayerNorm(msgspec.Struct, frozen=True):
    dimension: Positive


def module_files(folder: Path) -> list[Path]:
    """The files of the modules behind an encoder, relative to the folder; empty if there are none. Raises CheckpointError."""
    modules = score_modules(folder)
    if not modules or modules[0].kind != POOLING:
        return []
    return [
        Path(module.path, name) for module in modules for name in ((CONFIG,) if module.kind == POOLING else (CONFIG, WEIGHTS))
    ]


def sentence_scores(folder: Path) -> SentenceScores:
    """Loads the modules behind the encoder. Raises CheckpointError."""
    pooling, *rest = score_modules(folder)
    parts: list[nn.Module] = []
    for module in rest:
        parts += _dense(folder, module) if module.kind == "Dense" else [_layer_norm(folder, module)]
    activation, projection = parts.pop(), parts.pop()
    if not isinstance(projection, nn.Linear) or projection.out_features != 1 or not isinstance(activation, nn.Identity):
        raise CheckpointError(
            f"{folder / rest[-1].path / CONFIG}: gives {getattr(projection, 'out_features', 'no')} numbers behind "
            f"{type(activation).__name__}, expected 1 behind Identity"
        )
    return SentenceScores(_pooling_mode(folder / pooling.path / CONFIG), nn.Sequential(*parts).eval(), projection)


def write_scores(scores: SentenceScores, source: Path, folder: Path) -> None:
    """Writes the modules behind the encoder in `source`, with the weights of `scores`, to another folder."""
    names = [*module_files(source), *(Path(name) for name in (MODULES, SETTINGS, PROMPTS) if (source / name).is_file())]
    layers = iter([part for part in (*scores.features, scores.projection) if isinstance(part, nn.Linear | nn.LayerNorm)])
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        if name.name != WEIGHTS:
            shutil.copyfile(source / name, folder / name)
            continue
        layer = next(layers)
        prefix = "linear" if isinstance(layer, nn.Linear) else "norm"
        save_file({f"{prefix}.{key}": value.contiguous() for key, value in layer.state_dict().items()}, folder / name)
        if isinstance(layer, nn.Linear):
            config = folder / name.parent / CONFIG
            config.write_text(json.dumps({**read_config(config), "bias": True}))


def _pooling_mode(path: Path) -> str:
    values = read_object(path)
    older = [
        name[len(_OLD_MODE) :].partition("_token")[0] for name, value in values.items() if _OLD_MODE in name and value is True
    ]
    mode = values.get("pooling_mode", " and ".join(older))
    if mode not in ("cls", "mean"):
        raise CheckpointError(f"{path}: pooling is {mode or 'missing'}, expected cls or mean")
    return str(mode)


def _dense(folder: Path, module: Module) -> list[nn.Module]:
    path = folder / module.path
    config = typed(read_config(path / CONFIG), _Dense, str(path / CONFIG), error=CheckpointError)
    name = config.activation_function
    if not name.startswith("torch.nn.") or (kind := _ACTIVATIONS.get(name.rpartition(".")[2])) is None:
        raise CheckpointError(f"{path / CONFIG}: activation_function is {name}, expected torch's {', '.join(_ACTIVATIONS)}")
    linear = nn.Linear(config.in_features, config.out_features)
    nn.init.zeros_(linear.bias)
    _fill(path / WEIGHTS, linear, "linear", ("weight", "bias") if config.bias else ("weight",))
    return [linear, kind()]


def _layer_norm(folder: Path, module: Module) -> nn.Module:
    path = folder / module.path
    config = typed(read_config(path / CONFIG), _LayerNorm, str(path / CONFIG), error=CheckpointError)
    norm = nn.LayerNorm(config.dimension)
    _fill(path / WEIGHTS, norm, "norm", ("weight", "bias"))
    return norm


@torch.no_grad()
def _fill(path: Path, module: nn.Linear | nn.LayerNorm, prefix: str, names: Sequence[str]) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(f"{path}: cannot be read: {first_line(exc)}") from exc
    for name in names:
        parameter, tensor = getattr(module, name), tensors.get(f"{prefix}.{name}")
        if tensor is None or tensor.shape != parameter.shape:
            actual = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
            raise CheckpointError(f"{path}: {prefix}.{name} is {actual}, expected {list(parameter.shape)}")
        parameter.copy_(tensor)
