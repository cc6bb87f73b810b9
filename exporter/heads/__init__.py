"""Heads for a model that has none: fitted on the hidden rows of a decoder whose weights stay as they are.

In: a model with one answer at its end, or with none, and a catalog. Out: a multi-exit checkpoint.

    base       the model, and its own last answer
    rows       the file of hidden rows
    forward    slates -> hidden rows
    fit        hidden rows -> a head
    layers     a head at every layer: figures by layer
    choose     figures -> exits
    picture    figures -> a picture
    run        all of it: `rexit heads`
"""
