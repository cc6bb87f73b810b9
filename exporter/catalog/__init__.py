"""From interactions to the catalog's tables.

In: tables of interactions, users and items. Out: rows in splits, and the catalog's tables.
Public: `interactions.read_interactions`, `entities.read_entities`, `encoded.rows`, `splits.assign`,
`negatives.with_negatives`.
"""
