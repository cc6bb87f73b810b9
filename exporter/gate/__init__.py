"""Whether exported graphs may be written.

In: graphs, golden slates, validation prompts. Out: a verdict, and the golden answers and tolerance that later runs are
checked against: parity with PyTorch for float32, quality against float32 for fewer bits. Public: `parity.compare`,
`parity.check`, `quality.assess`, `judge.Judge`.
"""
