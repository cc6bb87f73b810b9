"""From likes to the retriever: embeddings of users and items, LightGCN's or external, and the search among them.

In: likes by row, or files of embeddings. Out: embeddings, fold-in rows, snapshots, similar users.
Public: `lightgcn.train`, `external.read_embeddings`, `fold_in.placed`, `neighbours.similar_users`.
"""
