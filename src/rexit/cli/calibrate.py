"""`rexit calibrate`."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption, VariantOption, check_one_source
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import print_table
from rexit.cli.common.weights import parse_weights
from rexit.slates import SIZE

if TYPE_CHECKING:
    from rexit.bundle import Catalog
    from rexit.slates_file import SlatesFile

METRICS = ["ndcg@10", "user-auc"]


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export` wrote.")],
    catalog: Annotated[Path | None, typer.Option(help="The catalog folder of `rexit index`.")] = None,
    slates: Annotated[Path | None, typer.Option(help="In place of a catalog: prompts, .parquet or .jsonl.")] = None,
    variant: VariantOption = None,
    metric: Annotated[
        list[str],
        typer.Option(
            help="ndcg@K, user-auc, auc, logloss, agreement or top-k-overlap@K.",
        ),
    ] = METRICS,
    max_drop: Annotated[float, typer.Option(help="Most that a metric may lose against full depth.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Of the guarantee that none loses more.")] = 0.95,
    top_k: Annotated[int | None, typer.Option(help="Places that you show; the others may stop once they are out.")] = None,
    slate: Annotated[
        int | None,
        typer.Option(help=f"Candidates of a slate. Default: {SIZE}; as in --slates."),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = 0,
    from_traces: Annotated[
        bool,
        typer.Option(
            "--from-traces",
            help="Decide again on the last traces, without a model.",
        ),
    ] = False,
    negative_rate: Annotated[
        float | None,
        typer.Option(help="Share of the world's negatives in the labels. Default: the catalog's."),
    ] = None,
    utility: Annotated[
        str | None,
        typer.Option(help="Weights of several objectives, click=1,like=2. Default: all 1."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Choose when candidates may stop, on this machine and for this variant, with a guarantee.

    Run it on the device that will serve. Some validation users choose the policy, the others certify it; the test split says what
    it loses. Writes policy.json, report.html, report.json and traces.safetensors into the variant's folder.

    ```
    rexit calibrate bundle --catalog catalog
    rexit calibrate bundle --catalog catalog --from-traces --max-drop 0.02
    ```
    """
    from rexit.bundle import Bundle, Catalog
    from rexit.bundle.manifest import TOKENIZER
    from rexit.bundle.prompt_text import decoder
    from rexit.calibration import CalibrationOptions
    from rexit.calibration import calibrate as run
    from rexit.calibration.reporting.page import maps_sentence
    from rexit.slates_file import SlatesFile
    from rexit.texts import bundle_encoder

    options = CalibrationOptions(
        metrics=tuple(metric),
        max_drop=max_drop,
        confidence=confidence,
        top_k=top_k,
        slate=slate,
        device=device,
        threads=threads,
        from_traces=from_traces,
        negative_rate=negative_rate,
        utility=parse_weights("utility", utility),
    )
    check_one_source(catalog, slates)
    opened = Bundle.open(bundle, variant)
    decode = None  # of the prompts of examples
    if TOKENIZER in opened.manifest.files and find_spec("tokenizers"):
        decode = decoder(opened.path, opened.catalog.vector_ids if opened.has_catalog else None)
    source: Catalog | SlatesFile
    if catalog is not None:
        source = Catalog.open(catalog)
    else:
        assert slates is not None
        source = SlatesFile.read(slates, partial(bundle_encoder, opened))
    with progress() as bar:
        result = run(opened, source, options, progress=shown(bar), decode=decode)
    report, verdict = result.report, result.verdict
    if json:
        print_json(report)
        return
    stdout.print(verdict.text, markup=False, highlight=False)
    if verdict.guarantee is not None:
        stdout.print(verdict.guarantee, markup=False, highlight=False)
    if report["maps"]["gain"] is not None:
        stdout.print(maps_sentence(report["maps"]), markup=False, highlight=False)
    if "utility" in report:
        weights = ", ".join(f"{weight:g} x {name}" for name, weight in report["utility"].items())
        stdout.print(f"Ranked by the utility {weights}; NDCG's gain is that of the labels.", markup=False, highlight=False)
    print_table(
        f"{opened.variant.name} on the test split: value, and change against full depth with its 95 % interval over users",
        ["", *metric, "layers", "ms", "speed"],
        [_row(row, metric, report["table"][0]) for row in report["table"]],
    )
    print_table(
        f"Probabilities on the test split: predicted over observed likes, and expected calibration error{_world(report)}",
        ["", "candidates", "predicted", "observed", "ratio", "ECE", "by chance"],
        [_reliability(row) for row in report["probabilities"]["table"]],
    )
    print_table(
        "Policies tested for the certificate, careful first, on users who had no part in choosing",
        ["drop up to", "stops", *(f"expected {name}" for name in metric), "certified", "layers"],
        [_candidate(candidate, metric) for candidate in report["candidates"]],
    )
    decisions = report["decisions"]
    if decisions is not None:
        exact = decisions["as_traced"] == decisions["candidates"]
        rest = "" if exact else ", the others are within rounding of a threshold"
        stdout.print(
            f"As deployed, {decisions['as_traced']} of {decisions['candidates']} candidates stop where their traces say{rest}."
        )
    stdout.print(f"Wrote policy.json, report.html and report.json to {opened.folder}", markup=False, soft_wrap=True)


def _row(row: dict[str, Any], metrics: list[str], full: dict[str, Any]) -> list[str]:
    timed = row["ms_per_slate"] is not None
    speed = full["ms_per_slate"] / row["ms_per_slate"] if timed else full["cost_us"] / row["cost_us"]
    about = "" if timed else "~"  # by the cost model
    milliseconds = row["ms_per_slate"] if timed else row["cost_us"] / 1000
    return [
        row["policy"],
        *(_value(row, name, row is full) for name in metrics),
        f"{row['mean_layers']:.1f}",
        f"{about}{milliseconds:.2f}",
        f"{about}{speed:.2f}x",
    ]


def _world(report: dict[str, Any]) -> str:
    rate = report["probabilities"]["negative_rate"]
    return "" if rate == 1 else f"; of the world, {1 / rate:,.4g} negatives for each in the labels"


def _reliability(row: dict[str, Any]) -> list[str]:
    from rexit.calibration.reliability_table import title

    ratio, ece = (
        "-" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})" for value in (row["ratio"], row["ece"])
    )
    return [
        title(row),
        f"{row['pairs']:,}",
        f"{row['predicted']:.4g}",
        f"{row['observed']:.4g}",
        ratio,
        ece,
        f"{row['chance']:.4f}",
    ]


def _value(row: dict[str, Any], name: str, full: bool) -> str:
    drop, low, high = row["drops"][name]
    return f"{row['values'][name]:.4f}" + ("" if full else f" {0 - drop:+.4f} ({0 - high:+.4f} to {0 - low:+.4f})")


def _candidate(candidate: dict[str, Any], metrics: list[str]) -> list[str]:
    return [
        f"{candidate['budget']:.4g}",
        "dynamic" if candidate["fixed"] is None else f"after layer {candidate['fixed']}",
        *(f"{candidate['expected'][name]:.4f}" for name in metrics),
        f"{'yes' if candidate['certified'] else 'no'}, p = {candidate['p_value']:.2g}",
        f"{candidate['test']['mean_layers']:.1f}",
    ]
