"""One ONNX graph per exit.

In: a multi-exit model. Out: each target's segment graphs, traced once and rewritten by its passes, and a `chain.Chain` that runs
them. Public: `targets.find_target`, `targets.Target`, `trace.export_segment`, `trace.derive_segment`, `chain.Chain`.

    passes                 helpers that all passes share
    linear_layers          linear layers: finds them, and brings them into one form
    smooth_linear_inputs   scales channels, so that rounding loses less
    rounding               weights and inputs in eight and four bits
    cpu                    passes for ONNX Runtime's CPU with rexit's kernels
    accelerators           passes for TensorRT and CUDA
"""
