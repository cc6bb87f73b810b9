"""Heads for a model that has none: fitted on the hidden rows of a decoder whose weights do not change.

In: a model with one answer at its end, or with none, and a catalog. Out: a multi-exit checkpoint.

    hidden_rows    slates -> the file of hidden rows
    layers         hidden rows -> a head at every layer -> exits
    frozen_heads   all of it: `rexit heads`
"""
