"""Passes over an exported graph, one per file: the same numbers with fewer or faster operators, and what all passes share
(`nodes`, `functions`). A target (`rexit.exporter.graph.targets`) is a list of passes."""
