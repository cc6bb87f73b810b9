"""Multi-exit checkpoints: a Hugging Face folder plus `exits.json`, `exit_heads.safetensors` and, for prompts with vectors,
`projectors.safetensors`.

    config.json  model.safetensors (or shards)  …   the decoder, as `save_pretrained` writes it
    exits.json                {"schema": 3, "exits": [2, 4, 6], "labels": {"no": 17, "yes": 23}, "head": "own", "roles": …,
                               "catalog": {"tokenizer": …, "prompt": …, "space": …}}
    exit_heads.safetensors    per exit k (from 0): `exit.{k}.norm.weight` [H], `exit.{k}.norm.bias` [H] (LayerNorm only),
                              `exit.{k}.weight` [2, H] with the rows no, yes, `exit.{k}.bias` [2] (optional)
    projectors.safetensors    `NAME.PARAMETER` of each projector in `exits.json`: "projectors": {"gcn": {"dim": 64}, …}

A PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`) may replace the decoder, see `weights`.

`exits` are depths in layers. Without `exits.json` and heads any decoder can be loaded with explicit exits and `head="shared"`:
each exit then uses the final norm and the two label rows of the LM head. Rerankers as other projects save them have exits and
heads of their own, see `rerankers`. To train: `load_checkpoint`, then
`multi_exit.MultiExitModel`, then `save_checkpoint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rexit.errors import BundleError, CheckpointError, InputError
from rexit.exporter.checkpoints.rerankers import Reranker, answer_files, named_prompt, read_reranker
from rexit.exporter.checkpoints.weights import decoder_model, encodes, files, layers, located
from rexit.exporter.libraries import first_line, quiet
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import split
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.model.prompt_vectors import Projectors, check_kinds, check_width
from rexit.format.bundle import RerankerPrompt
from rexit.format.bundle.files import SCHEMA, digest, read_json, to_json, typed, write_json
from rexit.format.bundle.manifest import labels_of

EXITS, HEADS, PROJECTORS = "exits.json", "exit_heads.safetensors", "projectors.safetensors"
HEAD_KINDS = ("own", "shared")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    path: folder or GGUF file. decoder: float32, in eval mode. exits: depths, ascending; the decoder is cut at the last.
    heads: a head per exit. head: the heads' kind, `own` or `shared`.
    labels: token ids of `no` and `yes`; a reranker that answers by one row has no `no`, or neither.
    catalog: traits of the training catalog; None if not recorded. projectors: None if prompts have no vectors.
    reranker: the texts around a query and a document; None if unknown.
    roles: the rule that said which users fit and choose (`rexit.format.roles`); None: nobody did.
    """

    path: Path
    decoder: Decoder
    exits: tuple[int, ...]
    heads: ExitHeads
    head: str
    labels: dict[str, int]
    catalog: dict[str, str] | None
    projectors: Projectors | None
    reranker: RerankerPrompt | None = None
    roles: str | None = None

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.decoder.model

    def sha256(self) -> str:
        """The checkpoint's identity: SHA-256 over the sorted `name:sha256` lines of its weight, config and head files."""
        return checkpoint_sha256(self.path)


def checkpoint_sha256(place: Path) -> str:
    """`Checkpoint.sha256` of a folder or GGUF file that need not be loaded."""
    names = files(place) | set(place.glob(EXITS))
    if place / EXITS not in names:
        names |= answer_files(place)
    lines = "".join(f"{path.name}:{digest(path)}\n" for path in sorted(names, key=lambda path: (path.name, str(path))))
    return hashlib.sha256(lines.encode()).hexdigest()


def load_checkpoint(
    path: str | Path,
    exits: Sequence[int] | None = None,
    head: str | None = None,
    labels: Mapping[str, int] | None = None,
    reranker: str | None = None,
) -> Checkpoint:
    """Loads a multi-exit checkpoint.

    Args:
        path: a Hugging Face folder, a PEFT adapter's folder, a GGUF file or the id of a model on the Hub.
        exits: depths in layers, ascending; the model is cut at the last. None: those of `exits.json`.
        head: `own` (the default with an `exit_heads.safetensors`) or `shared`.
        labels: token ids of the answers, as `Catalog.labels`. `shared` needs them unless `exits.json` has them; both must agree.
        reranker: a known prompt or a file with one, see `rerankers`; None: the checkpoint's own.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, without heads or of an unsupported kind.
        InputError: the exits do not fit the model.
    """
    folder = located(path)
    saved = _saved(folder, reranker)
    kind = head or saved.head
    if kind not in HEAD_KINDS:
        raise InputError(f"head {kind!r}, expected one of: {', '.join(HEAD_KINDS)}")
    if kind == "own" and not saved.has_own:
        raise CheckpointError(
            f"{folder}: no exit heads ({EXITS} and {HEADS}): `rexit heads` fits some, `rexit train` trains them"
            + ("" if encodes(folder) else ", or --exits … --head shared uses the LM head")
        )
    depths = tuple(exits) if exits is not None else saved.exits
    if not depths:
        raise InputError(f"{folder}: has no {EXITS}, so the exits must be given, e.g. --exits 2,4,6")
    with quiet():
        full_depth = layers(folder)
    check_exits(depths, full_depth)
    if kind == "own" and (missing := [depth for depth in depths if depth not in saved.exits]):
        raise InputError(f"exit {missing[0]}: {folder} has no head for it, only for {', '.join(map(str, saved.exits))}")
    ids = dict(saved.labels or labels or {})
    if labels is not None and any(labels.get(name) != token for name, token in ids.items()):
        raise CheckpointError(f"{folder}: labels {ids}, expected {dict(labels)}: trained on another tokenizer or template")
    if kind == "shared" and encodes(folder):
        raise InputError(
            f"{folder}: is an encoder, which has no LM head to share: `rexit heads` fits heads, `rexit train` trains them"
        )
    if kind == "shared" and "yes" not in ids:
        raise InputError("head 'shared' needs the token ids of the labels `no` and `yes`")
    with quiet():
        decoder = split(decoder_model(folder))
        _check_labels(ids, decoder, saved.form)
        heads = _heads(folder, saved, kind, decoder, depths, ids)
        projectors = _projectors(folder, {} if saved.info is None else saved.info.projectors, decoder)
    traits = None if saved.info is None or saved.info.catalog is None else to_json(saved.info.catalog)
    roles = None if saved.info is None else saved.info.roles
    return Checkpoint(folder, decoder.cut(depths[-1]), depths, heads.eval(), kind, ids, traits, projectors, saved.prompt, roles)


@dataclass(frozen=True)
class _Saved:
    """What a folder tells of its exits: its `exits.json`, or the form of a reranker; neither for a plain decoder.

    exits, labels: empty if it does not tell. head: the default kind. has_own: whether there are heads of its own.
    """

    exits: tuple[int, ...]
    labels: Mapping[str, int]
    head: str
    has_own: bool
    prompt: RerankerPrompt | None
    info: ExitsFile | None = None
    form: Reranker | None = None


def _saved(folder: Path, reranker: str | None) -> _Saved:
    if saved_exits := read_exits(folder):
        info, labels = saved_exits
        has_own = (folder / HEADS).is_file()
        prompt = info.reranker if reranker is None else named_prompt(reranker).prompt
        return _Saved(info.exits, labels, "own" if has_own else info.head, has_own, prompt, info=info)
    if form := read_reranker(folder, reranker):
        return _Saved(form.exits, form.labels, form.head, form.head == "own", form.prompt, form=form)
    return _Saved((), {}, "own", False, None)


def _heads(
    folder: Path, saved: _Saved, kind: str, decoder: Decoder, depths: Sequence[int], labels: Mapping[str, int]
) -> ExitHeads:
    if saved.form is not None and kind == saved.form.head:
        return saved.form.heads_at(decoder, depths)
    if kind == "shared":
        return ExitHeads.shared(decoder, len(depths), labels)
    tensors, last = _tensors(folder / HEADS), len(saved.exits) - 1
    own_last = f"exit.{last}.norm.weight" not in tensors
    heads = ExitHeads.like(decoder, len(saved.exits), own_last)
    heads.fill(tensors, str(folder / HEADS))
    return heads.pick([saved.exits.index(depth) for depth in depths])


def save_checkpoint(
    folder: Path,
    model: Any,
    exits: Sequence[int],
    heads: ExitHeads,
    labels: Mapping[str, int],
    catalog: Mapping[str, str] | None,
    tokenizer: Any = None,
    projectors: Projectors | None = None,
    reranker: RerankerPrompt | None = None,
    roles: str | None = None,
) -> None:
    """Writes a checkpoint for `load_checkpoint`.

    Args:
        folder: the folder to write.
        model: the Hugging Face model.
        exits: depths in layers; the last is the full depth.
        heads: a head per exit.
        labels: token ids of `no` and `yes`, as `Catalog.labels`.
        catalog: `Catalog.traits` of the training catalog, which an export compares with its own; None: not recorded.
        tokenizer: an object with `save_pretrained`; None: not saved.
        projectors: None if prompts have no vectors.
        reranker: the texts around a query and a document; None if unknown.
        roles: the rule that said which users fit and choose, see `rexit.format.roles`; None: nobody did.

    Raises:
        InputError: the exits do not fit the model.
    """
    full_depth = model.config.num_hidden_layers
    check_exits(exits, full_depth)
    if exits[-1] != full_depth:
        raise InputError(f"the last exit is {exits[-1]}, expected the model's full depth, {full_depth}")
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        save_file(heads.tensors(), folder / HEADS)
        if projectors is not None:
            save_file(projectors.tensors(), folder / PROJECTORS)
        else:
            (folder / PROJECTORS).unlink(missing_ok=True)  # of an earlier checkpoint
    write_exits(folder, exits, labels, catalog, None if projectors is None else projectors.kinds, reranker, roles)


def write_exits(
    folder: Path,
    exits: Sequence[int],
    labels: Mapping[str, int],
    catalog: Mapping[str, str] | None,
    projectors: Mapping[str, Mapping[str, int]] | None,
    reranker: RerankerPrompt | None = None,
    roles: str | None = None,
) -> None:
    """Writes `exits.json`. projectors: the kinds of those in `projectors.safetensors`. roles: as for `save_checkpoint`."""
    info = {"schema": SCHEMA, "exits": [int(e) for e in exits], "head": "own"}
    more = {
        "labels": {name: int(token) for name, token in labels.items()} or None,
        "catalog": None if catalog is None else dict(catalog),
        "projectors": projectors,
        "reranker": None if reranker is None else to_json(reranker),
        "roles": roles,
    }
    write_json(folder / EXITS, info | {key: value for key, value in more.items() if value is not None})


def check_exits(exits: Sequence[int], layers: int) -> None:
    """Raises InputError unless depths ascend within 1 to `layers`."""
    if any(b <= a for a, b in zip((0, *exits), exits, strict=False)):
        raise InputError(f"exits {list(exits)}: depths must ascend, starting at 1 or more")
    if exits[-1] > layers:
        raise InputError(f"exit {exits[-1]} is beyond the model's {layers} layers")


def _check_labels(labels: Mapping[str, int], decoder: Decoder, form: Reranker | None) -> None:
    """The label tokens are in the model's vocabulary."""
    for name, token in labels.items():
        if not 0 <= token < decoder.vocab_size:
            problem = f"label {name!r} is token {token}, the model has 0 to {decoder.vocab_size - 1}"
            raise InputError(problem) if form is None else CheckpointError(f"{form.source}: {problem}")


class Traits(msgspec.Struct, frozen=True):
    """Digests of the training catalog, see `Catalog.traits`."""

    tokenizer: str
    prompt: str
    space: str


class ExitsFile(msgspec.Struct, frozen=True):
    """`exits.json`. Its labels are read by `rexit.format.bundle.manifest`."""

    exits: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    head: str = "own"
    catalog: Traits | None = None
    projectors: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    reranker: RerankerPrompt | None = None
    roles: str | None = None


def read_exits(folder: Path) -> tuple[ExitsFile, dict[str, int]] | None:
    """Returns a checkpoint's `exits.json` with its labels; None if it has none. Raises CheckpointError."""
    path = folder / EXITS
    if not path.is_file():
        return None
    try:
        info = read_json(path)
        return typed(info, ExitsFile, str(path)), labels_of(info)
    except BundleError as exc:
        raise CheckpointError(str(exc)) from exc
    except ValueError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc


def _projectors(folder: Path, kinds: dict[str, dict[str, int]], decoder: Decoder) -> Projectors | None:
    check_kinds(kinds, str(folder / EXITS))
    path = folder / PROJECTORS
    if path.is_file() != bool(kinds):
        problem = f"is missing, though {EXITS} has `projectors`" if kinds else f"exists, but {EXITS} has no `projectors`"
        raise CheckpointError(f"{path}: {problem}")
    if not kinds:
        return None
    check_width(decoder)
    projectors = Projectors(kinds, decoder.hidden_size)
    projectors.fill(_tensors(path), str(path))
    return projectors.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path}: truncated or not safetensors: {first_line(exc)}") from exc
