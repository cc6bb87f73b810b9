"""Passes for TensorRT and for ONNX Runtime on GPUs, one per file."""
