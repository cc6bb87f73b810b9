"""rexit: early-exit LLM recommenders, from ratings to the edge."""

__version__ = "0.1.0"
