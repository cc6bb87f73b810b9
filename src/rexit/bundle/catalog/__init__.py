"""`catalog/`: users, items, the prompt program and splits."""

from rexit.bundle.catalog.catalog import TABLES, ZERO, Catalog
from rexit.bundle.catalog.ids import Ids
from rexit.bundle.catalog.program import first_difference
from rexit.bundle.catalog.splits import SPLITS, Split

__all__ = ["SPLITS", "TABLES", "ZERO", "Catalog", "Ids", "Split", "first_difference"]
