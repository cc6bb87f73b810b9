"""Training of a multi-exit model: a decoder, with heads at its exits.

In: a decoder and a catalog. Out: a multi-exit checkpoint.

    trainer       transformers' Trainer: a batch -> the loss of all exits, rates by depth, states, progress
    fine_tuning   all of it: `rexit train`
"""
