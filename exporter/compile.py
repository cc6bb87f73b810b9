"""`rexit compile`: TensorRT engines for a bundle's variant.

1. Find a Python that has a compiler's binding and ask it what it is, what it compiles for and which GPU is at hand.
2. Settle whom the engines are for, or say in one line why that cannot be.
3. Derive the sizes they take from the variant's limits, the catalog and the golden slates.
4. Where the engines already there were built by the same compiler from the same graphs for the same sizes, nothing is to do.
5. Build each segment in a process of its own (`rexit.exporter.engine.engine_builder`); the folder takes its place when
   all are there.
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

_LEAST_CAPABILITY = {"fp8": 8.9}


@dataclass(frozen=True)
class SegmentBuild:
    """One segment as it was built. peak_bytes: the most memory its process had."""

    layers: tuple[int, int]
    engine_layers: int
    summary: dict[str, int]
    bytes: int
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class VariantBuild:
    """The engines of one variant; `segments` is empty when they were up to date."""

    variant: str
    key: str
    folder: str
    up_to_date: bool
    bytes: int
    segments: tuple[SegmentBuild, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CompileReport:
    """What a compile did. `gpu` is None for engines built for a compute capability and not for a GPU at hand."""

    bundle: str
    python: str
    builder: str
    version: str
    gpu: str | None
    compute_capability: str
    variants: tuple[VariantBuild, ...]

    def to_json(self) -> dict[str, Any]:
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
    """Builds the engines of some TensorRT variants, of all of them when none is named.

    compute_capability: e.g. "8.6", to build for (TensorRT-RTX alone); None: that of the GPU at hand. builder: `tensorrt` or
    `tensorrt_rtx`; None: the first one there that can do it. python: the Python that has its binding; None: this one, else the
    system's. workspace_bytes: the most scratch memory the compiler may take on the GPU. onnxruntime: for its TensorRT provider,
    which stays in an engine's first profile: one profile for all passes, and a graph around each plan. force: build what is up to
    date too.
    Raises InputError, also while another process writes into the bundle, BundleError, or BackendError when there is no compiler
    for it or it fails; the engines there before stay.
    """
    if workspace_bytes is not None and workspace_bytes < 1:
        raise InputError(f"workspace is {workspace_bytes} bytes, expected at least 1")
    with sole_writer(Path(bundle)):
        opened = _tensorrt_variants(Path(bundle), variants)
        progress("looking for a compiler", 0, 1)
        compiler, target = find_compiler(python, builder, compute_capability)
        progress("looking for a compiler", 1, 1)
        for one in opened:
            least = _LEAST_CAPABILITY.get(one.variant.precision, 0.0)
            if float(target.compute_capability) < least:
                raise InputError(
                    f"{one.variant.name} needs compute capability {least}, engines would be for {target.compute_capability}; "
                    "name the other variants with --variant"
                )
        if onnxruntime and compiler.standalone:
            raise InputError(f"ONNX Runtime's TensorRT provider runs no engines of {compiler.title}, expected TensorRT's own")
        if onnxruntime and importlib.util.find_spec("onnx") is None:
            raise BackendError("the package `onnx` is missing, it wraps plans for ONNX Runtime: pip install 'rexit[tensorrt]'")
        built = tuple(_compile_variant(one, compiler, target, workspace_bytes, onnxruntime, force, progress) for one in opened)
    return CompileReport(
        str(bundle), compiler.python, compiler.name, compiler.version, target.gpu, target.compute_capability, built
    )


def profiles_of(bundle: Bundle, onnxruntime: bool = False) -> tuple[OptimizationProfile, ...]:
    """What passes an engine of this variant takes: at most what the limits and the catalog allow, usually a slate of 20
    candidates as long as the golden samples' are.

    1. Passes behind nothing, P = 0: the prefix itself, for which one row is tuned.
    2. Passes behind a prefix, P >= 1: slates, for which it is tuned, and what a prefix does not share with another.
    One profile from P = 0 on would tune neither, and a compiler may raise its least to 1. Without prefixes there are only slates.
    `onnxruntime`: it can use one profile, so all passes are in it.
    """
    limit, prompt = bundle.variant.max_tokens, bundle.catalog.info["prompt"]
    most_prefix = int(prompt["max_prefix_tokens"])
    most_tokens = max(limit, most_prefix)  # the prefix is filled by the same graph
    golden = bundle.golden().slates
    candidate = max(1, statistics.median_high([len(tokens) for slate in golden for tokens in slate.candidates]))
    prefix = min(statistics.median_high([len(slate.prefix) for slate in golden]), most_prefix)
    rows = max(1, min(slates.SIZE, limit // candidate))
    tokens = (1, min(rows * candidate, most_tokens), most_tokens)
    if onnxruntime or most_prefix == 0:
        return (OptimizationProfile(tokens, (0, prefix, most_prefix), (1, rows, limit)),)
    return (
        OptimizationProfile((1, max(1, prefix), most_tokens), (0, 0, 0), (1, 1, limit)),
        OptimizationProfile(tokens, (1, max(1, prefix), most_prefix), (1, rows, limit)),
    )


def _tensorrt_variants(path: Path, names: Sequence[str]) -> list[Bundle]:
    """Opened, with the graphs they name unedited. Raises InputError or BundleError."""
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


def _compile_variant(
    bundle: Bundle,
    compiler: Compiler,
    target: BuildTarget,
    workspace_bytes: int | None,
    onnxruntime: bool,
    force: bool,
    progress: Progress,
) -> VariantBuild:
    variant, profiles = bundle.variant, profiles_of(bundle, onnxruntime)
    capability = target.compute_capability
    key = engine_key(compiler.name, compiler.version, capability)
    folder = bundle.folder / FOLDER / key
    if not force and (there := _up_to_date(folder, bundle, profiles, onnxruntime, target.gpu)) is not None:
        return VariantBuild(variant.name, key, str(folder), True, there.bytes, (), ())
    cache = None if compiler.standalone else folder.with_name(f"timing-{key}.cache")
    engines, reports, warnings = [], [], []
    with new_folder(folder) as place:
        for k, segment in enumerate(variant.segments):
            request = {
                "do": "build",
                "builder": compiler.name,
                "graph": str((bundle.folder / segment.graph).resolve()),
                "plan": str(place / f"segment-{k}.plan"),
                "profiles": [_ranges(segment, profile) for profile in profiles],
                "compute_capability": capability,
                "timing_cache": None if cache is None else str(cache.resolve()),
                "workspace_bytes": workspace_bytes,
            }
            what = f"{variant.name}, segment {k}"

            def stage(event: Mapping[str, Any], k: int = k, what: str = what) -> None:
                progress(f"{what}: {_STAGES[event['stage']]}", k, len(variant.segments))

            done, heard = _build(compiler, request, f"{what} ({segment.graph})", stage)
            warnings += heard
            plan, context = f"segment-{k}.plan", None
            if onnxruntime:
                from rexit.exporter.engine.ep_context import wrap_plan

                context = f"segment-{k}.context.onnx"
                wrap_plan(bundle.folder / segment.graph, plan, capability, place / context)
            engines.append(
                EngineSegment(
                    plan=plan,
                    context=context,
                    graph_sha256=variant.files[segment.graph].sha256,
                    weights_sha256=variant.files[segment.weights].sha256,
                    profiles=profiles,
                    seconds=round(done["seconds"], 3),
                    layers=done["layers"],
                    summary=done["summary"],
                )
            )
            size = (place / plan).stat().st_size
            reports.append(
                SegmentBuild(segment.layers, done["layers"], done["summary"], size, done["seconds"], done["peak_bytes"])
            )
        progress(f"{variant.name}: digests", len(engines), len(engines))
        files = {path.name: FileEntry.of(path) for path in sorted(place.iterdir())}
        engine = Engine(variant.name, compiler.name, compiler.version, target.gpu, capability, tuple(engines), files)
        engine.write(place)
    return VariantBuild(variant.name, key, str(folder), False, engine.bytes, tuple(reports), tuple(dict.fromkeys(warnings)))


_OUT_OF_MEMORY = ("bad_alloc", "OutOfMemory", "out of memory", "Resource temporarily unavailable")  # the last: for a thread
_ADVICE = "; most likely out of memory: stop other programs, add swap, or export with more exits for smaller segments"
_STAGES = {"parse": "reading the graph", "build": "compiling", "write": "writing the plan"}


def _up_to_date(
    folder: Path, bundle: Bundle, profiles: tuple[OptimizationProfile, ...], onnxruntime: bool, gpu: str | None
) -> Engine | None:
    """The engines in the folder, if nothing they depend on has changed. Its name tells the compiler and the capability."""
    if not folder.is_dir():
        return None
    try:
        engine = Engine.read(folder)
    except BundleError:
        return None
    same = engine.gpu == gpu and engine.stale(bundle.variant) is None
    sizes = all(s.profiles == profiles and (s.context is not None) == onnxruntime for s in engine.segments)
    return engine if same and sizes and not engine.edited(folder) else None


def _ranges(segment: Segment, profile: OptimizationProfile) -> dict[str, tuple[int, int, int]]:
    """Each input's dynamic size."""
    out: dict[str, tuple[int, int, int]] = {}
    for role, name in segment.inputs.items():
        if role in ("past_keys", "past_values"):
            out |= dict.fromkeys(name, profile.prefix)
        else:
            out[name] = profile.rows if role == "rows" else profile.tokens
    return out


def _build(
    compiler: Compiler, request: dict[str, Any], what: str, stage: Callable[[Mapping[str, Any]], None]
) -> tuple[dict[str, Any], list[str]]:
    """One engine. Returns the builder's `done` event and its warnings. Raises BackendError, or InputError for a full disk."""
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
                raise BackendError(f"{what}: {compiler.title} does not build it: {text}{advice}")
            elif event["event"] == "done":
                return event, warnings
        ended = child.wait()
    raise BackendError(f"{what}: the builder ended {ended}{_ADVICE if ended.out_of_memory else ''}")
