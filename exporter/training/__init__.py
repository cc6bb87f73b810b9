"""Training of a multi-exit model: a decoder, with heads at its exits and projectors for the vectors in its prompts.

In: a decoder and a catalog. Out: a multi-exit checkpoint.

    settings         what must stay the same when a training resumes
    starting_model   a decoder with fresh heads, projectors and low-rank additions
    learner          a batch -> the loss of all exits
    trainer          transformers' Trainer: rates by depth, states, progress
    run              all of it: `rexit train`
"""
