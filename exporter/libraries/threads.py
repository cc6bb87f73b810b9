"""How many threads torch uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SMALL = 1 << 20
"""Numbers in a table or a layer's weights: with fewer, one thread."""


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Uses one thread for work on tables of fewer than SMALL numbers while the block runs.

    Two threads on two cores that other programs want too were 5 to 18 times slower on such tables: each thread waits, spinning,
    for the other after every operation. The choice depends on the size alone, so that results stay reproducible.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
