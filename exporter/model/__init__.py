"""The multi-exit model in PyTorch, for training and export.

In: a decoder with a head per exit, packed slates. Out: logits at every exit, and the unsplit model's log-odds.
Public: `decoder.Decoder`, `multi_exit.ExitHeads`, `multi_exit.MultiExitModel`, `packed.pack`, `packed.batch`.
"""
