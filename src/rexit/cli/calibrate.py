"""`rexit calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli._output import JsonOption, print_json, print_table, progress, shown, stdout
from rexit.slates import SIZE


def register(app: typer.Typer) -> None:
    app.command("calibrate")(calibrate)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export` wrote.")],
    catalog: Annotated[Path, typer.Option(help="The catalog that `rexit index` wrote, with the held-out interactions.")],
    variant: Annotated[str | None, typer.Option(help="Which variant. Default: the bundle's first.")] = None,
    max_auc_drop: Annotated[float, typer.Option(help="How much AUC early exit may lose against full depth.")] = 0.002,
    slate: Annotated[int, typer.Option(help="Candidates scored together, as your service will send them.")] = SIZE,
    max_slates: Annotated[int, typer.Option(help="At most this many slates of each split, evenly spaced; 0: all.")] = 5000,
    timed_slates: Annotated[int, typer.Option(help="Slates whose latency is measured.")] = 16,
    threads: Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")] = 0,
    profile: Annotated[
        Path | None, typer.Option(help="The segments' costs, from `rexit bench --profile`. Default: measured now.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Decide when each exit may stop, on this machine and this variant.

    Run it on the device that will serve: what an exit saves is measured, not guessed. The policy is chosen on the validation
    split and checked on the test split. Writes policy.json (used by every later `rexit score` and by the C++ runtime),
    report.json and report.png into the variant's folder.

        rexit calibrate bundle --catalog catalog

        rexit calibrate bundle --catalog catalog --variant cpu-int8 --max-auc-drop 0.005 --slate 50
    """
    from rexit.bundle import Bundle, Catalog
    from rexit.calibration import CalibrationOptions
    from rexit.calibration import calibrate as run

    options = CalibrationOptions(
        max_auc_drop=max_auc_drop,
        slate=slate,
        max_slates=max_slates,
        timed_slates=timed_slates,
        threads=threads,
        profile=profile,
    )
    opened = Bundle.open(bundle, variant)
    with progress() as bar:
        done = run(opened, Catalog.open(catalog), options, progress=shown(bar))
    if json:
        print_json(done.report)
        return
    print_table(
        f"{opened.variant.name}: chosen on validation (val), checked on test; ms per slate, cold prefix",
        ["", "AUC val", "AUC", "user AUC", "logloss", "layers", "ms", "speed"],
        [_row(row) for row in done.report["table"]],
    )
    print_table(
        f"Exits, patience {done.report['patience']}: stops at c = a z + b >= upper or <= -lower",
        ["after layer", "a", "b", "upper", "lower", "stopped, test"],
        [_exit(e) for e in done.report["exits"]],
    )
    decided = done.report["decisions"]
    near = "" if decided["as_traced"] == decided["candidates"] else ", the others are within rounding of a threshold"
    stdout.print(f"As deployed, {decided['as_traced']} of {decided['candidates']} candidates stop where their traces say{near}.")
    stdout.print(done.conclusion, markup=False)
    stdout.print(f"Wrote policy.json, report.json and report.png to {opened.folder}", markup=False, soft_wrap=True)


def _row(row: dict[str, Any]) -> list[str]:
    validation, test = row["validation"], row["test"]
    user_auc = "-" if test["user_auc"] is None else f"{test['user_auc']:.4f}"
    return [
        row["policy"],
        f"{validation['auc']:.4f}",
        f"{test['auc']:.4f}",
        user_auc,
        f"{test['logloss']:.4f}",
        f"{test['mean_layers']:.1f}",
        f"{row['ms_per_slate']:.2f}",
        f"{row['speed_up']:.2f}x",
    ]


def _exit(e: dict[str, Any]) -> list[str]:
    thresholds = ["never" if e[side] is None else f"{e[side]:.3f}" for side in ("upper", "lower")]
    name = str(e["layers"]) if e["useful"] else f"{e['layers']} (does not rank)"
    return [name, f"{e['a']:.3g}", f"{e['b']:.3f}", *thresholds, f"{e['stopped']['test']:.1%}"]
