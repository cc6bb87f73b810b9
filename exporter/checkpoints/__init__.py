"""Checkpoints: multi-exit ones, and decoders and rerankers as other projects save them.

In: a folder, a GGUF file, a Hub id. Out: a decoder with a head per exit; and the same back to disk.
Public: `checkpoint.load_checkpoint`, `checkpoint.save_checkpoint`.
"""
