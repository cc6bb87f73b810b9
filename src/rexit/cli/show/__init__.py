"""What the commands print: tables on stdout, notes on stderr.

scores.py        one scored slate
batch.py         files of scored pairs
catalog.py       a catalog that was made
description.py   a bundle, a catalog or a policy
prompt.py        a prompt
audit.py         audited slates
"""
