"""A bundle in use: is it whole (checks), what it costs (measure), what its policy loses (audit), a newer catalog (refresh).

May import `rexit.format`, `rexit.data`, the runtime and, for refresh and checks, what made the bundle.
"""
