"""Options of a catalog, also those in the file of `--retriever-config`, and of an export. Imports nothing heavy, so that the
command line can show them."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rexit.errors import InputError
from rexit.format.candidates import Candidates

EXACT = 1e-4
"""Default tolerance: how far the log-odds of float32 graphs may be from PyTorch's."""

POSITIVE_AT = 4.0
"""Default: the lowest rating that is a like."""

MAX_NEIGHBOURS = 1 << 16
"""Most similar users of a user; the runtime refuses a catalog with more."""

COMPUTE_PRECISIONS = ("auto", "bfloat16", "float32")
"""How a model's forward pass computes. auto: bfloat16 where it is faster."""

ORDERS = ("time", "file", "random")
"""What orders interactions."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of `rexit export`.

    exits, head: depths in layers and kind of heads, see `load_checkpoint`.
    target, precisions: rows of `rexit.exporter.graph.targets`.
    max_tokens: most candidate tokens in one pass.
    tolerance: largest difference allowed between the float32 graphs' log-odds and PyTorch's.
    golden_slates: validation slates to compare on and to store.
    quality_slates: slates of validation users who choose, to judge a lower precision on; 0: all.
    accept_loss: write a variant that fails its gate, or that the slates are too few to judge.
    accept_catalog: export with a catalog that the checkpoint was not trained on, or does not name.
    label_ids: token ids of `no` and `yes`, for slates and a checkpoint that does not name them; None: it does.
    reranker: what a reranker reads around a query and a document, see `rexit.exporter.checkpoints.rerankers`; None: the
        checkpoint says it.
    with_tokenizer: put the checkpoint's tokenizer.json into the bundle, so that Python and HTTP take text.
    """

    exits: Sequence[int] | None = None
    head: str | None = None
    target: str = "cpu"
    precisions: Sequence[str] = ("fp32",)
    max_tokens: int = 512
    tolerance: float = EXACT
    golden_slates: int = 16
    quality_slates: int = 400
    accept_loss: bool = False
    accept_catalog: bool = False
    label_ids: tuple[int, int] | None = None
    reranker: str | None = None
    with_tokenizer: bool = False


@dataclass(frozen=True)
class HeadsOptions:
    """Options of `rexit heads`.

    exits: `auto:K` or depths in layers.
    max_slates, validation_slates: most slates, evenly spaced; 0: all.
    keep_last: whether the model's own last answer is the last exit's head; None: if it ranks and no fitted head is better.
    precision: see COMPUTE_PRECISIONS.
    batch_tokens: of a forward pass, with padding.
    accept_catalog: fit on a catalog that the model was not trained on, or does not name.
    label_ids, reranker: with a file of slates, as for `ExportOptions`.
    """

    exits: str = "auto:5"
    max_slates: int = 0
    validation_slates: int = 0
    keep_last: bool | None = None
    precision: str = "auto"
    batch_tokens: int = 2048
    accept_catalog: bool = False
    label_ids: tuple[int, int] | None = None
    reranker: str | None = None

    def check(self) -> None:
        """Raises InputError for the first option that is out of range."""
        for name in ("max_slates", "validation_slates"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}, expected at least 1, or 0 for all")
        if self.batch_tokens < 1:
            raise InputError(f"batch tokens {self.batch_tokens}, expected at least 1")
        if self.precision not in COMPUTE_PRECISIONS:
            raise InputError(f"--precision {self.precision}, expected one of {', '.join(COMPUTE_PRECISIONS)}")


@dataclass(frozen=True)
class TrainOptions:
    """Options of `rexit train`; the last four are for Python alone.

    exits: depths in layers; empty: every five layers and the last.
    lora: rank of low-rank additions to all linear layers; 0: train all weights.
    slate: interactions packed behind a prefix; an encoder's documents of a query. None: 12, of an encoder 8.
    batch_tokens: of a forward pass, with padding; None: 1024, of an encoder 4096.
    epochs: length of the training, unless `steps` is set.
    rate: peak learning rate of the deepest layers; None: 1e-4, with `lora` 1e-3; 0: the base is frozen.
    head_rate: the last head's learning rate.
    label_ids, reranker: with a file of slates, as for `ExportOptions`.
    warmup: share of the steps in which rates rise.
    precision: see COMPUTE_PRECISIONS.
    save_every: steps between two saved states.
    validation_slates: slates to report figures on; 0: all.
    """

    exits: str = ""
    lora: int = 0
    freeze_embeddings: bool = False
    slate: int | None = None
    batch_tokens: int | None = None
    epochs: float = 1.0
    steps: int = 0
    rate: float | None = None
    head_rate: float = 1e-3
    seed: int = 0
    label_ids: tuple[int, int] | None = None
    reranker: str | None = None
    warmup: float = 0.05
    precision: str = "auto"
    save_every: int = 100
    validation_slates: int = 400

    @property
    def peak_rate(self) -> float:
        """Peak learning rate of the deepest layers."""
        if self.rate is None:
            return 1e-3 if self.lora else 1e-4
        return self.rate

    @property
    def is_frozen(self) -> bool:
        """Whether the base is frozen, token embeddings included."""
        return self.peak_rate == 0

    def slate_size(self, causal: bool) -> int:
        """`slate` with its default. causal: whether the model is a decoder."""
        return self.slate or (12 if causal else 8)

    def step_tokens(self, causal: bool) -> int:
        """`batch_tokens` with its default."""
        return self.batch_tokens or (1024 if causal else 4096)

    def check(self) -> None:
        """Raises InputError for the first option that is out of range, or for two that exclude each other."""
        if self.lora < 0:
            raise InputError(f"--lora {self.lora}, expected a rank of at least 1, or 0")
        if self.is_frozen and self.lora:
            raise InputError(f"--lora {self.lora} with --rate 0, which trains no additions: leave one of them out")
        for name in ("slate", "batch_tokens", "save_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}, expected at least 1")
        for name, value in (("rate", self.peak_rate), ("head-rate", self.head_rate), ("seed", self.seed), ("steps", self.steps)):
            if not 0 <= value < math.inf:
                raise InputError(f"--{name} {value:g}, expected at least 0")
        if not 0 < self.epochs < math.inf:
            raise InputError(f"--epochs {self.epochs:g}, expected more than 0")


@dataclass(frozen=True)
class Columns:
    """Names of columns. The users' and items' files have their ids in columns of the same names.
    weight: how much a like counts in training; None: as much as any other."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"
    time: str = "timestamp"
    weight: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class LightGCNOptions:
    """How LightGCN is trained. All but the seed are keys of a `--retriever-config`.

    dim, layers: width of the embeddings, propagation layers.
    epochs: most epochs; 0: keep the initial embeddings.
    patience: epochs without a better recall on the last part of the training likes before training stops.
    weight_decay: BPR's lambda, on the embeddings of a batch.
    negatives: items sampled against each like.
    snapshots: parts of each user's training interactions, see `rexit.exporter.retriever.snapshots`.
    """

    dim: int = 64
    layers: int = 3
    epochs: int = 100
    patience: int = 20
    learning_rate: float = 0.02
    weight_decay: float = 1e-4
    negatives: int = 1
    seed: int = 0
    snapshots: int = 5

    def check(self) -> None:
        """Raises InputError for the first option that is out of range."""
        from rexit.format.bundle.vectors import MAX_WIDTH  # with NumPy, which the command line does without

        for name in ("dim", "layers", "patience", "negatives"):
            _check_positive(name, getattr(self, name))

        if self.dim > MAX_WIDTH:
            raise InputError(f"dim is {self.dim}, expected at most {MAX_WIDTH}")
        if self.epochs < 0:
            raise InputError(f"epochs is {self.epochs}, expected at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning rate is {self.learning_rate}, expected above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight decay is {self.weight_decay}, expected at least 0")
        if self.snapshots < 2:
            raise InputError(
                f"snapshots is {self.snapshots}, expected at least 2: the first part of a history has nothing before it"
            )


@dataclass(frozen=True)
class ExternalOptions:
    """External embeddings, in the place of LightGCN's: see `rexit.exporter.retriever.external`.

    items, users: files. as_of: the moment up to which they know what happened, as people write times; None: not known.
    """

    items: Path
    users: Path | None = None
    as_of: str | None = None


@dataclass(frozen=True)
class IndexOptions:
    """Options of `rexit index`.

    positive_at: the lowest rating that is a like; None: POSITIVE_AT.
    implicit: every interaction is a like and ratings are not read.
    candidates: of slates; None: those that were rated, which `implicit` excludes.
    order: what orders interactions: `time` (the column), `file` or `random`.
    split: `user:A,B`, `time:A,B` or `leave-last:V,T`, see `rexit.exporter.catalog.splits`; None: `user:0.8,0.9`, or the column
        `columns.split`.
    neighbours: similar users of a user.
    seed: of a random order and of drawn candidates; LightGCN has its own.
    zero: exit zero's graph, in the place of a fitted one.
    """

    columns: Columns = Columns()
    positive_at: float | None = None
    implicit: bool = False
    candidates: Candidates | None = None
    order: str = "time"
    split: str | None = None
    neighbours: int = 20
    lightgcn: LightGCNOptions = LightGCNOptions()
    external: ExternalOptions | None = None
    seed: int = 0
    zero: Path | None = None

    @property
    def least_like(self) -> float:
        """The lowest rating that is a like."""
        return POSITIVE_AT if self.positive_at is None else self.positive_at

    @property
    def slates(self) -> Candidates:
        """The candidates of slates."""
        return self.candidates or Candidates()

    @property
    def read_columns(self) -> dict[str, str]:
        """The names of the columns that are read, for catalog.json: an update reads the same."""
        unused = {"rating"} if self.implicit else set()
        if self.order != "time":
            unused.add("time")
        return {name: column for name, column in asdict(self.columns).items() if column is not None and name not in unused}

    def check(self) -> None:
        """Raises InputError for the first option that is out of range, or for two that exclude each other."""
        self.lightgcn.check()
        if self.external is not None and self.external.as_of is not None and self.order != "time":
            raise InputError(f"embeddings as of {self.external.as_of}: there are no times with order {self.order}")
        if self.implicit and self.positive_at is not None:
            raise InputError(
                f"positive at {self.positive_at:g} and implicit exclude each other: implicit reads no ratings, choose one"
            )
        _check_positive("neighbours", self.neighbours)
        if self.neighbours > MAX_NEIGHBOURS:
            raise InputError(f"neighbours is {self.neighbours}, expected at most {MAX_NEIGHBOURS}")
        if self.implicit and self.slates.kind == "rated":
            raise InputError(
                f"candidates {self.slates} with implicit, where all that is rated is liked: choose retrieved:100 if a service "
                "retrieves its candidates, popularity:9 or uniform:9"
            )
        if self.order not in ORDERS:
            raise InputError(f"order is {self.order!r}, expected one of {', '.join(ORDERS)}")
        if self.split is not None and self.columns.split is not None:
            raise InputError(f"split {self.split!r} and split column {self.columns.split!r} exclude each other, choose one")
        if self.seed < 0 or self.lightgcn.seed < 0:
            raise InputError(f"seed is {min(self.seed, self.lightgcn.seed)}, expected at least 0")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} is {value}, expected at least 1")


_LIGHTGCN = {field.name: field.default for field in fields(LightGCNOptions) if field.name != "seed"}
_KNOWN: Mapping[str, Any] = {
    **_LIGHTGCN,
    "neighbours": IndexOptions.neighbours,
}
"""The keys, each with a value of the type that is expected."""


def with_config(options: IndexOptions, path: Path) -> IndexOptions:
    """Returns the options with a file's values.

    Args:
        options: values that the file does not name are kept.
        path: `.json` is JSON, anything else TOML.

    Raises:
        InputError: the file cannot be read, or a key is unknown or has a value of another type.
    """
    values = _read(path)
    for name, value in values.items():
        if name not in _KNOWN:
            raise InputError(f"{path}: unknown key {name!r}, expected some of {', '.join(_KNOWN)}")
        kind = type(_KNOWN[name])
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
            expected = "a number" if kind is float else "a whole number"
            raise InputError(f"{path}: {name} is {value!r}, expected {expected}")
    return replace(
        options,
        lightgcn=replace(options.lightgcn, **{name: values[name] for name in _LIGHTGCN if name in values}),
        neighbours=values.get("neighbours", options.neighbours),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # of both parsers, and of bytes that are not UTF-8
        raise InputError(f"{path}: not {'JSON' if path.suffix == '.json' else 'TOML'}: {str(exc).splitlines()[0]}") from exc
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object")
    return values
