"""`rexit compile`: TensorRT engines for a bundle's variants, with the profiles of sizes that each accepts and is tuned for.

1. Find a Python with a compiler's bindings and ask it for the version, what it compiles for and which GPU this machine has.
2. Choose the build target, or raise the reason why there is none.
3. Derive the engines' sizes from the variant's limits, the catalog and the golden slates (`rexit.exporter.engine.compile`).
4. Skip engines that the same compiler built from the same graphs for the same sizes.
5. Build each segment in its own process (`rexit.exporter.engine.engine_builder`). The folder replaces the old one at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit import slates
from rexit.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile, Segment, new_folder, sole_writer
from rexit.bundle.files import check_hashes
from rexit.bundle.variant import ENGINES, Builder, Gpu, engine_key
from rexit.errors import BackendError, BundleError, InputError
from rexit.exporter.engine.compilers import BuilderProcess, Compiler, find_compiler
from rexit.progress import Progress, silent


def optimization_profiles(bundle: Bundle) -> tuple[OptimizationProfile, ...]:
    """The passes that an engine of this variant accepts, up to the limits of variant and catalog. Without a catalog a candidate
    may be as long as the model's positions, and a prefix may leave room for one of its tokens. An encoder has no prefix. A
    candidate longer than `max_tokens` is a pass of its own.

    They are tuned for a slate of `slates.SIZE` candidates as long as the golden samples'.

    1. Passes without a prefix, with one row of padding as their past: the prefix itself, tuned for one row.
    2. Passes behind a prefix: slates, for which it is tuned, and the unshared part of a prefix.
    A single profile would tune neither. Without prefixes there are only slates. No size is ever 0, since a compiler may raise a
    minimum of 0 to 1.

    Args:
        bundle: opened with the variant.
    """
    limit = bundle.variant.max_tokens
    if bundle.has_catalog:
        max_prefix, max_candidate = (
            int(bundle.catalog.info["prompt"][name]) for name in ("max_prefix_tokens", "max_candidate_tokens")
        )
    else:
        max_candidate = bundle.variant.max_positions
        max_prefix = max_candidate - 1 if bundle.manifest.model.causal else 0
    max_tokens = max(limit, max_prefix, max_candidate)  # the same graph fills the prefix
    golden = bundle.golden().slates
    candidate = max(1, statistics.median_high([len(tokens) for slate in golden for tokens in slate.candidates]))
    prefix = min(statistics.median_high([len(slate.prefix) for slate in golden]), max_prefix)
    rows = max(1, min(slates.SIZE, limit // candidate))
    tokens = (1, min(rows * candidate, max_tokens), max_tokens)
    behind = (1, max(1, prefix), max(1, max_prefix))
    if max_prefix == 0:
        return (OptimizationProfile(tokens, behind, (1, rows, limit)),)
    return (
        OptimizationProfile((1, max(1, prefix), max_tokens), (1, 1, 1), (1, 1, limit)),
        OptimizationProfile(tokens, behind, (1, rows, limit)),
    )


def input_ranges(segment: Segment, profile: OptimizationProfile) -> dict[str, tuple[int, int, int]]:
    """The range (min, opt, max) of each input's dynamic size."""
    ranges: dict[str, tuple[int, int, int]] = {}
    for role, name in segment.inputs.items():
        if role in ("past_keys", "past_values"):
            ranges |= dict.fromkeys(name, profile.prefix)
        else:
            # A pass has 1 to T vectors.
            ranges[name] = profile.rows if role == "rows" else profile.tokens
    return ranges


@dataclass(frozen=True)
class SegmentBuild:
    """A segment's build. peak_bytes: peak memory of the builder's process; None if unknown."""

    layers: tuple[int, int]
    engine_layers: int
    summary: dict[str, int]
    bytes: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class VariantBuild:
    """A variant's engines. segments: empty if the engines were up to date."""

    variant: str
    key: str
    folder: str
    up_to_date: bool
    bytes: int
    segments: tuple[SegmentBuild, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CompileReport:
    """The result of a compile. gpu: None for engines of an explicit compute capability."""

    bundle: str
    python: str
    builder: str
    version: str
    gpu: str | None
    compute_capability: str
    variants: tuple[VariantBuild, ...]

    def to_json(self) -> dict[str, Any]:
        """The output of `rexit compile --json`."""
        return asdict(self)


def compile_engines(
    bundle: Path,
    variants: Sequence[str] = (),
    *,
    compute_capability: str | None = None,
    python: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> CompileReport:
    """Builds engines of TensorRT variants. Existing engines stay until new ones replace them.

    Args:
        bundle: the bundle folder.
        variants: names; empty: all TensorRT variants.
        compute_capability: e.g. "8.6" (TensorRT-RTX only); None: this machine's GPU.
        python: the Python with the compiler's bindings; None: this Python, then the system's.
        force: rebuild engines that are up to date.
        progress: called with a stage, the steps done and the steps in all.

    Raises:
        InputError: an argument is invalid, or another process is writing to the bundle.
        BundleError: the bundle cannot be read.
        BackendError: there is no suitable compiler, or it fails.
    """
    with sole_writer(Path(bundle)):
        opened = _tensorrt_variants(Path(bundle), variants)
        progress("looking for a compiler", 0, 1)
        compiler, target = find_compiler(python, compute_capability)
        progress("looking for a compiler", 1, 1)
        compilation = _Compilation(compiler, target, force, progress)
        builds = tuple(compilation.variant(variant) for variant in opened)
    return CompileReport(
        str(bundle), compiler.python, compiler.name, compiler.version, target.name, target.compute_capability, builds
    )


def _tensorrt_variants(path: Path, names: Sequence[str]) -> list[Bundle]:
    """Opens the bundle with each TensorRT variant and checks the hashes of its graphs. Raises InputError or BundleError."""
    known = Bundle.open(path).manifest.variants
    opened = [Bundle.open(path, name) for name in dict.fromkeys(names or known)]
    chosen = [bundle for bundle in opened if bundle.variant.target == "tensorrt"]
    if not names and not chosen:
        raise InputError(
            f"{path}: no variant for TensorRT, it has: {', '.join(known)}; `rexit export --target tensorrt` adds one"
        )
    for bundle in opened:
        if names and bundle not in chosen:
            raise InputError(
                f"{path}: variant {bundle.variant.name!r} is for {bundle.variant.target!r}, engines are for `tensorrt` variants"
            )
    for bundle in chosen:
        if not bundle.variant.past_padding:
            raise BundleError(
                f"{bundle.folder}/variant.json: the graphs do not mask past_padding, which engines need; export again"
            )
        for segment in bundle.variant.segments:
            if missing := {segment.graph, segment.weights} - set(bundle.variant.files):
                raise BundleError(f"{bundle.folder}/variant.json: does not list {', '.join(sorted(missing))}")
            files = {name: bundle.variant.files[name] for name in (segment.graph, segment.weights)}
            for line in check_hashes(bundle.folder, files):
                raise BundleError(line)
    return chosen


@dataclass(frozen=True)
class _Compilation:
    """The arguments that all builds of a compile share."""

    compiler: Compiler
    target: Gpu
    force: bool
    progress: Progress

    def variant(self, bundle: Bundle) -> VariantBuild:
        """Builds the selected variant's engines, unless they are up to date."""
        variant, compiler = bundle.variant, self.compiler
        profiles = optimization_profiles(bundle)
        key = engine_key(compiler.name, compiler.version, self.target.compute_capability)
        folder = bundle.folder / ENGINES / key
        if not self.force and (existing := self._up_to_date(folder, bundle, profiles)) is not None:
            return VariantBuild(variant.name, key, str(folder), True, existing.bytes, (), ())
        cache = None if compiler.standalone else folder.with_name(f"timing-{key}.cache")
        engines, reports, warnings = [], [], []
        with new_folder(folder) as place:
            for k in range(len(variant.segments)):
                engine_segment, report, segment_warnings = self._segment(bundle, k, profiles, cache, place)
                engines.append(engine_segment)
                reports.append(report)
                warnings += segment_warnings
            self.progress(f"{variant.name}: digests", len(engines), len(engines))
            files = {path.name: FileEntry.of(path) for path in sorted(place.iterdir())}
            engine = Engine(variant.name, Builder(compiler.name, compiler.version), self.target, tuple(engines), files)
            engine.write(place)
        return VariantBuild(variant.name, key, str(folder), False, engine.bytes, tuple(reports), tuple(dict.fromkeys(warnings)))

    def _up_to_date(self, folder: Path, bundle: Bundle, profiles: tuple[OptimizationProfile, ...]) -> Engine | None:
        """The folder's engines if nothing they depend on changed. Its name implies compiler and compute capability."""
        if not folder.is_dir():
            return None
        try:
            engine = Engine.read(folder)
        except BundleError:
            return None
        same_source = engine.gpu == self.target and engine.stale(bundle.variant) is None
        same_sizes = all(segment.profiles == profiles for segment in engine.segments)
        return engine if same_source and same_sizes and not engine.edited(folder) else None

    def _segment(
        self, bundle: Bundle, k: int, profiles: tuple[OptimizationProfile, ...], cache: Path | None, place: Path
    ) -> tuple[EngineSegment, SegmentBuild, list[str]]:
        """Builds segment k into `place`. Returns its description, its report and the compiler's warnings."""
        variant, segment = bundle.variant, bundle.variant.segments[k]
        plan = f"segment-{k}.plan"
        request = {
            "do": "build",
            "builder": self.compiler.name,
            "graph": str((bundle.folder / segment.graph).resolve()),
            "plan": str(place / plan),
            "profiles": [input_ranges(segment, profile) for profile in profiles],
            "compute_capability": self.target.compute_capability,
            "timing_cache": None if cache is None else str(cache.resolve()),
        }
        what = f"{variant.name}, segment {k}"

        def stage(event: Mapping[str, Any]) -> None:
            self.progress(f"{what}: {_STAGES[event['stage']]}", k, len(variant.segments))

        done, warnings = _build(self.compiler, request, f"{what} ({segment.graph})", stage)
        engine_segment = EngineSegment(
            plan=plan,
            graph_sha256=variant.files[segment.graph].sha256,
            weights_sha256=variant.files[segment.weights].sha256,
            profiles=profiles,
            seconds=round(done["seconds"], 3),
            layers=done["layers"],
            summary=done["summary"],
        )
        size = (place / plan).stat().st_size
        report = SegmentBuild(segment.layers, done["layers"], done["summary"], size, done["seconds"], done["peak_bytes"])
        return engine_segment, report, warnings


# The last one: no memory for a thread.
_OUT_OF_MEMORY = ("bad_alloc", "OutOfMemory", "out of memory", "Resource temporarily unavailable")
_ADVICE = "; probably out of memory: stop other programs, add swap, or export with more exits for smaller segments"
_STAGES = {"parse": "reading the graph", "build": "compiling", "write": "writing the plan"}


def _build(
    compiler: Compiler, request: dict[str, Any], what: str, stage: Callable[[Mapping[str, Any]], None]
) -> tuple[dict[str, Any], list[str]]:
    """Builds an engine. Returns the builder's `done` event and its warnings. Raises BackendError; InputError for a full disk."""
    warnings = []
    with BuilderProcess(compiler.python, request) as child:
        for event in child.events():
            if event["event"] == "stage":
                stage(event)
            elif event["event"] == "warning":
                warnings.append(event["text"])
            elif event["event"] == "failed" and event["kind"] == "disk":
                raise InputError(f"{what}: the plan cannot be written: {event['text']}")
            elif event["event"] == "failed":
                text = event["text"]
                advice = _ADVICE if any(word in text for word in _OUT_OF_MEMORY) else ""
                raise BackendError(f"{what}: {compiler.title} cannot build it: {text}{advice}")
            elif event["event"] == "done":
                return event, warnings
        ended = child.wait()
    raise BackendError(f"{what}: the builder ended {ended}{_ADVICE if ended.out_of_memory else ''}")
