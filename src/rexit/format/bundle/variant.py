"""`variant.json`, the segments for one target and precision; and `engines/KEY/engine.json`, what `rexit compile` built of them,
for which GPU and from which graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rexit.errors import BundleError
from rexit.format.bundle.files import FileEntry, Positive, check_hashes, check_paths, check_sizes, read_typed, write_typed

_Dtype = Annotated[str, msgspec.Meta(pattern="^(float32|float16)$")]


class Segment(msgspec.Struct, frozen=True):
    """One graph: layers [begin, end) and a head. inputs, outputs: tensor names by meaning."""

    graph: str
    weights: str
    layers: tuple[int, int]
    hidden_dtype: _Dtype
    cache_dtype: _Dtype
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


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The segments for one target and precision.

    Attributes:
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

    @property
    def max_tokens(self) -> int:
        """Most candidate tokens in one pass."""
        return self.limits.max_tokens

    @property
    def max_positions(self) -> int:
        """Most tokens of a prefix and one candidate."""
        return self.limits.max_positions

    @classmethod
    def read(cls, folder: Path) -> Variant:
        """Reads variant.json. Raises BundleError."""
        return read_typed(folder / "variant.json", cls)

    def write(self, folder: Path) -> None:
        """Writes variant.json. Raises InputError if it cannot be written."""
        write_typed(folder / "variant.json", self)


ENGINE_FILE = "engine.json"
ENGINES = "engines"
BUILDERS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
"""The compilers by import name, with their short names in keys."""


def engine_key(builder: str, version: str, compute_capability: str) -> str:
    """The name of an engine's folder, e.g. `sm87-trt10.3.0`: the GPU and the compiler that the engine is bound to."""
    return f"sm{compute_capability.replace('.', '')}-{BUILDERS[builder]}{version}"


class OptimizationProfile(msgspec.Struct, frozen=True):
    """Sizes that one profile of an engine covers: (min, opt, max) of a pass's tokens T, past rows P' and rows N.

    P' is at least 1: a pass without a prefix has one row of padding.
    """

    tokens: tuple[int, int, int]
    prefix: tuple[int, int, int]
    rows: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name, (low, best, high) in msgspec.structs.asdict(self).items():
            if not 1 <= low <= best <= high:
                raise ValueError(f"{name}: is {low}, {best}, {high}, expected ascending order from 1")


class EngineSegment(msgspec.Struct, frozen=True):
    """One segment's engine.

    Attributes:
        plan: The plan's file.
        graph_sha256: Digest of the graph it was built from.
        weights_sha256: Digest of the graph's weights.
        profiles: In the engine's order. A pass takes the first whose `prefix` includes its P'.
        seconds: Build time.
        layers: Number of the engine's layers, from the compiler's log.
        summary: Number of layers by kind, from the compiler's log.
    """

    plan: str
    graph_sha256: str
    weights_sha256: str
    profiles: tuple[OptimizationProfile, ...]
    seconds: float
    layers: int
    summary: Mapping[str, int]


class Builder(msgspec.Struct, frozen=True):
    """The compiler, by its import name."""

    name: str
    version: str

    def __post_init__(self) -> None:
        if self.name not in BUILDERS:
            raise ValueError(f"name: is {self.name!r}, expected {' or '.join(BUILDERS)}")


class Gpu(msgspec.Struct, frozen=True):
    """The GPU. name: None if the machine had none: then engines are built for any GPU of that compute capability."""

    name: str | None
    compute_capability: str


class Engine(msgspec.Struct, frozen=True):
    """The engines of a variant's segments for one GPU and one compiler."""

    variant: str
    builder: Builder
    gpu: Gpu
    segments: tuple[EngineSegment, ...]
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        check_paths(self.files)

    @property
    def key(self) -> str:
        """The name of the engine's folder, see `engine_key`."""
        return engine_key(self.builder.name, self.builder.version, self.gpu.compute_capability)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def command(self) -> str:
        """The command that rebuilds it."""
        target = f" --compute-capability {self.gpu.compute_capability}" if self.gpu.name is None else ""
        return f"rexit compile BUNDLE --variant {self.variant}{target}"

    @classmethod
    def read(cls, folder: Path) -> Engine:
        """Checks structure and sizes. Raises BundleError."""
        path = folder / ENGINE_FILE
        engine = read_typed(path, cls)
        if engine.key != folder.name:
            raise BundleError(f"{path}: describes engine {engine.key}, its folder is {folder.name}")
        for segment in engine.segments:
            if segment.plan not in engine.files:
                raise BundleError(f"{path}: does not list `{segment.plan}`")
        check_sizes(folder, engine.files)
        return engine

    def write(self, folder: Path) -> None:
        """Writes engine.json next to the plans, with `files` as they are. Raises InputError if it cannot be written."""
        write_typed(folder / ENGINE_FILE, self)

    def edited(self, folder: Path) -> list[str]:
        """Returns one line per file with another hash than recorded."""
        return list(check_hashes(folder, self.files))

    def stale(self, variant: Variant) -> str | None:
        """Returns what changed in the variant since the build, for instance "segment 1's weights"; None if nothing did."""
        if self.variant != variant.name:
            return f"the variant: it was built from {self.variant!r}"
        if len(self.segments) != len(variant.segments):
            return f"the number of segments: it has {len(self.segments)}, the variant {len(variant.segments)}"
        for k, (engine, segment) in enumerate(zip(self.segments, variant.segments, strict=True)):
            parts = (("graph", engine.graph_sha256, segment.graph), ("weights", engine.weights_sha256, segment.weights))
            for what, digest, name in parts:
                if name not in variant.files or variant.files[name].sha256 != digest:
                    return f"segment {k}'s {what}"
        return None

    def check(self, folder: Path, variant: Variant) -> None:
        """Raises BundleError if the engine is stale, with the command that rebuilds it."""
        if (differs := self.stale(variant)) is not None:
            raise BundleError(f"{folder}: stale, it differs from the variant in {differs}; rebuild it: {self.command}")


def engine_folders(variant_folder: Path) -> list[Path]:
    """Returns the folders of a variant's engines, sorted by name. Leaves out half-written engines, which are hidden, and timing
    caches, which are files."""
    folder = variant_folder / ENGINES
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
