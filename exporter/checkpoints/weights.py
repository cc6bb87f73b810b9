"""Loads a decoder's weights from a Hugging Face folder or Hub id, a GGUF file, or a PEFT adapter's folder.

BAAI's layerwise reranker (`bge-reranker-v2-minicpm-layerwise`) is MiniCPM with a head behind each of its later layers. MiniCPM is
Granite with other names for its factors, so that its weights load into transformers' Granite as they are:

    Granite                  MiniCPM
    embedding_multiplier     scale_emb
    residual_multiplier      scale_depth / sqrt(num_hidden_layers), of the uncut model
    attention_multiplier     head_dim ** -0.5

The head after layer d, from `start_layer` on, is one row without a bias, `lm_head.{d - start_layer}.linear_head.weight` [1, H],
behind the final norm that all share. Its output is the log-odds. With `head_multi` false one head serves all depths.

The decoder is in float32 with packed attention and a config of its own. A GGUF file's weights are dequantized; an adapter is
merged into its base. `gguf` and `peft` are imported only if needed.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GraniteConfig,
    GraniteForCausalLM,
)

from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.sentence_modules import module_files, sentence_scores
from rexit.exporter.libraries import first_line, hub_folder, read_config, read_object
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import SCORES, is_encoder
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.model.packed import ATTENTION
from rexit.format.bundle import RerankerPrompt
from rexit.format.bundle.files import Positive, typed

ARCHITECTURE = "LayerWiseMiniCPMForCausalLM"
PROMPT = RerankerPrompt(
    ("<s>", "A: {query}"),
    ("\n", "B: {document}", "\n", "{instruction}"),
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a prediction of "
    "either 'Yes' or 'No'.",
)
"""As FlagEmbedding 1.4.2 writes it."""
Factor = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Names that both configs have."""


class _Config(msgspec.Struct, frozen=True):
    """The fields of MiniCPM's config that are read, besides `_SAME`. Granite has no other head types and no scaled positions."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    scale_emb: Factor
    scale_depth: Factor
    start_layer: Positive = 1
    head_multi: bool = True
    head_type: Annotated[str, msgspec.Meta(pattern="^(simple)$")] = "simple"
    rope_scaling: None = None
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.start_layer > self.num_hidden_layers:
            raise ValueError(f"start_layer: is {self.start_layer}, expected at most the model's {self.num_hidden_layers} layers")


class _Head(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_head = nn.Linear(size, 1, bias=False)


class LayerwiseGranite(GraniteForCausalLM):
    """Granite with a layerwise reranker's heads instead of an LM head. Its forward pass is not used."""

    _tied_weights_keys = {}  # noqa: RUF012, as in the base class

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        heads = [_Head(config.hidden_size) for _ in exit_depths(config)]
        self.lm_head: Any = nn.ModuleList(heads) if config.head_multi else heads[0]
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> None:
        """There is no LM head."""


def is_layerwise(folder: Path) -> bool:
    """Whether a folder's `config.json` is a layerwise reranker's."""
    try:
        architectures = read_object(folder / "config.json").get("architectures")
    except CheckpointError:
        return False  # transformers says what is wrong with it
    return isinstance(architectures, list) and ARCHITECTURE in architectures


def granite_config(folder: Path) -> GraniteConfig:
    """Granite's config with the same meaning. Raises CheckpointError for a variation that it has no names for."""
    path = folder / "config.json"
    value = read_config(path)
    config = typed(value, _Config, str(path), error=CheckpointError)
    same: dict[str, Any] = {name: value[name] for name in _SAME if name in value}
    return GraniteConfig(
        **same,
        start_layer=config.start_layer,  # type: ignore[call-arg]
        head_multi=config.head_multi,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        embedding_multiplier=config.scale_emb,
        residual_multiplier=config.scale_depth / math.sqrt(config.num_hidden_layers),
        attention_multiplier=(config.hidden_size // config.num_attention_heads) ** -0.5,
        logits_scaling=1.0,
        tie_word_embeddings=False,
    )


def exit_depths(config: Any) -> range:
    """The depths with a head, in layers, of the uncut model's config."""
    return range(config.start_layer, config.num_hidden_layers + 1)


def layerwise_heads(decoder: Decoder) -> ExitHeads:
    """The heads of all depths in `exit_depths`."""
    model = decoder.model
    heads = model.lm_head if model.config.head_multi else [model.lm_head] * len(exit_depths(model.config))
    return ExitHeads.of_rows(decoder, [head.linear_head.weight for head in heads])


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
