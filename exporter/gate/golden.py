"""Golden samples: real validation slates with the log-odds that the PyTorch model gives them. Parity is measured on them at
export; `rexit verify` runs them again on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rexit.bundle import Catalog
from rexit.bundle.golden import GoldenSlate
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.slates import Slate


def golden_slates(
    model: MultiExitModel, catalog: Catalog, slates: Sequence[Slate], each: Callable[[int], None] | None = None
) -> list[GoldenSlate]:
    """Each slate's prompts, as the runtime assembles them, with the model's log-odds. `each` is called with the number of slates
    done.

    Every slate has a time `as_of`.
    """
    builder = PromptBuilder(catalog)
    made = []
    for done, slate in enumerate(slates, 1):
        assert slate.as_of is not None
        user, items = catalog.users.row(slate.user), catalog.items.rows(slate.items).astype(np.int32)
        assert user is not None  # cut from the catalog's own splits
        prompt = builder.prompt(slate.user, slate.items, slate.as_of)
        log_odds = model.reference(prompt.prefix, prompt.candidates)
        made.append(GoldenSlate(user, items, slate.as_of, prompt.prefix, prompt.candidates, log_odds))
        if each:
            each(done)
    return made
