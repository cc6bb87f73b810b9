"""`rexit compile`: TensorRT engines for a bundle's variants, built by `engine_builder.py` in processes of their own.

1. Find a Python with a compiler's bindings and ask it for the version, what it compiles for and which GPU this machine has.
2. Choose the build target, or raise the reason why there is none.
3. Derive the engines' sizes from the variant's limits, the catalog and the golden slates: optimization profiles.
4. Skip engines that the same compiler built from the same graphs for the same sizes.
5. Build each segment in its own process (`rexit.exporter.engine.engine_builder`). The folder replaces the old one at the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit.data import slates
from rexit.errors import BackendError, BundleError, InputError
from rexit.format.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile, Segment, new_folder, sole_writer
from rexit.format.bundle.files import check_hashes
from rexit.format.bundle.variant import BUILDERS, ENGINES, Builder, Gpu, engine_key
from rexit.progress import Progress, silent

SCRIPT = Path(__file__).with_name("engine_builder.py")


@dataclass(frozen=True)
class Ended:
    """The end of a builder: exit code (-N for signal N), last line of stderr, peak memory according to the kernel."""

    code: int
    last_line: str
    peak_bytes: int

    def __str__(self) -> str:
        names = {s.value: s.name for s in signal.Signals}
        how = f"with exit code {self.code}"
        if self.code < 0:
            how = f"by {names.get(-self.code, f'signal {-self.code}')} at {self.peak_bytes / 1e6:.0f} MB"
        return f"{how}: {self.last_line}" if self.last_line else how

    @property
    def out_of_memory(self) -> bool:
        """Whether it probably ran out of memory: then the kernel kills, C++ aborts, or Python raises MemoryError."""
        return self.code in (-signal.SIGKILL, -signal.SIGABRT) or "MemoryError" in self.last_line


class BuilderProcess:
    """A process of `engine_builder.py` for one request. Leaving the `with` block ends it."""

    def __init__(self, python: str, request: Mapping[str, Any]) -> None:
        """python: the interpreter. Raises InputError if it cannot be run."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._ended: Ended | None = None
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(request).encode())
            stdin.seek(0)
            try:
                # A session of its own: Ctrl-C reaches rexit alone, which kills the builder even inside C++ code.
                self._process = subprocess.Popen(
                    [python, str(SCRIPT)], stdin=stdin, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
                )
            except OSError as exc:
                self._stderr.close()
                raise InputError(f"{python}: cannot be run: {exc.strerror}") from exc

    def __enter__(self) -> BuilderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            # Not Popen.kill, which would reap a process that has ended: wait() would find none.
            os.kill(self._process.pid, signal.SIGKILL)
            self.wait()
        self._stderr.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields events until the builder ends or prints something else."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                return
            if not isinstance(event, dict) or "event" not in event:
                return
            yield event

    def wait(self) -> Ended:
        """Waits for the builder's end."""
        if self._ended is None:
            assert self._process.stdout is not None
            self._process.stdout.close()  # a builder that still writes gets SIGPIPE
            _, status, usage = os.wait4(self._process.pid, 0)  # Popen.wait does not report memory
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            self._ended = Ended(self._process.returncode, last, usage.ru_maxrss * 1024)
        return self._ended


SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Compiler:
    """A compiler in a Python. targets: compute capabilities it compiles for without a GPU; empty: this machine's GPU only.
    gpu: the one in this machine."""

    python: str
    name: str
    version: str
    targets: tuple[str, ...]
    gpu: Gpu | None

    @property
    def standalone(self) -> bool:
        """Whether it compiles without the target GPU: TensorRT-RTX does, TensorRT does not."""
        return bool(self.targets)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{'TensorRT-RTX' if self.standalone else 'TensorRT'} {self.version}"


def find_compiler(python: str | None, capability: str | None) -> tuple[Compiler, Gpu]:
    """The first compiler that can build for a compute capability, or for this machine's GPU; and what it builds for.

    1. Without `python`, this Python comes first, then the system's.
    2. In each Python TensorRT comes before TensorRT-RTX.
    3. TensorRT builds only for this machine's GPU; TensorRT-RTX for `capability`, by default this machine's GPU's.

    Args:
        python: an interpreter with a compiler's bindings.
        capability: e.g. "8.6".

    Raises:
        InputError: an argument is invalid.
        BackendError: no compiler can build, with the reason of each.
    """
    if capability is not None and not re.fullmatch(r"\d+\.\d+", capability):
        raise InputError(f"compute capability {capability!r}, expected a number like 8.6")
    pythons = [python] if python else [p for p in dict.fromkeys((sys.executable, SYSTEM_PYTHON)) if Path(p).exists()]
    refused: list[str] = []
    missing: list[str] = []
    for interpreter in pythons:
        compilers, errors = _probe(interpreter)
        missing += errors
        for compiler in compilers:
            target = _target(compiler, capability)
            if isinstance(target, Gpu):
                return compiler, target
            refused.append(target)
    if refused:
        raise BackendError("; ".join(dict.fromkeys(refused)))  # two Pythons may have the same compiler
    raise BackendError(
        f"no TensorRT compiler ({'; '.join(missing)}): on a Jetson, name JetPack's Python with --python; "
        "elsewhere, `pip install 'rexit[tensorrt-rtx]'`"
    )


def _target(compiler: Compiler, capability: str | None) -> Gpu | str:
    """What this compiler builds for, or the reason why it cannot."""
    gpu = compiler.gpu
    if not compiler.standalone:
        if gpu is None:
            return f"{compiler.title} builds only for this machine's GPU, and there is none"
        if capability not in (None, gpu.compute_capability):
            own = f"{gpu.name} ({gpu.compute_capability})"
            return f"{compiler.title} builds only for this machine's GPU, {own}, not for {capability}"
        return gpu
    listed = ", ".join(compiler.targets)
    target = gpu if capability is None else Gpu(None, capability)
    if target is None:
        return f"no GPU in this machine: {compiler.title} needs --compute-capability, one of {listed}"
    if target.compute_capability not in compiler.targets:
        whose = "" if target.name is None else f" (of {target.name})"
        return f"{compiler.title} does not compile for {target.compute_capability}{whose}, only for {listed}"
    return target


def _probe(python: str) -> tuple[list[Compiler], list[str]]:
    """A Python's compilers, and a line for each that it lacks. Raises InputError if the Python cannot be run."""
    with BuilderProcess(python, {"do": "probe", "builders": list(BUILDERS)}) as child:
        probe = next((event for event in child.events() if event["event"] == "probe"), None)
        ended = child.wait()
    if probe is None:
        return [], [f"{python}: cannot be run as a Python, it ended {ended}"]
    gpu = Gpu(**probe["gpu"]) if probe["gpu"] else None
    compilers = [
        Compiler(python, builder["name"], builder["version"], tuple(builder["compute_capabilities"] or ()), gpu)
        for builder in probe["builders"]
        if "error" not in builder
    ]
    return compilers, [f"{python}: {builder['error']}" for builder in probe["builders"] if "error" in builder]


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
