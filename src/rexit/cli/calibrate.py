"""`rexit calibrate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.options import (
    DeviceOption,
    JsonOption,
    ProviderOption,
    ProviderSettingsOption,
    ThreadsOption,
    VariantOption,
    check_one_source,
    device_of,
)
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import print_table
from rexit.cli.common.weights import parse_weights
from rexit.errors import InputError
from rexit.slates import SIZE

if TYPE_CHECKING:
    from rexit.bundle import Catalog
    from rexit.slates_file import SlatesFile

METRICS = ["ndcg@10", "user-auc"]
NO_FIELDS: list[str] = []


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export` wrote.")],
    catalog: Annotated[
        Path | None, typer.Option(help="The catalog that `rexit index` wrote, with the held-out interactions.")
    ] = None,
    slates: Annotated[
        Path | None, typer.Option(help="For a bundle without a catalog: labelled slates, a .parquet or .jsonl file.")
    ] = None,
    variant: VariantOption = None,
    metric: Annotated[
        list[str],
        typer.Option(
            help="What may not drop: ndcg@K, user-auc, auc, logloss, agreement or top-k-overlap@K. Repeat it to keep several.",
        ),
    ] = METRICS,
    max_drop: Annotated[float, typer.Option(help="How much each metric may lose against full depth, in its own unit.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Confidence of the guarantee that no metric drops by more.")] = 0.95,
    top_k: Annotated[
        int | None, typer.Option(help="How many of a slate you show: candidates may stop once it is known whether they are in.")
    ] = None,
    slate: Annotated[
        int | None,
        typer.Option(help=f"Candidates scored together, as your service will send them. Default: {SIZE}; as in --slates."),
    ] = None,
    max_slates: Annotated[int, typer.Option(help="At most this many slates of each split, evenly spaced; 0: all.")] = 5000,
    timed_slates: Annotated[int, typer.Option(help="Slates whose latency is measured.")] = 16,
    device: DeviceOption = None,
    provider: ProviderOption = None,
    provider_option: ProviderSettingsOption = None,
    threads: ThreadsOption = 0,
    profile: Annotated[
        Path | None, typer.Option(help="The segments' costs, from `rexit bench --profile`. Default: measured now.")
    ] = None,
    cached_share: Annotated[float, typer.Option(help="Share of slates that find their prefix in the cache, 0 to 1.")] = 0.0,
    from_traces: Annotated[
        bool,
        typer.Option(
            "--from-traces",
            help="Decide again on the traces of the last calibration: runs no model. Takes seconds, minutes with --top-k.",
        ),
    ] = False,
    suggest_exits: Annotated[
        bool, typer.Option("--suggest-exits", help="Also find out which of the heads are worth keeping on this device.")
    ] = False,
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Also tune other ways to stop, from the literature, and show them in the table.")
    ] = False,
    maps: Annotated[
        str,
        typer.Option(
            help="The heads that an exit's calibrated log-odds read: own, all so far, or auto: all where held-out users say so."
        ),
    ] = "auto",
    negative_rate: Annotated[
        float | None,
        typer.Option(help="Share of the world's negatives that the labels have, 1: all. Default: as `rexit index` sampled them."),
    ] = None,
    utility: Annotated[
        str | None,
        typer.Option(help="Of several objectives: what their probabilities weigh, click=1,like=2. Default: all 1."),
    ] = None,
    by: Annotated[
        list[str],
        typer.Option(help="A context or a column of --items: also say by its values how right probabilities are. Repeatable."),
    ] = NO_FIELDS,
    items: Annotated[
        Path | None, typer.Option(help="The table of items, as for `rexit index`, whose columns --by may name.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The model's folder with tokenizer.json: the report's examples show their prompts.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Choose when candidates may stop, on this machine and for this variant, with a guarantee.

    Run it on the device that will serve: what an exit saves is measured. One part of the validation split's users chooses the
    policy, the others certify it. A policy that they do not certify is not written; full depth is. The test split says what the
    policy loses, and how it compares with fixed depths. Writes policy.json (used by every later `rexit score` and by the C++
    runtime), report.html, report.json and traces.safetensors into the variant's folder.

    ```
    rexit calibrate bundle --catalog catalog
    rexit calibrate bundle --catalog catalog --variant cpu-int8 \\
      --metric top-k-overlap@5 --top-k 5 --max-drop 0.05
    rexit calibrate bundle --catalog catalog --from-traces --max-drop 0.02
    rexit calibrate reranker --slates slates.parquet
    ```
    """
    from rexit.bundle import Bundle, Catalog
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
        max_slates=max_slates,
        timed_slates=timed_slates,
        device=device_of(device, provider, provider_option),
        threads=threads,
        profile=profile,
        cached_share=cached_share,
        from_traces=from_traces,
        suggest_exits=suggest_exits,
        rivals=rivals,
        maps=maps,
        negative_rate=negative_rate,
        utility=parse_weights("utility", utility),
        by=tuple(by),
    )
    check_one_source(catalog, slates)
    opened = Bundle.open(bundle, variant)
    decode = None if tokenizer is None else decoder(tokenizer, opened.catalog.vector_ids if opened.has_catalog else None)
    source: Catalog | SlatesFile
    if catalog is not None:
        source = Catalog.open(catalog)
    else:
        assert slates is not None
        source = SlatesFile.read(slates, partial(bundle_encoder, opened, tokenizer))
    with progress() as bar:
        fields = None if items is None else _item_fields(items, by, source)
        result = run(opened, source, options, progress=shown(bar), decode=decode, item_fields=fields)
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
    if report["suggested_exits"] is not None:
        print_table(
            "The cheapest policy with fewer heads, by the cost model",
            ["heads after layers", "ms"],
            [[",".join(map(str, heads["exits"])), f"{heads['cost_us'] / 1000:.2f}"] for heads in report["heads"]],
        )
        exits = ",".join(map(str, report["suggested_exits"]))
        stdout.print(f"Worth keeping: `rexit export --exits {exits}`; fewer would cost more than 1 %.")
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


def _item_fields(path: Path, by: list[str], source: Catalog | SlatesFile) -> dict[str, dict[str, str]]:
    """The table's columns among `by`: values by the item's id as text, by name."""
    from rexit.bundle import Catalog
    from rexit.exporter.catalog.source_tables import column_names, read_table

    if not isinstance(source, Catalog):
        raise InputError(f"{path}: a table of items needs --catalog")
    key, columns = source.info["columns"]["item"], column_names(path)
    names = [name for name in by if name in columns and name != key]
    frame = read_table(path, [key, *names])
    ids = [str(identifier) for identifier in frame[key]]
    return {name: {i: str(value) for i, value in zip(ids, frame[name], strict=True) if value is not None} for name in names}


def _world(report: dict[str, Any]) -> str:
    rate = report["probabilities"]["negative_rate"]
    return "" if rate == 1 else f"; of the world, {1 / rate:,.4g} negatives for each in the labels"


def _reliability(row: dict[str, Any]) -> list[str]:
    from rexit.calibration.reliability import title

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
