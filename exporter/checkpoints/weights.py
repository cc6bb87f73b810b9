"""Loads a decoder's weights from a Hugging Face folder or Hub id, a GGUF file, or a PEFT adapter's folder.

The decoder is in float32 with packed attention and a config of its own. A GGUF file's weights are dequantized; an adapter is
merged into its base. `gguf` and `peft` are imported only if needed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.layerwise import LayerwiseGranite, granite_config, is_layerwise
from rexit.exporter.checkpoints.sentence_modules import module_files, sentence_scores
from rexit.exporter.libraries import first_line, hub_folder, read_object
from rexit.exporter.model.encoder import SCORES, is_encoder
from rexit.exporter.model.packed import ATTENTION

PATTERNS = ("*.safetensors", "*.bin")
ADAPTER = "adapter_config.json"
CLASSIFIER = "ForSequenceClassification"
"""How the name of a classifier's architecture ends."""


def located(path: str | Path) -> Path:
    """The checkpoint's folder or GGUF file. A Hub id is downloaded first. Raises CheckpointError, also for an encoder with a
    decoder behind it."""
    place = Path(path)
    if not place.is_dir() and not _is_gguf(place):
        if place.suffix == ".gguf":
            raise CheckpointError(f"{path}: no such file")
        place = hub_folder(str(path), (*PATTERNS, "*.json", "*.jinja"), CheckpointError, str(path), "folder")
    config = read_object(place / "config.json")
    if config.get("is_decoder") is not True:
        family = config.get("model_type")
        if "deberta" in str(family):
            raise CheckpointError(f"{place}: {family} has attention by relative positions, which is not supported")
        if config.get("is_encoder_decoder") is True:
            raise CheckpointError(f"{place}: {family} is an encoder with a decoder, expected one of both")
    return place


def files(place: Path) -> set[Path]:
    """The files that determine the decoder: weights, config, and those of an adapter's base."""
    if _is_gguf(place):
        return {place}
    own = {path for pattern in PATTERNS for path in place.glob(pattern)}
    if _is_adapter(place):
        return own | {place / ADAPTER} | files(_base(place))
    return own | set(place.glob("config.json")) | {place / path for path in module_files(place)}


def layers(place: Path) -> int:
    """The decoder's number of layers. Raises CheckpointError."""
    if _is_adapter(place):
        return layers(_base(place))
    if _is_gguf(place):
        import gguf  # noqa: F401, its absence is clearer here than in transformers
    try:
        return int(_config(place).num_hidden_layers)
    except CheckpointError:
        raise
    except Exception as exc:
        what = "its" if _is_gguf(place) else "its config.json"
        raise CheckpointError(f"{place}: {what} is not a decoder's: {first_line(exc)}") from exc


def decoder_model(place: Path, new_classifier: bool = False) -> Any:
    """Loads the model, float32, in eval mode. Raises CheckpointError, also for missing weights.

    new_classifier: load an encoder without a classifier as one of one label, whose own weights are random.
    """
    if _is_adapter(place):
        return _merged(place)
    if _is_gguf(place):
        import gguf  # noqa: F401
    loader, named = _loader(place), _named(place)
    if new_classifier:
        loader, named = AutoModelForSequenceClassification, named | {"num_labels": 1}
    try:
        loaded: Any = loader.from_pretrained(
            **named, dtype=torch.float32, attn_implementation=ATTENTION, output_loading_info=True
        )
    except CheckpointError:
        raise
    except Exception as exc:
        if exc.args == (ATTENTION,):  # a KeyError from the family's own table of attentions
            raise CheckpointError(f"{_config(place).model_type}: does not use transformers' attention interface") from exc
        raise CheckpointError(f"{place}: cannot be loaded (truncated, or not a decoder): {first_line(exc)}") from exc
    model, report = loaded
    body = f"{model.base_model_prefix}." if new_classifier else ""
    for problem in ("missing_keys", "mismatched_keys"):
        # The pooler belongs to a classifier's head; an encoder without one may lack it.
        if keys := sorted(key for key in map(str, report.get(problem) or ()) if _is_needed(key, body)):
            raise CheckpointError(f"{place}: {len(keys)} weights are {problem.split('_')[0]}, e.g. {keys[0]}")
    if module_files(place):
        setattr(model, SCORES, sentence_scores(place))
    return (_plain(model) if _is_gguf(place) else model).eval()


def _is_needed(key: str, body: str) -> bool:
    """Whether a weight's absence is an error. body: how the names of the encoder's own begin."""
    return key.startswith(body) and not key.startswith(f"{body}pooler.")


def _loader(place: Path) -> Any:
    """The class to load: a classifier has a `score` instead of an LM head, a layerwise reranker has a head per layer."""
    if is_layerwise(place):
        return LayerwiseGranite
    if classifier_outputs(place):
        return AutoModelForSequenceClassification
    return AutoModel if encodes(place) else AutoModelForCausalLM


def encodes(place: Path) -> bool:
    """Whether the model is an encoder. Raises CheckpointError."""
    if _is_adapter(place):
        return encodes(_base(place))
    return not _is_gguf(place) and is_encoder(_config(place))


def classifier_outputs(place: Path) -> int:
    """The outputs of a model for sequence classification; 0: it is none. Raises CheckpointError."""
    if _is_adapter(place):
        return classifier_outputs(_base(place))
    if _is_gguf(place) or not (place / "config.json").is_file():
        return 0
    names = getattr(config := _config(place), "architectures", None) or [""]
    return int(config.num_labels) if str(names[0]).endswith(CLASSIFIER) else 0


def _config(place: Path) -> Any:
    return granite_config(place) if is_layerwise(place) else AutoConfig.from_pretrained(**_named(place))


def _is_gguf(place: Path) -> bool:
    return place.suffix == ".gguf" and place.is_file()


def _is_adapter(place: Path) -> bool:
    return (place / ADAPTER).is_file()


def _named(place: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained`."""
    if _is_gguf(place):
        return {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}
    named: dict[str, Any] = {"pretrained_model_name_or_path": place}
    return named | {"config": granite_config(place)} if is_layerwise(place) else named


def _plain(loaded: Any) -> Any:
    """The model without its quantization config: with it, it could be neither saved nor trained."""
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
    model.load_state_dict(loaded.state_dict())
    return model


def _base(folder: Path) -> Path:
    name = read_object(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{folder / ADAPTER}: `base_model_name_or_path` is {name!r}, expected a folder, Hub id or GGUF file"
        )
    try:
        base = located(name)
    except CheckpointError as exc:
        raise CheckpointError(f"{folder}: the model that this adapter adds to is missing: {exc}") from exc
    if _is_adapter(base):
        raise CheckpointError(f"{folder}: adds to {name}, which is an adapter itself, expected a whole model")
    return base


def _merged(folder: Path) -> Any:
    from peft import PeftModel

    base = decoder_model(_base(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    except Exception as exc:
        raise CheckpointError(f"{folder}: its adapter does not fit {_base(folder)}, or is truncated: {first_line(exc)}") from exc
