"""Shared by all passes: `nodes` and `functions`. A pass takes a graph, changes it in place and returns it; a target
(`rexit.exporter.graph.targets`) is a list of passes."""
