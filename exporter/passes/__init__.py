"""Passes over an exported graph, one per file. A target (`rexit.exporter.targets`) is a list of them."""
