"""`rexit calibrate`."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption, VariantOption, check_one_source
from rexit.cli.common.output import print_json, progress, shown
from rexit.cli.common.variant import open_bundle
from rexit.cli.common.weights import parse_weights
from rexit.cli.show.calibration import print_calibration
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
        typer.Option(help="Share of all negatives that the labels have. Default: the catalog's."),
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
    from rexit.bundle import Catalog
    from rexit.bundle.catalog.prompt_text import decoder
    from rexit.bundle.manifest import TOKENIZER
    from rexit.calibration import CalibrationOptions
    from rexit.calibration import calibrate as run
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
    opened = open_bundle(bundle, variant)
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
    if json:
        print_json(result.report)
    else:
        print_calibration(opened, result, metric)
