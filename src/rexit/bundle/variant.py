"""`variant.json`: the segments of a bundle for one target and precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rexit.bundle.files import FileEntry, check_paths
from rexit.bundle.typed import Positive, read_typed, write_typed

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


_ROUNDING = {"float32": 1e-4, "float16": 0.01}


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
