"""What the commands print: tables on stdout, notes on stderr.

catalog.py       a catalog, from `rexit index` and `rexit update`
heads.py         heads on a frozen model
export.py        variants
engines.py       TensorRT's engines
calibration.py   a policy
scores.py        one scored slate
batch.py         files of scored pairs
description.py   what a bundle, a catalog or a policy holds
prompt.py        a prompt
bench.py         times
audit.py         audited slates, and what users did
"""
