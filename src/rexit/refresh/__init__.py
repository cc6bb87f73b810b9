"""A newer catalog for a bundle, without another export.

    run.py       the steps in their order:
    fit.py       1. the catalog has to fit
                 2. where prompts have vectors, the bundle's own checkpoint makes those of all items
    swap.py      3. the new bundle is staged beside the old one
    variant.py   4. each variant is tried on this machine
    swap.py      5. the catalogs are swapped

Graphs, engines, variants and policies are not touched. If anything fails, nothing has changed.
"""

from rexit.refresh.run import RefreshReport, refresh
from rexit.refresh.variant import RefreshedVariant, RefreshOptions

__all__ = ["RefreshOptions", "RefreshReport", "RefreshedVariant", "refresh"]
