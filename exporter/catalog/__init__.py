"""From interactions to what is known of users and items.

In: tables of interactions, users and items. Out: rows in splits, LightGCN embeddings, similar users, the catalog's tables.
Public: `interactions.read_interactions`, `encoded.rows`, `splits.assign`, `negatives.with_negatives`, `lightgcn.train`,
`neighbours.similar_users`.
"""
