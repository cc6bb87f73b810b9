"""Commands that are stopped at any of their file operations: afterwards what they write is the old or the new, never half."""
