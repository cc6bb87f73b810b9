"""Passes over an exported graph, one per file: equal results with fewer or faster operators. `nodes` and `functions` are shared.
A target (`rexit.exporter.graph.targets`) is a list of passes."""
