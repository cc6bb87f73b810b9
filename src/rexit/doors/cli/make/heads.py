"""`rexit heads`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.doors.cli.common.arguments import CatalogOption, JsonOption, RerankerOption, SlatesOption, answers_of
from rexit.doors.cli.common.output import print_json, print_table, progress, say, shown, stdout
from rexit.exporter.options import HeadsOptions

if TYPE_CHECKING:
    from rexit.exporter.heads.frozen_heads import HeadsReport

_DEFAULT = HeadsOptions()
_FIGURES = {
    "auc": "AUC",
    "user_auc": "user AUC",
    "ndcg@10": "NDCG@10",
    "expected-ndcg@10": "expected NDCG@10",
    "top-k-overlap@10": "same first 10",
}
"""Titles of figures by labels; and without labels, by the model's own answer."""


# Long because typer takes the options, their defaults and their help from the signature.
def heads(
    model: Annotated[str, typer.Argument(help="Folder of a model or PEFT adapter, GGUF file or Hub name.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder. OUT.rows keeps hidden rows.")],
    catalog: CatalogOption = None,
    slates: SlatesOption = None,
    reranker: RerankerOption = None,
    exits: Annotated[str, typer.Option(help="Depths in layers, e.g. 5,10, or auto:K, the best.")] = _DEFAULT.exits,
    max_slates: Annotated[int, typer.Option(help="Most training slates; 0: all.")] = _DEFAULT.max_slates,
    validation_slates: Annotated[int, typer.Option(help="Most validation slates; 0: all.")] = _DEFAULT.validation_slates,
    keep_last: Annotated[
        bool | None, typer.Option("--keep-last/--no-keep-last", help="The last exit is MODEL's own answer.")
    ] = _DEFAULT.keep_last,
    accept_catalog: Annotated[bool, typer.Option("--accept-catalog", help="Fit on a catalog that MODEL does not name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit heads on a model whose weights stay as they are, and write a multi-exit checkpoint.

    Without labels heads learn MODEL's own answer: the checkpoint then holds its ranking, not the truth.

    One forward pass keeps the hidden rows of all layers; a head is fitted for each. Exits are the few depths with the best curve
    of loss against cost. Another choice of exits or heads later needs no second pass.

    ```
    rexit heads SmolLM2-135M --catalog catalog --out checkpoint
    ```
    """
    from rexit.exporter.heads.frozen_heads import fit_heads

    options = HeadsOptions(
        exits=exits,
        max_slates=max_slates,
        validation_slates=validation_slates,
        **answers_of(reranker, catalog),
        keep_last=keep_last,
        accept_catalog=accept_catalog,
    )

    with progress() as bar:
        report = fit_heads(model, catalog, out, options, slates=slates, say=say, progress=shown(bar))
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report, "queries" if catalog is None else "users")


def _print_report(report: HeadsReport, noun: str) -> None:
    """Prints a table of all layers, and where the checkpoint is."""
    if report.doubt is not None:
        stdout.print(report.doubt)
    # With the model's own answer kept, that is the last exit, in the place of the last layer's head.
    fitted = report.exits[:-1] if report.own_is_last else report.exits
    rows = [_row(row["layers"], row, row["layers"] in fitted) for row in report.layers]
    if report.own is not None:
        rows.append(_row("own answer", report.own, report.own_is_last))
    rows += [_row(row["name"], row) for row in report.baselines]
    print_table(f"Heads by layer, on validation {noun} who chose nothing", rows)
    candidates = report.candidates
    stdout.print(
        f"loss: of the {noun} who choose, {report.prior_loss:.4f} for one probability for all; agreement: with the "
        f"deepest head's decisions; {candidates['train']} training and {candidates['validation']} validation candidates"
    )
    stdout.print(
        f"{report.checkpoint}: exits {','.join(map(str, report.exits))}"
        f"{', the last with the own answer of the model' if report.own_is_last else ''}, in "
        f"{sum(report.seconds.values()):.0f} s ({', '.join(f'{name} {value:.0f}' for name, value in report.seconds.items())})"
    )
    stdout.print(f"{report.rows}: {report.rows_bytes / 1e6:.0f} MB of hidden rows, for another choice; delete it when done")


def _row(name: object, row: dict[str, Any], is_exit: bool = False) -> dict[str, object]:
    """A row of the table: a layer's, the own answer's, or a baseline's, which has no loss and no head."""
    figures = {"loss": f"{row['loss']:.4f}" if "loss" in row else ""}
    for key, title in _FIGURES.items():
        if key not in row:
            continue
        mean, low, high = row[key]
        figures |= {title: f"{mean:.4f}", f"{title}, 95 %": f"{low:.3f} to {high:.3f}"}
    return {
        "layers": name,
        "exit": "yes" if is_exit else "",
        **figures,
        "agreement": f"{row['agreement']:.3f}" if "agreement" in row else "",
        "ridge": f"{row['ridge']:g}" if row.get("own") is False else "",
        "target": row["target"] if row.get("own") is False else "",
    }
