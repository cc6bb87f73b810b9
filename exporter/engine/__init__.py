"""TensorRT engines.

In: a variant's graphs, a Python with a compiler's binding. Out: plans, each built in a process of its own.
Public: `compilers.find_compiler`, `builder_process.BuilderProcess`.
"""
