"""Batch scoring: any number of pairs, in constant memory, by a run that can be killed and resumed.

    pairs.py       files → batches of rows
    records.py     rows → checked records
    work.py        OUT.partial: the plan, the records partitioned by user, the scores so far
    partition.py   partitions → their scores, by one session
    output.py      scores and their rows → OUT
    run.py         the steps in their order

A user's pairs are in one partition, and every user begins with an empty prefix cache. So scores do not depend on
what an earlier run finished.
"""

from rexit.batch.pairs import ColumnNames, PairFiles
from rexit.batch.run import BatchOptions, Report, score_files

__all__ = ["BatchOptions", "ColumnNames", "PairFiles", "Report", "score_files"]
