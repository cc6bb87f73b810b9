"""What is on disk and on the wire: bundle, catalog, policy, golden samples, requests, and how ids, times, roles and candidates
are written there.

May import `rexit.errors`, `rexit.interrupts` and the compiled library, and no other room. Whoever reads or writes a file of
rexit's asks this one.
"""
