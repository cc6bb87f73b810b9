"""The policy that `rexit calibrate` chose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.bundle import Bundle
    from rexit.calibration import Calibration


def print_calibration(bundle: Bundle, result: Calibration, metrics: list[str]) -> None:
    """Prints the verdict, and tables of the policies and their probabilities."""
    from rexit.calibration.reporting.page import maps_sentence

    report, verdict = result.report, result.verdict
    stdout.print(verdict.text, markup=False, highlight=False)
    if verdict.guarantee is not None:
        stdout.print(verdict.guarantee, markup=False, highlight=False)
    if report["maps"]["gain"] is not None:
        stdout.print(maps_sentence(report["maps"]), markup=False, highlight=False)
    if "utility" in report:
        weights = ", ".join(f"{weight:g} x {name}" for name, weight in report["utility"].items())
        stdout.print(f"Ranked by the utility {weights}; NDCG's gain is that of the labels.", markup=False, highlight=False)
    print_table(
        f"{bundle.variant.name} on the test split: value, and change against full depth with its 95 % interval over users",
        ["", *metrics, "layers", "ms", "speed"],
        [
            *(_row(row, metrics, report["table"][0]) for row in report["table"]),
            *(
                [row["name"], *(_value(row, name, False) if name in row["values"] else "-" for name in metrics), "-", "-", "-"]
                for row in report["baselines"]
            ),
        ],
    )
    print_table(
        f"Probabilities on the test split: predicted over observed likes, and expected calibration error{_population(report)}",
        ["", "candidates", "predicted", "observed", "ratio", "ECE", "by chance"],
        [_reliability(row) for row in report["probabilities"]["table"]],
    )
    print_table(
        "Policies tested for the certificate, careful first, on users who had no part in choosing",
        ["drop up to", "stops", *(f"expected {name}" for name in metrics), "certified", "layers"],
        [_candidate(candidate, metrics) for candidate in report["candidates"]],
    )
    decisions = report["decisions"]
    if decisions is not None:
        exact = decisions["as_traced"] == decisions["candidates"]
        rest = "" if exact else ", the others are within rounding of a threshold"
        stdout.print(
            f"As deployed, {decisions['as_traced']} of {decisions['candidates']} candidates stop where their traces say{rest}."
        )
    stdout.print(f"Wrote policy.json, report.html and report.json to {bundle.folder}", markup=False, soft_wrap=True)


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


def _population(report: dict[str, Any]) -> str:
    rate = report["probabilities"]["negative_rate"]
    return "" if rate == 1 else f"; in the population, {1 / rate:,.4g} negatives for each in the labels"


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
