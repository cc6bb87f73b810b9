"""`rexit build`: heads, export and calibration in one command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from rexit import __version__
from rexit.doors.cli.common.arguments import CatalogOption, RerankerOption, SlatesOption, answers_of, check_one_source
from rexit.doors.cli.common.output import SILENCE, print_table, progress, say, shown, stdout
from rexit.doors.cli.make.calibrate import calibrate_variant
from rexit.errors import InputError
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.progress import DETAIL, Progress

if TYPE_CHECKING:
    from rexit.calibration import Calibration
    from rexit.format.bundle import Bundle

_STATE, _CHECKPOINT = "build.json", "checkpoint"
_SHARES = {"heads": 0.24, "export": 0.32, "calibrate": 0.44}
"""What each step takes of the whole: MiniLM's, on 1,000 queries of 20 documents."""
_FIT_SLATES, _CHOOSE_SLATES, _GATE_SLATES, _TEST_SLATES = 400, 120, 100, 150
"""Most slates of a log that fit heads, choose them, judge a precision, test the policy. More change little, and take minutes."""
_DROPS = (0.01, 0.02, 0.05, 0.1)
"""Losses to certify: the first that the log's queries can confirm."""
_EXACT, _SAME = "cpu-fp32", "same first 10 as above"
_TIMED, _REPEATS = 8, 5
"""Slates that are timed, and how often each."""
_LONG = {"heads": "forward pass, tokens", "export": "validation slates, ", "calibrate": "validation"}
"""The longest stage of each step."""
_ENOUGH = 0.05
"""Share of it that tells how long the rest takes."""


# Long because typer takes the options, their defaults and their help from the signature.
def build(
    model: Annotated[str, typer.Argument(help="Folder of a model or PEFT adapter, GGUF file or Hub name.")],
    out: Annotated[Path, typer.Option(help="The bundle. OUT.build keeps the steps before it.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    precision: Annotated[str | None, typer.Option(help="As of export. Default: those that this machine runs fast.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Most that a metric may lose. Default: 0.01, or what a small log can confirm.")
    ] = None,
    reranker: RerankerOption = None,
) -> None:
    """Make a calibrated bundle of a model: heads, export and calibrate, one after the other.

    ```
    rexit build cross-encoder --slates queries.jsonl --out bundle
    rexit build SmolLM2-135M --catalog catalog --out bundle
    ```

    A log of `query` and `candidates` is enough. Without labels a bundle holds the model's ranking, not the truth. The three
    commands have more options. A checkpoint with exits keeps its heads. Stopped, it continues where it was. A precision that
    ranks worse is left out, and the page at the end says why.
    """
    check_one_source(catalog, slates)
    bundle, result, refused = _build(model, out, catalog, slates, precision, max_drop, reranker)
    _print_page(bundle, catalog, result, refused)
    lines = (
        'Recommender("{}").recommend(user, top_k=10)'
        if catalog is not None
        else 'Reranker("{}").rank(query, documents, top_k=10)'
    )
    stdout.print(f"\n{bundle.variant.name} answers:\n\n  import rexit\n  rexit.{lines.format(out)}\n\n  rexit serve {out}")


def _build(
    model: str,
    out: Path,
    catalog: Path | None,
    slates: Path | None,
    precision: str | None,
    max_drop: float | None,
    reranker: str | None,
) -> tuple[Bundle, Calibration | None, Mapping[str, str]]:
    """Returns the bundle with its calibrated variant, the calibration (None: it has one exit), and why other variants are not in
    the bundle, by name."""
    from rexit.calibration import CalibrationOptions
    from rexit.calibration.goal import check_max_drop
    from rexit.exporter.checkpoints.checkpoint import EXITS
    from rexit.exporter.export import export_bundle
    from rexit.exporter.heads.frozen_heads import fit_heads
    from rexit.exporter.libraries import fast_on_cpu
    from rexit.exporter.preflight import chosen_targets
    from rexit.format.bundle import Bundle

    answers = answers_of(reranker, catalog)
    fast = (*filter(fast_on_cpu, ("int8", "bf16")), "fp32")  # the fastest first
    precisions = fast if precision is None else tuple(part.strip() for part in precision.split(","))
    chosen_targets("cpu", precisions)
    data = catalog / "catalog.json" if catalog is not None else slates
    if data is None or not data.is_file():
        raise InputError(f"{catalog or slates}: {'no such catalog folder' if catalog else 'no such file'}")
    drop = max_drop if max_drop is not None else _DROPS[0] if slates is None else _confirmable(slates)
    check_max_drop(drop)
    state = _State.of(out, model, data, precision, reranker)
    has_exits = (Path(model) / EXITS).is_file()
    checkpoint, left = Path(model) if has_exits else state.folder / _CHECKPOINT, _Left(say)
    with progress() as bar:
        if has_exits or (state.values.heads and checkpoint.is_dir()):
            left.skip("heads")
        else:
            limits: dict[str, Any] = {} if slates is None else {"max_slates": _FIT_SLATES, "validation_slates": _CHOOSE_SLATES}
            heads = HeadsOptions(**answers, **limits)
            fit_heads(model, catalog, checkpoint, heads, slates=slates, progress=left.step("heads", shown(bar)))
        state.finish(heads=True)
        if (exported := state.values.export) is not None and out.is_dir():
            left.skip("export")
        else:
            text = (checkpoint / "tokenizer.json").is_file()
            gate: dict[str, Any] = {} if slates is None else {"quality_slates": _GATE_SLATES}
            export = ExportOptions(**answers, precisions=precisions, with_tokenizer=text, **gate)
            report = export_bundle(checkpoint, catalog, out, export, slates=slates, progress=left.step("export", shown(bar)))
            exported = _Exported(precision=precision, refused=report.refused)
            state.finish(export=exported)
        variants, result = [Bundle.open(out, name) for name in Bundle.open(out).manifest.variants], None
        opened = next((bundle for bundle in variants if len(bundle.exits) > 1), variants[0])
        if len(opened.exits) > 1:
            options = CalibrationOptions(max_drop=drop, test_slates=0 if slates is None else _TEST_SLATES)
            result = calibrate_variant(opened, catalog, slates, options, left.step("calibrate", shown(bar)))
    return opened, result, exported.refused


def _confirmable(slates: Path) -> float:
    """Returns the least of _DROPS that the queries of a log can certify; with labels the first, as losses may be gains.

    Raises:
        InputError: None of them, not even if nobody loses anything.
    """
    import numpy as np

    from rexit.calibration.certify import users_needed
    from rexit.data.slates_file import certifying_groups

    count, labelled = certifying_groups(slates)
    needed = {drop: users_needed(np.zeros(1), (0.0, 1.0), drop) for drop in _DROPS}
    drop = next((drop for drop in _DROPS if labelled or count >= needed[drop]), None)
    if drop is None:
        raise InputError(
            f"{slates}: {count} of its queries certify, expected at least {needed[_DROPS[-1]]:.0f}: about a quarter of a log does"
        )
    if drop > _DROPS[0]:
        say(f"rexit: {count} queries certify: a loss of {drop:g} can be confirmed; {_DROPS[0]:g} takes {needed[_DROPS[0]]:.0f}")
    return drop


def _print_page(bundle: Bundle, catalog: Path | None, result: Calibration | None, refused: Mapping[str, str]) -> None:
    """Prints what was gained, what was refused and why, and what it would take."""
    if result is None:
        stdout.print("No earlier layer has a head worth stopping at: the bundle has one exit, and answers at its depth.")
    else:
        for line in result.verdict.lines:
            stdout.print(line, soft_wrap=False)
        print_table("A query, before and after, timed in turn on this machine", _gains(bundle, catalog, result.report))
        if result.verdict.shortfall is not None:
            stdout.print(f"Earlier stops: {result.verdict.shortfall}.")
    for name, reason in refused.items():
        stdout.print(f"{name} is not in the bundle: {reason}")


def _gains(bundle: Bundle, catalog: Path | None, report: Mapping[str, Any]) -> list[dict[str, object]]:
    """Rows of the model in float32, of the variant at full depth, and with its policy."""
    ways = {row["policy"]: row for row in report["table"]}
    quality, overlap = bundle.variant.quality, "top-k-overlap@10"
    same = {
        "full depth": quality["exits"][-1].get("overlap") if quality else None,
        "policy": ways["policy"]["values"].get(overlap),
    }
    rows: list[dict[str, object]] = []
    for name, value in same.items():
        way = ways[name]
        rows.append(
            {
                "": f"{bundle.variant.name}, {name}",
                "ms": f"{way['ms_per_slate']:.1f}",
                "layers": f"{way['mean_layers']:.1f}",
                _SAME: "" if value is None else f"{value:.4f}",
                **{metric: f"{way['values'][metric]:.4f}" for metric in report["settings"]["metrics"]},
            }
        )
    if same["policy"] is None:  # with labels
        for row in rows:
            del row[_SAME]
    if _EXACT not in bundle.manifest.variants or bundle.variant.name == _EXACT:
        return rows
    before, *after = _times(bundle, catalog)
    exact = dict.fromkeys(rows[0], "") | {"": "the model, float32", "ms": f"{before:.1f}", "layers": rows[0]["layers"]}
    return [exact, *({**row, "ms": f"{time_ms:.1f}"} for row, time_ms in zip(rows, after, strict=True))]


def _times(bundle: Bundle, catalog: Path | None) -> list[float]:
    """Median milliseconds of a slate by float32, and by the bundle's variant at full depth and with its policy. The slates are
    golden ones, of a catalog its test users'."""
    import numpy as np

    from rexit import Request, runtime
    from rexit.data.slates import cut, spread
    from rexit.format.bundle import Catalog

    if catalog is not None:
        requests = [slate.request for slate in spread(cut(Catalog.open(catalog), "test"), _TIMED)]
    else:
        golden = bundle.golden().slates[:_TIMED]
        requests = [Request.tokens(slate.prefix, slate.candidates, slate.scores or None) for slate in golden]
    last = len(bundle.exits) - 1
    exact, fast = (runtime.open(bundle.path, name) for name in (_EXACT, bundle.variant.name))
    modes = ((exact, exact.info.exits - 1), (fast, last), (fast, None))

    def micros_of(session: runtime.Session, request: Request, exit_: int | None) -> float:
        session.clear_cache()  # as in the report, whose rows these are beside
        return session.score(request, force_exit=exit_).stats.total_us

    with contextlib.closing(exact), contextlib.closing(fast):
        micros = [[[micros_of(s, request, exit_) for s, exit_ in modes] for request in requests] for _ in range(_REPEATS)]
    return [float(value) / 1000 for value in np.median(micros, axis=0).mean(0)]


class _Exported(msgspec.Struct):
    """What an export was asked for and said."""

    precision: str | None
    refused: dict[str, str]


class _Values(msgspec.Struct):
    """build.json. begun: what the heads depend on. heads: whether they are done. export: None: it is not."""

    begun: dict[str, str | None]
    heads: bool = False
    export: _Exported | None = None


class _State:
    """OUT.build.

    Attributes:
        folder: Its path.
        values: What was begun with, and what each finished step said.
    """

    def __init__(self, folder: Path, values: _Values) -> None:
        self.folder, self.values = folder, values

    @classmethod
    def of(cls, out: Path, model: str, data: Path, precision: str | None, reranker: str | None) -> _State:
        """Opens the state, of which nothing is on disk before the first step is finished.

        Raises:
            InputError: It began with something else.
        """
        from rexit.exporter.checkpoints.checkpoint import checkpoint_sha256
        from rexit.exporter.checkpoints.weights import located
        from rexit.format.bundle.files import digest, read_typed

        folder = out.with_name(out.name + ".build")
        if not (folder / _STATE).is_file() and out.exists():
            raise InputError(f"{out}: exists, and no {folder.name} beside it says what of; choose another place")
        begun = {
            "model": checkpoint_sha256(located(model)),
            "data": digest(data),
            "reranker": reranker,
            "rexit": __version__,
        }
        values = read_typed(folder / _STATE, _Values) if (folder / _STATE).is_file() else _Values(begun)
        remedy = f"delete it and {out}, or choose another"
        for name, value in begun.items():
            if (before := values.begun.get(name)) != value:
                other = f"another {name}" if name in ("model", "data") else f"{name} {before!r}, expected {value!r}"
                raise InputError(f"{folder}: began with {other}: {remedy}")
        if values.export is not None and out.is_dir() and values.export.precision != precision:
            raise InputError(
                f"{out}: was exported with precision {values.export.precision!r}, expected {precision!r}: delete it, or choose "
                "another"
            )
        return cls(folder, values)

    def finish(self, **steps: Any) -> None:
        """Records finished steps."""
        from rexit.format.bundle.files import write_typed

        self.values = msgspec.structs.replace(self.values, **steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_typed(self.folder / _STATE, self.values)


class _Left:
    """Says how many minutes are left: at the beginning of each step, and once a minute.

    The longest stage of a step tells how far it is. Finished steps tell how long the others take, by `_SHARES`.

    Args:
        say: Called with a line.
        clock: Returns seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._rest, self._worked, self._seconds = dict(_SHARES), 0.0, 0.0

    def skip(self, step: str) -> None:
        """A step was finished before."""
        del self._rest[step]

    def step(self, step: str, show: Progress) -> Progress:
        """Begins a step. Returns its Progress, which also calls `show`."""
        share, begin, number = self._rest.pop(step), self._clock(), len(_SHARES) - len(self._rest)
        rest, before, worked = sum(self._rest.values()), self._seconds, self._worked
        said, stage, stage_began = -1.0, "", begin

        def report(what: str, done: int, total: int) -> None:
            nonlocal said, stage, stage_began
            show(what, done, total)
            if what == "load" and not done:  # what cannot be loaded is refused in one line
                return
            now, name = self._clock(), what.split(DETAIL)[0]
            if name != stage:
                stage, stage_began = name, now
            part = done / total if total and name.startswith(_LONG[step]) else 0.0
            self._seconds, self._worked = before + now - begin, worked + share
            if said >= 0 and (now - said < SILENCE or part < _ENOUGH):
                return
            said = now
            whole = stage_began - begin + (now - stage_began) / part if part else 0.0  # seconds of this step
            parts = worked + share if whole else worked
            minutes = (
                (whole - (now - begin) + ((0 if whole else share) + rest) * (before + whole) / parts) / 60 if parts else None
            )
            about = "" if minutes is None else f", about {max(1, round(minutes))} min left"
            self._say(f"rexit: step {number} of {len(_SHARES)}, {step}{about}")

        return report
