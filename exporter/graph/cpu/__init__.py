"""Passes for the CPU, one per file. ONNX Runtime runs the graphs, with kernels of the runtime (`runtime/src/kernels/`)."""
