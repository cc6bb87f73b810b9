"""Passes that lower a graph's precision, one per file; `linear` is shared."""
