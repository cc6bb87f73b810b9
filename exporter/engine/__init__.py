"""TensorRT engines.

In: a variant's graphs, a Python with the compiler's bindings. Out: plans, each built in its own process.
Public: `compilers.find_compiler`, `compilers.BuilderProcess`.
"""
