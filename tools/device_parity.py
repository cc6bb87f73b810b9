"""A variant's log-odds on its device against the CPU's, at every exit: device_parity.py BUNDLE VARIANT [--device DEVICE].

Scores the golden slates with a cold and a warm prefix. Prints JSON: the largest difference at each exit, the tolerance, and the
memory of the device's session before and after. Exits with 1 if a difference exceeds the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rexit
from rexit.format.bundle import Bundle, GoldenSlate
from rexit.format.request import Request


def memory_of(session: Any) -> dict[str, int]:
    """A session's memory in bytes, as `Session.memory` reports it."""
    memory = session.memory
    return {name: int(getattr(memory, name)) for name in ("prefixes", "buffers", "pinned", "gpu")}


def request_of(bundle: Bundle, slate: GoldenSlate) -> Request:
    """A golden slate, to be scored."""
    scores = slate.scores or None
    if slate.user is None:
        return Request.tokens(slate.prefix, slate.candidates, scores)
    catalog = bundle.catalog
    user, items = catalog.users.id(slate.user), catalog.items.take(slate.items.astype(np.int64))
    return Request(user, items, as_of=slate.as_of, inputs=catalog.inputs.decode(slate.inputs) or None, scores=scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variant")
    parser.add_argument("--device", default=None, help="default: the variant's own")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle, arguments.variant)
    tolerance = float(bundle.variant.parity["tolerance"])
    worst = {prefix: np.zeros(len(bundle.exits)) for prefix in ("cold", "warm")}
    with (
        rexit.open(arguments.bundle, variant=arguments.variant, device=arguments.device) as device,
        rexit.open(arguments.bundle, variant=arguments.variant, device="cpu") as cpu,
    ):
        memory = {"opened": memory_of(device)}
        for g, slate in enumerate(bundle.golden().slates):
            request = request_of(bundle, slate)
            expected = cpu.check_golden(g).trace
            device.clear_cache()
            for distances in worst.values():  # the second trace finds its prefix in the cache
                distance = np.abs(device.trace(request) - expected).max(0)
                np.maximum(distances, np.where(np.isfinite(distance), distance, np.inf), out=distances)
        memory["used"] = memory_of(device)
        device.trim()
        memory["trimmed"] = memory_of(device)
    passed = all(float(distances.max()) <= tolerance for distances in worst.values())
    exits = [
        {"layers": layers, **{prefix: float(distances[k]) for prefix, distances in worst.items()}}
        for k, layers in enumerate(bundle.exits)
    ]
    result = {"variant": arguments.variant, "device": arguments.device or bundle.variant.target, "passed": passed}
    print(json.dumps({**result, "tolerance": tolerance, "exits": exits, "memory": memory}, indent=1))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
