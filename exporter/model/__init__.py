"""The multi-exit model in PyTorch, for training and export.

In: a Hugging Face decoder, depths of exits. Out: a checkpoint with a head per exit, and the unsplit model's log-odds.
Public: `checkpoint.load_checkpoint`, `checkpoint.save_checkpoint`, `decoder.Decoder`, `heads.ExitHeads`,
`multi_exit.MultiExitModel`, `packed.pack`, `packed.batch`, `projectors.Projectors`, `vectors.Sources`.
"""
