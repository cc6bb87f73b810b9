"""`rexit bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption, VariantOption
from rexit.cli.common.output import print_json, progress, shown
from rexit.cli.common.variant import open_bundle
from rexit.cli.show.bench import print_bench
from rexit.errors import InputError
from rexit.slates import SIZE


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: VariantOption = None,
    slate: Annotated[int, typer.Option(min=1, help="Candidates per request.")] = SIZE,
    requests: Annotated[int, typer.Option(min=1, help="Requests per mode: full depth, the policy, every fixed exit.")] = 50,
    threads: ThreadsOption = 0,
    device: DeviceOption = None,
    sessions: Annotated[
        str, typer.Option(help="Numbers of sessions that work at once, one measurement per number. '': none.")
    ] = "1,2,4",
    rates: Annotated[str, typer.Option(help="Arrival rates, as shares of the best throughput. '': none.")] = "0.5,0.8",
    json: JsonOption = False,
) -> None:
    """Measure how long slates of the catalog's items for its users take on this machine.

    Full depth, the calibrated policy and every fixed exit alternate inside one loop. Each request runs with a cold prefix, as for
    a new user, and again with a warm one, as for the same user's next slate. `retrieval` is the time for neighbours, histories
    and the prompt. Then several sessions work at once. At last requests arrive at random times (Poisson): their latency counts
    from arrival and includes waiting.

    ```
    rexit bench bundle --slate 50 --requests 200 --threads 2
    ```
    """
    from rexit.measure.bench import BenchOptions, bench_variant

    options = BenchOptions(
        slate=slate,
        requests=requests,
        threads=threads,
        device=device,
        sessions=_numbers("sessions", sessions, int),
        rates=_numbers("rates", rates, float),
    )
    opened = open_bundle(bundle, variant)
    with progress() as bar:
        report = bench_variant(opened, options, shown(bar))
    if json:
        print_json(report)
    else:
        print_bench(report)


def _numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as exc:
        raise InputError(f"--{name} {text!r}, expected numbers separated by commas") from exc
