"""From interactions to the catalog's tables.

In: tables of interactions, users and items. Out: rows in splits, and the catalog's tables.
Public: `interactions.read_interactions`, `source_tables.read_entities`, `source_tables.vector_rows`, `splits.assign`,
`draws.with_draws`.
"""
