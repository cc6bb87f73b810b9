"""`manifest.json` and `variant.json`: what a bundle holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rexit.bundle.catalog import Catalog
from rexit.bundle.files import FileEntry, check_hashes, check_paths, check_sizes, digest, parse_json
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.bundle.golden import Golden
from rexit.bundle.objectives import OBJECTIVES, check_names
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.bundle.policy import Policy
from rexit.bundle.reranker import RerankerPrompt
from rexit.bundle.typed import Name, Natural, Positive, read_typed, typed, write_typed
from rexit.bundle.vectors import FILE as VECTORS_FILE
from rexit.bundle.vectors import Vectors
from rexit.errors import BundleError, InputError


class Model(msgspec.Struct, frozen=True):
    """The model that was exported.

    Attributes:
        family: `model_type` of its config.
        layers: Number of layers.
        hidden_size: Width of the hidden states.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        vocab_size: Size of the vocabulary.
        max_positions: Most tokens of a prefix and one candidate.
        head: `own`: heads trained for the exits; `shared`: the LM head's.
        checkpoint_sha256: Digest of the checkpoint.
    """

    family: str
    layers: Positive
    hidden_size: Positive
    kv_heads: Positive
    head_dim: Positive
    vocab_size: Positive
    max_positions: Positive
    head: str
    checkpoint_sha256: str


class Segment(msgspec.Struct, frozen=True):
    """One graph: layers [begin, end) and a head. inputs, outputs: tensor names by meaning."""

    graph: str
    weights: str
    layers: tuple[int, int]
    hidden_dtype: Annotated[str, msgspec.Meta(pattern="^(float32|float16)$")]
    cache_dtype: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class Limits(msgspec.Struct, frozen=True):
    """Sizes that a variant's graphs take.

    Attributes:
        max_tokens: Most candidate tokens in one pass.
        max_positions: Most tokens of a prefix and one candidate.
    """

    max_tokens: Positive
    max_positions: Positive


_ROUNDING = {"float32": 1e-4, "float16": 0.01}


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The segments for one target and precision.

    Attributes:
        objectives: Names of several objectives, in the order of their logits; empty: there is one.
        name: Target and precision, for instance `cpu-int8`.
        target: `cpu`, `cuda` or `tensorrt`.
        precision: Number format of the linear layers.
        backend: What runs the graphs.
        opset: The graphs' ONNX opset.
        catalog_sha256: Digest of the exported catalog; None: the bundle has none.
        checkpoint_sha256: Digest of the checkpoint.
        limits: Sizes that the graphs take.
        segments: In the order of the layers.
        parity: Differences from the reference, and the `tolerance`.
        quality: The gate's measurements; None without a gate.
        unrotated: Why the model could not be rotated; None if it was.
        past_padding: Whether the graphs mask padding behind the prefix.
        files: Sizes and digests.
    """

    objectives: tuple[str, ...] = ()
    name: str
    target: str
    precision: str
    backend: str
    opset: int
    catalog_sha256: str | None = None
    checkpoint_sha256: str
    limits: Limits
    segments: tuple[Segment, ...]
    parity: Mapping[str, Any] = msgspec.field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    unrotated: str | None = None
    past_padding: bool = False
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        check_paths(self.files)
        if self.objectives:
            check_names(self.objectives, OBJECTIVES)

    @property
    def max_tokens(self) -> int:
        """Most candidate tokens in one pass."""
        return self.limits.max_tokens

    @property
    def max_positions(self) -> int:
        """Most tokens of a prefix and one candidate."""
        return self.limits.max_positions

    @property
    def rounding(self) -> float:
        """How far a score's log-odds may be from the same session's trace; relative above 1.

        The same graph runs on the same machine with other candidates in the pass. So only the order of sums may differ, whatever
        the precision. After 30 layers on the CPU the difference was 8e-6 (fp32, int8, int4), and 0.002 for float16, where another
        order changes the last bit. Not measured on a GPU.
        """
        return max(_ROUNDING[segment.hidden_dtype] for segment in self.segments)

    @classmethod
    def read(cls, folder: Path) -> Variant:
        """Reads variant.json. Raises BundleError."""
        return read_typed(folder / "variant.json", cls)

    def write(self, folder: Path) -> None:
        """Writes variant.json. Raises InputError if it cannot be written."""
        write_typed(folder / "variant.json", self)


TOKENIZER = "tokenizer.json"
"""The tokenizer's file in checkpoints and bundles."""
MANIFEST = "manifest.json"
"""The manifest's file in a bundle."""


def check_is_bundle(folder: Path) -> None:
    """Raises BundleError for a folder without a manifest, and for a file."""
    if folder.is_file():
        raise BundleError(
            f"{folder}: is a file, expected a bundle's folder; `rexit.open`, `rexit inspect`, `verify`, `serve` and `rexit-run` "
            f"read an archive, here unpack it: `mkdir bundle && tar -xf {folder} -C bundle`"
        )
    if not (folder / "manifest.json").is_file():
        if (folder / "catalog.json").is_file():
            raise BundleError(f"{folder}: is a catalog, expected a bundle: `rexit export` makes one of it and a checkpoint")
        raise BundleError(f"{folder}: is not a bundle: it has no manifest.json")


class TokenRequests(msgspec.Struct, frozen=True):
    """What a bundle without a catalog knows of its requests.

    Attributes:
        labels: Token ids of the labels `no` and `yes`; a reranker that answers by one row may lack them.
        max_prefix_tokens: Of the longest prefix of the export's slates.
        max_candidate_tokens: Of their longest candidate.
    """

    labels: Mapping[str, int]
    max_prefix_tokens: Natural
    max_candidate_tokens: Natural


class RefreshedCatalog(msgspec.Struct, frozen=True):
    """A catalog that replaced the exported one.

    Attributes:
        folder: The active catalog's folder in the bundle.
        exported_sha256: Digest of the catalog that the variants were exported with.
    """

    folder: Name
    exported_sha256: str

    def __post_init__(self) -> None:
        if self.folder in (".", "..") or "/" in self.folder:
            raise ValueError(f"folder: is {self.folder!r}, expected a plain name")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`manifest.json`.

    Attributes:
        model: The model.
        exits: Depths of the exits, in layers.
        variants: Names of the variants.
        catalog: The active catalog if it is not the exported one.
        reranker: What the model reads around a query and a document; None: it is no reranker.
        tokens: What the bundle knows of its requests if it has no catalog; None: it has one.
        files: Sizes and digests of the files outside the variants' own lists.
    """

    model: Model
    exits: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    variants: tuple[str, ...]
    catalog: RefreshedCatalog | None = None
    reranker: RerankerPrompt | None = None
    tokens: TokenRequests | None = None
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        check_paths(self.files)
        if self.tokens is not None and self.catalog is not None:
            raise ValueError("has `tokens`, for a bundle without a catalog, and `catalog`")

    @property
    def catalog_folder(self) -> str:
        """The active catalog's folder in the bundle."""
        return "catalog" if self.catalog is None else self.catalog.folder

    @property
    def catalog_sha256(self) -> str | None:
        """Digest of the active catalog; None if the bundle has none. Raises BundleError if the manifest does not list it."""
        if self.tokens is not None:
            return None
        if (entry := self.files.get(f"{self.catalog_folder}/catalog.json")) is None:
            raise BundleError(f"manifest.json: does not list `{self.catalog_folder}/catalog.json`")
        return entry.sha256

    @property
    def exported_sha256(self) -> str | None:
        """Digest of the catalog that the variants were exported with; None if the bundle has none."""
        return self.catalog_sha256 if self.catalog is None else self.catalog.exported_sha256

    @property
    def vectors_file(self) -> str:
        """Path of the active catalog's vectors in the bundle, if it has any."""
        return VECTORS_FILE if self.catalog is None else f"{self.catalog.folder}/{VECTORS_FILE}"

    def golden_file(self, variant: str) -> str:
        """Returns the path of a variant's golden samples with the active catalog, in the bundle."""
        if self.catalog is None:
            return f"variants/{variant}/{GOLDEN_FILE}"
        return f"{self.catalog.folder}/golden/{variant}.safetensors"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads manifest.json. Raises BundleError."""
        return read_typed(folder / MANIFEST, cls)

    @classmethod
    def parse(cls, data: bytes, path: str) -> Manifest:
        """Parses the bytes of a manifest.json. path: for messages. Raises BundleError."""
        return typed(parse_json(data, path), cls, path)

    def write(self, folder: Path) -> None:
        """Writes manifest.json. Raises InputError if it cannot be written."""
        write_typed(folder / MANIFEST, self)


@dataclass(frozen=True)
class Bundle:
    """A bundle folder with one of its variants selected."""

    path: Path
    manifest: Manifest
    variant: Variant

    @classmethod
    def open(cls, path: Path, variant: str | None = None) -> Bundle:
        """Opens a variant. Checks structure and sizes.

        Args:
            path: The bundle's folder.
            variant: Name of the variant; None: the bundle's first.

        Raises:
            BundleError: The bundle is missing, damaged, or of another version.
            InputError: There is no such variant.
        """
        path = Path(path)
        if not path.exists():
            raise BundleError(f"{path}: no such bundle folder")
        check_is_bundle(path)
        manifest = Manifest.read(path)
        check_sizes(path, manifest.files)
        if not manifest.variants:
            raise BundleError(f"{path}/manifest.json: lists no variants")
        name = manifest.variants[0] if variant is None else variant
        if name not in manifest.variants:
            raise InputError(f"{path}: no variant {name!r}, there are: {', '.join(manifest.variants)}")
        if f"variants/{name}/variant.json" not in manifest.files:
            raise BundleError(f"{path}/manifest.json: does not list variants/{name}/variant.json")
        folder = path / "variants" / name
        selected = Variant.read(folder)
        check_sizes(folder, selected.files)
        if selected.catalog_sha256 != manifest.exported_sha256:
            if manifest.tokens is not None:
                raise BundleError(f"{folder}: made for a catalog, the bundle has none")
            raise BundleError(f"{folder}: made for another catalog than the bundle's")
        if (manifest.vectors_file in manifest.files) != any("vectors" in segment.inputs for segment in selected.segments):
            raise BundleError(f"{folder}: its first segment and the bundle disagree on whether there is a {VECTORS_FILE}")
        return cls(path, manifest, selected)

    @property
    def folder(self) -> Path:
        """The selected variant's folder."""
        return self.path / "variants" / self.variant.name

    @property
    def variant_sha256(self) -> str:
        """Digest of the selected variant's variant.json."""
        return self.manifest.files[f"variants/{self.variant.name}/variant.json"].sha256

    @property
    def has_catalog(self) -> bool:
        """Whether requests may name users and items; else they are token ids."""
        return self.manifest.tokens is None

    @cached_property
    def catalog(self) -> Catalog:
        """The bundle's own copy of the active catalog, without splits. Raises BundleError; InputError if the bundle has none."""
        if not self.has_catalog:
            raise InputError(f"{self.path}: has no catalog: its requests are token ids, not ids of users and items")
        return Catalog.open(self.path / self.manifest.catalog_folder)

    @property
    def labels(self) -> Mapping[str, int]:
        """Token ids of the answers (`rexit.bundle.labels`); a reranker that answers by one row may lack them.

        Raises BundleError."""
        tokens = self.manifest.tokens
        return self.catalog.labels if tokens is None else tokens.labels

    def vectors(self) -> Vectors | None:
        """Returns the vectors of prompts; None if prompts are text only. Raises BundleError."""
        if not self.has_catalog or (ids := self.catalog.vector_ids) is None:
            return None
        return Vectors.read(self.path / self.manifest.vectors_file, ids, self.manifest.model.hidden_size)

    def policy(self) -> Policy | None:
        """Returns the variant's policy; None before `rexit calibrate`. Raises BundleError, also for another variant's policy."""
        path = self.folder / POLICY_FILE
        if not path.exists():
            return None
        return Policy.read(path, len(self.manifest.exits), self.variant_sha256, self.variant.objectives)

    def policy_or_full_depth(self) -> Policy:
        """Returns what the runtime follows: the policy, or before `rexit calibrate` full depth. Raises BundleError."""
        return self.policy() or Policy.full_depth(len(self.manifest.exits), self.variant_sha256, self.variant.objectives)

    @property
    def policy_sha256(self) -> str | None:
        """Digest of policy.json; None before `rexit calibrate`."""
        path = self.folder / POLICY_FILE
        return digest(path) if path.exists() else None

    def golden(self) -> Golden:
        """Returns the variant's golden samples with the active catalog. Raises BundleError."""
        path = self.path / self.manifest.golden_file(self.variant.name)
        return Golden.read(path, len(self.manifest.exits), max(1, len(self.variant.objectives)))

    def edited(self) -> list[str]:
        """Returns one line per file with another hash than recorded."""
        return [*check_hashes(self.path, self.manifest.files), *check_hashes(self.folder, self.variant.files)]
