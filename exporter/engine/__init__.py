"""TensorRT engines.

In: a variant's graphs, a Python with the compiler's bindings. Out: plans, each built in its own process.
Public: `compile.find_compiler`, `compile.BuilderProcess`.
"""
