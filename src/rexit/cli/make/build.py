"""`rexit build`: heads, export and calibration in one command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit import __version__
from rexit.cli.common.arguments import CatalogOption, RerankerOption, SlatesOption, answers_of, check_one_source
from rexit.cli.common.output import SILENCE, progress, say, shown, stdout
from rexit.cli.make.calibrate import calibrate_variant, print_calibration
from rexit.errors import InputError
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.progress import DETAIL, Progress

if TYPE_CHECKING:
    from rexit.bundle import Bundle

_STATE, _CHECKPOINT = "build.json", "checkpoint"
_SHARES = {"heads": 0.64, "export": 0.17, "calibrate": 0.19}
"""What each step takes of the whole: MiniLM's, on 1,000 queries of 20 documents."""
_LONG = {"heads": "forward pass, tokens", "export": "validation slates, ", "calibrate": "validation"}
"""The longest stage of each step."""
_FAST = {
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm"),
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),
}
"""Instructions by which a precision is faster than float32, of `torch.cpu.get_capabilities`."""


# Long because typer takes the options, their defaults and their help from the signature.
def build(
    model: Annotated[str, typer.Argument(help="Folder of a model or PEFT adapter, GGUF file or Hub name.")],
    out: Annotated[Path, typer.Option(help="The bundle. OUT.build keeps the steps before it.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    precision: Annotated[str | None, typer.Option(help="As of export. Default: those that this machine runs fast.")] = None,
    max_drop: Annotated[float, typer.Option(help="Most that a metric may lose against full depth.")] = 0.01,
    reranker: RerankerOption = None,
) -> None:
    """Make a calibrated bundle of a model: heads, export and calibrate, one after the other.

    ```
    rexit build cross-encoder --slates queries.jsonl --out bundle
    rexit build SmolLM2-135M --catalog catalog --out bundle
    ```

    The three commands have more options. A checkpoint with exits keeps its heads. Slates need no labels. Stopped, it continues
    where it was. A precision that ranks worse is left out, and the page at the end says why.
    """
    check_one_source(catalog, slates)
    bundle, refused = _build(model, out, catalog, slates, precision, max_drop, reranker)
    for name, reason in refused.items():
        stdout.print(f"{name} is not in the bundle: {reason}")
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
    max_drop: float,
    reranker: str | None,
) -> tuple[Bundle, Mapping[str, str]]:
    """Returns the bundle with its calibrated variant, and why others are not in it, by name."""
    from rexit.bundle import Bundle
    from rexit.calibration import CalibrationOptions
    from rexit.exporter.checkpoints.checkpoint import EXITS
    from rexit.exporter.export import export_bundle
    from rexit.exporter.heads.frozen_heads import fit_heads

    answers = answers_of(reranker, catalog)
    state = _State.of(out, model, catalog, slates, precision, reranker)
    has_exits = (Path(model) / EXITS).is_file()
    checkpoint, left = Path(model) if has_exits else state.folder / _CHECKPOINT, _Left(say)
    with progress() as bar:
        if has_exits or state.done("heads", checkpoint):
            left.skip("heads")
            state.finish("heads", {})
        else:
            heads = HeadsOptions(**answers)
            fit_heads(model, catalog, checkpoint, heads, slates=slates, progress=left.step("heads", shown(bar)))
            state.finish("heads", {})
        if state.done("export", out):
            left.skip("export")
        else:
            text = (checkpoint / "tokenizer.json").is_file()
            precisions = _fast_precisions() if precision is None else tuple(part.strip() for part in precision.split(","))
            export = ExportOptions(precisions=precisions, with_tokenizer=text)
            report = export_bundle(checkpoint, catalog, out, export, slates=slates, progress=left.step("export", shown(bar)))
            state.finish("export", {"refused": report.refused})
        opened = Bundle.open(out, Bundle.open(out).manifest.variants[0])
        can_stop = len(opened.manifest.exits) > 1
        if can_stop:
            options = CalibrationOptions(max_drop=max_drop)
            result = calibrate_variant(opened, catalog, slates, options, left.step("calibrate", shown(bar)))
    if can_stop:
        print_calibration(opened, result)
    else:
        stdout.print("No earlier layer has a head worth stopping at: the bundle has one exit, and answers at its depth.")
    return opened, state.of_step("export")["refused"]


class _State:
    """OUT.build: what was begun with, and what each finished step said.

    Attributes:
        folder: Its path.
    """

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.folder, self._values = folder, values

    @classmethod
    def of(
        cls, out: Path, model: str, catalog: Path | None, slates: Path | None, precision: str | None, reranker: str | None
    ) -> _State:
        """Opens the state, of which nothing is on disk before the first step is finished.

        Raises:
            InputError: It began with something else.
        """
        from rexit.bundle.files import digest, read_json

        data = catalog / "catalog.json" if catalog is not None else slates
        assert data is not None
        if not data.is_file():
            raise InputError(f"{catalog or slates}: {'no such catalog folder' if catalog else 'no such file'}")
        begun = {
            "model": model,
            "data": digest(data),
            "precision": precision,
            "reranker": reranker,
            "rexit": __version__,
        }
        folder = out.with_name(out.name + ".build")
        if not (folder / _STATE).is_file():
            if out.exists():
                raise InputError(f"{out}: exists, and no {folder.name} beside it says what of; choose another place")
            return cls(folder, {"begun": begun, "steps": {}})
        values = read_json(folder / _STATE)
        for name, value in begun.items():
            if (before := values["begun"].get(name)) != value:
                raise InputError(
                    f"{folder}: began with {name} {before!r}, expected {value!r}: delete it and {out}, or choose another"
                )
        return cls(folder, values)

    def done(self, step: str, result: Path) -> bool:
        """Whether a step is finished and its result is there."""
        return step in self._values["steps"] and result.is_dir()

    def of_step(self, step: str) -> Mapping[str, Any]:
        """What a finished step said."""
        said: Mapping[str, Any] = self._values["steps"][step]
        return said

    def finish(self, step: str, said: Mapping[str, Any]) -> None:
        """Records a finished step."""
        from rexit.bundle.files import SCHEMA, write_json

        self._values["steps"][step] = dict(said)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _STATE, {"schema": SCHEMA, **self._values})


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
        last = -1.0

        def report(what: str, done: int, total: int) -> None:
            nonlocal last
            show(what, done, total)
            if what == "load" and not done:  # what cannot be loaded is refused in one line
                return
            now = self._clock()
            part = done / total if total and what.split(DETAIL)[0].startswith(_LONG[step]) else 0.0
            self._seconds, self._worked = before + now - begin, worked + share
            if last >= 0 and (now - last < SILENCE or not part):
                return
            last = now
            whole = worked + share * part
            minutes = (share * (1 - part) + rest) * (before + now - begin) / whole / 60 if whole else None
            about = "" if minutes is None else f", about {max(1, round(minutes))} min left"
            self._say(f"rexit: step {number} of {len(_SHARES)}, {step}{about}")

        return report


def _fast_precisions() -> tuple[str, ...]:
    """The precisions that this machine runs fast, the fastest first; the last is float32."""
    import torch

    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10
    return (*(name for name, flags in _FAST.items() if any(capabilities.get(flag) for flag in flags)), "fp32")
