"""Decides whether exported graphs may be written.

In: graphs, golden slates, validation prompts. Out: a verdict, and the golden answers and tolerance that later runs are checked
against: parity with PyTorch for float32, quality relative to float32 for lower precisions. Public: `parity.compare`,
`parity.check`, `quality.assess`, `quality.Judge`.
"""
