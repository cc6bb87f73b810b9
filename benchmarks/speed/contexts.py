"""How much of a prefix is computed again when a user comes back at another moment, by the session's counters.

    python benchmarks/speed/contexts.py BUNDLE … [--users 100] [--items 20]

Rules
1. Users are drawn at random; each sends the same items once for every pair of a weekday and one of HOURS.
2. A user starts with an empty cache. What counts is the tokens of prefixes that were computed, over all requests but the first.
3. Full depth, one thread. Counts do not depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
from itertools import product
from pathlib import Path

import numpy as np

from rexit import runtime
from rexit.bundle import Bundle, Catalog
from rexit.scripts import script

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HOURS = ("9", "21")


def prefix_tokens(path: Path, user_count: int, item_count: int) -> tuple[int, int]:
    """Tokens of the prefixes of all requests but each user's first, and how many of them were computed."""
    catalog, last = Catalog.open(path / "catalog"), len(Bundle.open(path).manifest.exits) - 1
    random = np.random.default_rng(0)
    items = catalog.items.take(random.choice(len(catalog.items), item_count, replace=False))
    users = catalog.users.take(random.choice(len(catalog.users), user_count, replace=False))
    needed = computed = 0
    with contextlib.closing(runtime.open(path, threads=1)) as session:
        for user in users:
            session.clear_cache()
            for n, (weekday, hour) in enumerate(product(WEEKDAYS, HOURS)):
                stats = session.score(user, items, context={"weekday": weekday, "hour": hour}, force_exit=last).stats
                if n:
                    needed += stats.prefix_tokens
                    computed += stats.prefix_tokens - stats.prefix_tokens_reused
    return needed, computed


@script
def main(bundles: list[Path], users: int, items: int) -> None:
    for path in bundles:
        needed, computed = prefix_tokens(path, users, items)
        print(f"{path}: {computed} of {needed} prefix tokens computed, {computed / needed:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--items", type=int, default=20)
    args = parser.parse_args()
    main(args.bundles, args.users, args.items)
