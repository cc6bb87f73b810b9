"""One ONNX graph per exit.

In: a multi-exit model. Out: each target's segment graphs, traced once and rewritten by its passes (`passes`: the same numbers,
faster; `precision`: fewer bits), and a `chain.Chain` that runs them. Public: `targets.find_target`, `targets.Target`,
`trace.export_segment`, `trace.derive_segment`, `chain.Chain`.
"""
