"""Heads that `rexit heads` fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.exporter.heads.run import HeadsReport


def print_heads(report: HeadsReport) -> None:
    """Prints a table of all layers for each objective, and where the checkpoint is."""
    if report.doubt is not None:
        stdout.print(report.doubt, soft_wrap=True, markup=False)
    whole = {"layers": report.layers, "own": report.own, "kept": report.kept, "baselines": report.baselines}
    for name, part in (report.objectives or {"": whole}).items():
        rows = [_row(str(row["layers"]), row, row["layers"] in report.exits, part["kept"], report) for row in part["layers"]]
        if part["own"] is not None:
            rows.append(_row("own answer", part["own"], part["kept"], part["kept"], report))
        rows += [(row["name"], "", "", *_figures(row), "", "", "") for row in part["baselines"]]
        print_table(
            f"Heads by layer{f', {name}' if name else ''}, on validation users who chose nothing",
            ("layers", "exit", "loss", "AUC", "95 %", "user AUC", "95 %", "NDCG@10", "95 %", "agreement", "ridge", "target"),
            rows,
        )
    candidates = report.candidates
    stdout.print(
        f"loss: of the users who choose, {report.prior_loss:.4f} for one probability for all; agreement: with the deepest head's "
        f"decisions; {candidates['train']} training and {candidates['validation']} validation candidates",
        soft_wrap=True,
    )
    stdout.print(
        f"{report.checkpoint}: exits {','.join(map(str, report.exits))}"
        f"{', the last with the own answer of the model' if report.kept else ''}, in "
        f"{sum(report.seconds.values()):.0f} s ({', '.join(f'{name} {value:.0f}' for name, value in report.seconds.items())})",
        soft_wrap=True,
    )
    stdout.print(f"{report.rows}: {report.rows_bytes / 1e6:.0f} MB of hidden rows, for another choice; delete it when done")


def _row(name: str, row: dict[str, Any], is_exit: bool, kept: bool, report: HeadsReport) -> tuple[object, ...]:
    own = row["own"]
    if not own and kept and row["layers"] == report.exits[-1]:
        is_exit = False  # its place has the own answer
    last = (f"{row['agreement']:.3f}", "" if own else f"{row['ridge']:g}", "" if own else row["target"])
    return (name, "yes" if is_exit else "", f"{row['loss']:.4f}", *_figures(row), *last)


def _figures(row: dict[str, Any]) -> list[str]:
    return [text for key in ("auc", "user_auc", "ndcg@10") for text in _interval(row[key])]


def _interval(value: list[float]) -> tuple[str, str]:
    mean, low, high = value
    return f"{mean:.4f}", f"{low:.3f} to {high:.3f}"
