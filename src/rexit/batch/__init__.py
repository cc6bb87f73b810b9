"""Batch scoring: any number of pairs, in memory that does not grow with them, by a run that can be killed and goes on.

    pairs.py       files → batches of rows → checked records
    work.py        OUT.partial: the plan, the pairs partitioned by user, what is scored of them
    partition.py   one partition → its scores
    engine.py      one session, here
    ray_engine.py  a session in each of Ray's workers
    output.py      scores, and the rows they belong to → OUT
    run.py         the steps in their order

A user's pairs are in one partition, and every user begins with an empty prefix cache. So scores depend neither on how far an
earlier run came nor on the engine.
"""

from rexit.batch.pairs import ColumnNames, PairFiles
from rexit.batch.run import BatchOptions, Report, score_files

__all__ = ["BatchOptions", "ColumnNames", "PairFiles", "Report", "score_files"]
