"""From traces to the cheapest policies: maps, expected losses, the search; other ways to stop for comparison."""
