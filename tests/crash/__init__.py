"""Commands stopped at any of their file operations: what they write is then the old or the new, never half of each."""
