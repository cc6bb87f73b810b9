"""`rexit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli._output import JsonOption, print_json, print_table, progress, stdout
from rexit.errors import InputError

_STAGES = {
    "load": "loading the checkpoint",
    "reference": "golden slates through PyTorch",
    "segments": "exporting segments",
    "parity": "golden slates through the segments",
    "write": "writing the bundle",
}


def register(app: typer.Typer) -> None:
    app.command("export")(_export)


def _export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or a model of the Hugging Face Hub by its id.")],
    catalog: Annotated[Path, typer.Option(help="Catalog folder, as `rexit index` wrote it.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write. One already there keeps its other variants.")],
    exits: Annotated[
        str | None, typer.Option(help="Depths in layers, e.g. 2,4,6; the last is the full depth. Default: the checkpoint's.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="own: trained heads (the default where there are); shared: final norm and label rows of the LM head."),
    ] = None,
    target: Annotated[str, typer.Option(help="What the bundle will run on.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Precision of the weights.")] = "fp32",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of candidates in one pass; larger slates go in chunks.")] = 512,
    tolerance: Annotated[float, typer.Option(help="Largest difference of log-odds from PyTorch, at any exit.")] = 1e-4,
    golden: Annotated[int, typer.Option(help="Validation slates to compare on and to store as golden samples.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Cut a checkpoint into one ONNX graph per exit and write a bundle.

    CHECKPOINT is a Hugging Face decoder with `exits.json` and `exit_heads.safetensors` beside it; any decoder will do with
    `--exits 5,10,15 --head shared`.

    Every exit is then compared with the unsplit PyTorch model on real validation prompts: pair by pair, behind a cached prefix,
    and as whole slates. If the log-odds differ by more than --tolerance anywhere, the export fails and writes nothing.

        rexit export checkpoint --catalog catalog --out bundle

        rexit export SmolLM2-135M --catalog catalog --out bundle --exits 10,20,30 --head shared

    Next: `rexit calibrate bundle --catalog catalog` finds when to stop at which exit.
    """
    from rexit.exporter.export import export

    depths = _depths(exits)
    with progress() as bar:
        tasks = {stage: bar.add_task(text, total=None, visible=False) for stage, text in _STAGES.items()}

        def tell(stage: str, done: int, total: int) -> None:
            bar.update(tasks[stage], completed=done, total=total, visible=True)

        report = export(
            checkpoint,
            catalog,
            out,
            exits=depths,
            head=head,
            target=target,
            precision=precision,
            max_tokens=max_tokens,
            tolerance=tolerance,
            golden_slates=golden,
            progress=tell,
        )
    if as_json:
        print_json(report.to_json())
        return
    print_table(
        "Segments",
        ("layers", "parameters", "MB", "seconds", "single", "cached", "slate"),
        (
            (
                f"{s.layers[0]}-{s.layers[1]}",
                f"{s.parameters:,}",
                f"{s.bytes / 1e6:.1f}",
                f"{s.seconds:.1f}",
                *(f"{row[mode]:.1e}" for mode in ("single", "cached", "slate")),
            )
            for s, row in zip(report.segments, report.parity, strict=True)
        ),
    )
    stdout.print(
        f"single, cached, slate: largest difference of log-odds from PyTorch at that exit, {report.tolerance:.0e} allowed; "
        f"{report.pairs} pairs, {report.slates} slates",
        soft_wrap=True,
    )
    stdout.print(
        f"{report.bundle}: variant {report.variant}, {report.bytes / 1e6:.1f} MB in {sum(report.seconds.values()):.0f} s "
        f"({', '.join(f'{name} {seconds:.0f}' for name, seconds in report.seconds.items())})",
        soft_wrap=True,
        markup=False,
    )


def _depths(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise InputError(f"exits {text!r}: expected depths in layers, e.g. 2,4,6") from exc
