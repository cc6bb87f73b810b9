"""Heads for a model that has none: fitted on the hidden rows of a decoder whose weights do not change.

In: a model with one answer at its end, or with none, and a catalog. Out: a multi-exit checkpoint.

    base        the model, and its own last answer
    rows        the file of hidden rows
    forward     slates -> hidden rows
    fit         hidden rows -> a head
    layers      a head at every layer: figures by layer
    choose      figures -> exits
    assemble    exits -> the checkpoint's heads
    run         all of it: `rexit heads`
"""
