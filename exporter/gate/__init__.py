"""Whether exported graphs may be written.

In: graphs, golden slates, validation prompts. Out: a verdict, and what whoever runs them again is held to: parity with PyTorch
for float32, quality against float32 for fewer bits. Public: `parity.compare`, `parity.check`, `quality.assess`, `judge.Judge`.
"""
