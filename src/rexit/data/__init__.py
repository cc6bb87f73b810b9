"""Data as people write it: text tables, and times."""
