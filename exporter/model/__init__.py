"""The multi-exit model in PyTorch: what a training script imports.

In: a Hugging Face decoder, depths to exit at. Out: a checkpoint with a head per exit, and the unsplit model's log-odds.
Public: `checkpoint.load_checkpoint`, `checkpoint.save_checkpoint`, `decoder.Decoder`, `heads.ExitHeads`,
`multi_exit.MultiExitModel`, `packed.pack`, `packed.batch`, `projectors.Projectors`, `vectors.Sources`.
"""
