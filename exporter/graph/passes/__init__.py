"""Passes over an exported graph, one per file: the same numbers with fewer or faster operators. A target
(`rexit.exporter.graph.targets`) is a list of passes."""
