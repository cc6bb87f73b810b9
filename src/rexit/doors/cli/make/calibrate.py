"""`rexit calibrate`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.data.slates import SIZE
from rexit.doors.cli.common.arguments import (
    CatalogOption,
    DeviceOption,
    JsonOption,
    SlatesOption,
    ThreadsOption,
    VariantOption,
    check_one_source,
    open_bundle,
)
from rexit.doors.cli.common.output import print_json, print_table, progress, shown, stdout
from rexit.format.candidates import Candidates

if TYPE_CHECKING:
    from rexit.calibration import Calibration, CalibrationOptions
    from rexit.format.bundle import Bundle
    from rexit.progress import Progress


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export` wrote.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    variant: VariantOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="ndcg@K, user-auc, auc, logloss; without labels agreement, top-k-overlap@K, expected-ndcg@K. "
            "Default: ndcg@10 and user-auc; without labels expected-ndcg@10."
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Most that a metric may lose against full depth.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Of the guarantee that none loses more.")] = 0.95,
    tail: Annotated[str | None, typer.Option(help="SHARE:LOSS: at most so many users lose more.")] = None,
    recall: Annotated[float | None, typer.Option(help="Find a floor that keeps this share of what is relevant.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Places that you show; others may stop early.")] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Compare with the full model alone.")] = False,
    slate: Annotated[int | None, typer.Option(help=f"Candidates of a slate. Default: {SIZE}; if retrieved, all.")] = None,
    max_slates: Annotated[int, typer.Option(help="Most slates of a split; 0: all.")] = 5000,
    device: DeviceOption = None,
    threads: ThreadsOption = 0,
    from_traces: Annotated[bool, typer.Option("--from-traces", help="Decide again, on the last traces.")] = False,
    measure_costs: Annotated[bool, typer.Option("--measure-costs", help="With --from-traces: time this machine again.")] = False,
    negative_rate: Annotated[float | None, typer.Option(help="Share of negatives in the labels. Default: catalog's.")] = None,
    also: Annotated[str | None, typer.Option(help="Judge it on popularity:N or other candidates, too.")] = None,
    json: JsonOption = False,
) -> None:
    """Choose when candidates may stop, on this machine and for this variant, with a guarantee.

    Run it on the device that will serve. Writes policy.json and its report into the variant's folder.

    ```
    rexit calibrate bundle --catalog catalog --max-drop 0.02
    ```
    """
    from rexit.calibration import CalibrationOptions

    options = CalibrationOptions(
        metrics=tuple(metric) if metric else None,
        max_drop=max_drop,
        confidence=confidence,
        top_k=top_k,
        tail=tail,
        recall=recall,
        labels=not no_labels,
        slate=slate,
        max_slates=max_slates,
        device=device,
        threads=threads,
        from_traces=from_traces,
        measure_costs=measure_costs,
        negative_rate=negative_rate,
        also=None if also is None else Candidates.parse(also),
    )
    check_one_source(catalog, slates)
    opened = open_bundle(bundle, variant)
    with progress() as bar:
        result = calibrate_variant(opened, catalog, slates, options, shown(bar))
    if json:
        print_json(result.report)
    else:
        print_calibration(opened, result)


def calibrate_variant(
    bundle: Bundle, catalog: Path | None, slates: Path | None, options: CalibrationOptions, show: Progress
) -> Calibration:
    """Calibrates an opened variant on one of a catalog and a file of slates. Raises what `rexit.calibration.calibrate` raises."""
    from rexit.calibration import calibrate as run
    from rexit.data.slates_file import RequestLog, SlatesFile
    from rexit.data.texts import bundle_encoder
    from rexit.format.bundle import Catalog

    source: Catalog | SlatesFile | RequestLog
    if catalog is not None:
        source = Catalog.open(catalog)
    else:
        assert slates is not None
        encoder = partial(bundle_encoder, bundle)
        source = RequestLog.read(slates, bundle.catalog) if bundle.has_catalog else SlatesFile.read(slates, encoder, labels=False)
    return run(bundle, source, options, progress=show)


def print_calibration(bundle: Bundle, result: Calibration) -> None:
    """Prints the verdict, and tables of the ways to stop and of their probabilities."""
    from rexit.calibration.reporting.page import maps_sentence, probabilities, ways

    report, verdict = result.report, result.verdict
    for line in verdict.lines:
        stdout.print(line, soft_wrap=False)
    if report["maps"]["gain"] is not None:
        stdout.print(maps_sentence(report))
    rate = report["probabilities"]["negative_rate"]
    population = "" if rate == 1 else f"; in the population, {1 / rate:,.4g} negatives for each in the labels"
    for table, note in ((ways(report, report["settings"]["metrics"]), ""), (probabilities(report), population)):
        if table.rows:  # the page has what follows a value below it
            rows = [{head: re.sub(r"\n(.*)", r" (\1)", cell) for head, cell in row.items()} for row in table.rows]
            print_table(table.caption + note, rows)
    decisions = report["decisions"]
    if decisions is not None:
        exact = decisions["as_traced"] == decisions["candidates"]
        rest = "" if exact else ", the others are within rounding of a threshold"
        stdout.print(
            f"As deployed, {decisions['as_traced']} of {decisions['candidates']} candidates stop where their traces say{rest}."
        )
    stdout.print(f"Wrote policy.json, report.html and report.json to {bundle.folder}")
