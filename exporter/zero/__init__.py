"""Exit zero: a small graph over numbers that need no model.

fit.py      gradient boosting on the training split, as of each slate's moment
trees.py    its trees as one ONNX node
graph.py    runs the graph, and checks one from elsewhere
"""
