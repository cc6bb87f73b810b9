"""`rexit compile`: TensorRT engines for a bundle's variants.

1. Find a Python with a compiler's bindings and ask it for the version, what it compiles for and which GPU this machine has.
2. Decide what the engines are built for, or say in one line why they cannot be built.
3. Derive the sizes they accept from the variant's limits, the catalog and the golden slates.
4. If existing engines were built by the same compiler from the same graphs for the same sizes, there is nothing to do.
5. Build each segment in its own process (`rexit.exporter.engine.engine_builder`); the folder is put in place when all are done.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit import slates
from rexit.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile, Segment, new_folder, sole_writer
from rexit.bundle.engine import FOLDER, engine_key
from rexit.bundle.files import check_hashes
from rexit.errors import BackendError, BundleError, InputError
from rexit.exporter.engine.builder_process import BuilderProcess
from rexit.exporter.engine.compilers import BuildTarget, Compiler, find_compiler
from rexit.progress import Progress, silent

_MIN_CAPABILITY = {"fp8": 8.9}
"""The lowest compute capability for a precision."""


@dataclass(frozen=True)
class SegmentBuild:
    """How one segment was built. peak_bytes: peak memory of the builder's process, None if unknown."""

    layers: tuple[int, int]
    engine_layers: int
    summary: dict[str, int]
    bytes: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class VariantBuild:
    """The engines of one variant; `segments` is empty if they were up to date."""

    variant: str
    key: str
    folder: str
    up_to_date: bool
    bytes: int
    segments: tuple[SegmentBuild, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CompileReport:
    """What a compile did. `gpu` is None for engines built for a compute capability rather than this machine's GPU."""

    bundle: str
    python: str
    builder: str
    version: str
    gpu: str | None
    compute_capability: str
    variants: tuple[VariantBuild, ...]

    def to_json(self) -> dict[str, Any]:
        """What `rexit compile --json` prints: plain JSON values."""
        return asdict(self)


def compile_engines(
    bundle: Path,
    variants: Sequence[str] = (),
    *,
    compute_capability: str | None = None,
    builder: str | None = None,
    python: str | None = None,
    workspace_bytes: int | None = None,
    onnxruntime: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> CompileReport:
    """Builds the engines of the named TensorRT variants, or of all if none is named.

    compute_capability: to build for, e.g. "8.6" (TensorRT-RTX only); None: this machine's GPU. builder: `tensorrt` or
    `tensorrt_rtx`; None: the first one installed that can build for it. python: the Python with its bindings; None: this one,
    else the system's. workspace_bytes: scratch memory on the GPU that the compiler may use at most. onnxruntime: for ONNX
    Runtime's TensorRT provider, which uses only an engine's first profile: one profile for all passes, and a graph around each
    plan. force: rebuild what is up to date, too.

    Raises InputError, also while another process is writing to the bundle; BundleError; BackendError if there is no suitable
    compiler or it fails. Existing engines stay until new ones replace them.
    """
    if workspace_bytes is not None and workspace_bytes < 1:
        raise InputError(f"workspace is {workspace_bytes} bytes, expected at least 1")
    with sole_writer(Path(bundle)):
        opened = _tensorrt_variants(Path(bundle), variants)
        progress("looking for a compiler", 0, 1)
        compiler, target = find_compiler(python, builder, compute_capability)
        progress("looking for a compiler", 1, 1)
        for one in opened:
            least = _MIN_CAPABILITY.get(one.variant.precision, 0.0)
            if float(target.compute_capability) < least:
                raise InputError(
                    f"{one.variant.name} needs compute capability {least} or higher, engines would be for "
                    f"{target.compute_capability}; name the other variants with --variant"
                )
        if onnxruntime and compiler.standalone:
            raise InputError(f"ONNX Runtime's TensorRT provider cannot run engines of {compiler.title}, expected TensorRT's own")
        if onnxruntime and importlib.util.find_spec("onnx") is None:
            raise BackendError(
                "the package `onnx`, which wraps plans for ONNX Runtime, is missing: pip install 'rexit[tensorrt]'"
            )
        compilation = _Compilation(compiler, target, workspace_bytes, onnxruntime, force, progress)
        built = tuple(compilation.variant(one) for one in opened)
    return CompileReport(
        str(bundle), compiler.python, compiler.name, compiler.version, target.gpu, target.compute_capability, built
    )


def optimization_profiles(bundle: Bundle, onnxruntime: bool = False) -> tuple[OptimizationProfile, ...]:
    """The passes that an engine of this variant accepts: up to what the limits and the catalog allow, tuned for a slate of
    `slates.SIZE` candidates as long as the golden samples'.

    1. Passes with an empty prefix, P = 0: the prefix itself, tuned for one row.
    2. Passes behind a prefix, P >= 1: slates, which it is tuned for, and the part of a prefix that it does not share with
       another.
    One profile starting at P = 0 would tune neither, and a compiler may raise its minimum to 1. Without prefixes there are only
    slates. `onnxruntime`: it can use only one profile, which then covers all passes.
    """
    limit, prompt = bundle.variant.max_tokens, bundle.catalog.info["prompt"]
    max_prefix = int(prompt["max_prefix_tokens"])
    max_tokens = max(limit, max_prefix)  # the prefix is filled by the same graph
    golden = bundle.golden().slates
    candidate = max(1, statistics.median_high([len(tokens) for slate in golden for tokens in slate.candidates]))
    prefix = min(statistics.median_high([len(slate.prefix) for slate in golden]), max_prefix)
    rows = max(1, min(slates.SIZE, limit // candidate))
    tokens = (1, min(rows * candidate, max_tokens), max_tokens)
    if onnxruntime or max_prefix == 0:
        return (OptimizationProfile(tokens, (0, prefix, max_prefix), (1, rows, limit)),)
    return (
        OptimizationProfile((1, max(1, prefix), max_tokens), (0, 0, 0), (1, 1, limit)),
        OptimizationProfile(tokens, (1, max(1, prefix), max_prefix), (1, rows, limit)),
    )


def _tensorrt_variants(path: Path, names: Sequence[str]) -> list[Bundle]:
    """The variants' bundles, opened, with the hashes of their graphs checked. Raises InputError or BundleError."""
    there = Bundle.open(path).manifest.variants
    opened = [Bundle.open(path, name) for name in dict.fromkeys(names or there)]
    chosen = [one for one in opened if one.variant.target == "tensorrt"]
    if not names and not chosen:
        raise InputError(
            f"{path}: no variant for TensorRT, there are: {', '.join(there)}; `rexit export --target tensorrt` makes one"
        )
    for one in opened:
        if names and one not in chosen:
            raise InputError(
                f"{path}: variant {one.variant.name!r} is for {one.variant.target!r}, engines are for `tensorrt` variants"
            )
    for one in chosen:
        for segment in one.variant.segments:
            if missing := {segment.graph, segment.weights} - set(one.variant.files):
                raise BundleError(f"{one.folder}/variant.json: does not list {', '.join(sorted(missing))}")
            files = {name: one.variant.files[name] for name in (segment.graph, segment.weights)}
            for line in check_hashes(one.folder, files):
                raise BundleError(line)
    return chosen


@dataclass(frozen=True)
class _Compilation:
    """One run of `compile_engines`: with which compiler, for what, and how."""

    compiler: Compiler
    target: BuildTarget
    workspace_bytes: int | None
    onnxruntime: bool
    force: bool
    progress: Progress

    def variant(self, bundle: Bundle) -> VariantBuild:
        """Builds the selected variant's engines, unless they are up to date."""
        variant, compiler = bundle.variant, self.compiler
        profiles = optimization_profiles(bundle, self.onnxruntime)
        key = engine_key(compiler.name, compiler.version, self.target.compute_capability)
        folder = bundle.folder / FOLDER / key
        if not self.force and (there := self._up_to_date(folder, bundle, profiles)) is not None:
            return VariantBuild(variant.name, key, str(folder), True, there.bytes, (), ())
        cache = None if compiler.standalone else folder.with_name(f"timing-{key}.cache")
        engines, reports, warnings = [], [], []
        with new_folder(folder) as place:
            for k in range(len(variant.segments)):
                engine_segment, report, heard = self._segment(bundle, k, profiles, cache, place)
                engines.append(engine_segment)
                reports.append(report)
                warnings += heard
            self.progress(f"{variant.name}: digests", len(engines), len(engines))
            files = {path.name: FileEntry.of(path) for path in sorted(place.iterdir())}
            engine = Engine(
                variant.name,
                compiler.name,
                compiler.version,
                self.target.gpu,
                self.target.compute_capability,
                tuple(engines),
                files,
            )
            engine.write(place)
        return VariantBuild(variant.name, key, str(folder), False, engine.bytes, tuple(reports), tuple(dict.fromkeys(warnings)))

    def _up_to_date(self, folder: Path, bundle: Bundle, profiles: tuple[OptimizationProfile, ...]) -> Engine | None:
        """The engines in the folder, if nothing they depend on has changed. Its name covers the compiler and the capability."""
        if not folder.is_dir():
            return None
        try:
            engine = Engine.read(folder)
        except BundleError:
            return None
        same = engine.gpu == self.target.gpu and engine.stale(bundle.variant) is None
        sizes = all(s.profiles == profiles and (s.context is not None) == self.onnxruntime for s in engine.segments)
        return engine if same and sizes and not engine.edited(folder) else None

    def _segment(
        self, bundle: Bundle, k: int, profiles: tuple[OptimizationProfile, ...], cache: Path | None, place: Path
    ) -> tuple[EngineSegment, SegmentBuild, list[str]]:
        """Builds segment k into `place`. Returns its description, its report and the compiler's warnings."""
        variant, segment = bundle.variant, bundle.variant.segments[k]
        capability, plan, context = self.target.compute_capability, f"segment-{k}.plan", None
        request = {
            "do": "build",
            "builder": self.compiler.name,
            "graph": str((bundle.folder / segment.graph).resolve()),
            "plan": str(place / plan),
            "profiles": [_ranges(segment, profile) for profile in profiles],
            "compute_capability": capability,
            "timing_cache": None if cache is None else str(cache.resolve()),
            "workspace_bytes": self.workspace_bytes,
        }
        what = f"{variant.name}, segment {k}"

        def stage(event: Mapping[str, Any]) -> None:
            self.progress(f"{what}: {_STAGES[event['stage']]}", k, len(variant.segments))

        done, warnings = _build(self.compiler, request, f"{what} ({segment.graph})", stage)
        if self.onnxruntime:
            from rexit.exporter.engine.ep_context import wrap_plan

            context = f"segment-{k}.context.onnx"
            wrap_plan(bundle.folder / segment.graph, plan, capability, place / context)
        engine_segment = EngineSegment(
            plan=plan,
            context=context,
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


_OUT_OF_MEMORY = (
    "bad_alloc",
    "OutOfMemory",
    "out of memory",
    "Resource temporarily unavailable",
)  # the last one: no memory for a thread
_ADVICE = "; probably out of memory: stop other programs, add swap, or export with more exits for smaller segments"
_STAGES = {"parse": "reading the graph", "build": "compiling", "write": "writing the plan"}


def _ranges(segment: Segment, profile: OptimizationProfile) -> dict[str, tuple[int, int, int]]:
    """The range (min, opt, max) of each input's dynamic size."""
    out: dict[str, tuple[int, int, int]] = {}
    for role, name in segment.inputs.items():
        if role in ("past_keys", "past_values"):
            out |= dict.fromkeys(name, profile.prefix)
        else:
            # There are no more vectors than tokens, and at least one.
            out[name] = profile.rows if role == "rows" else profile.tokens
    return out


def _build(
    compiler: Compiler, request: dict[str, Any], what: str, stage: Callable[[Mapping[str, Any]], None]
) -> tuple[dict[str, Any], list[str]]:
    """Builds one engine. Returns the builder's `done` event and its warnings. Raises BackendError, or InputError for a full
    disk."""
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
