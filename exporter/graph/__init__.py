"""One ONNX graph per exit.

In: a multi-exit model. Out: each target's segment graphs, traced once and rewritten by its passes, and a `chain.Chain` that runs
them. Public: `targets.find_target`, `targets.Target`, `trace.export_segment`, `trace.derive_segment`, `chain.Chain`.

    passes         helpers that all passes share
    linear         linear layers: find them, round their weights
    cpu            passes for ONNX Runtime's CPU with rexit's kernels
    accelerators   passes for TensorRT and CUDA
"""
