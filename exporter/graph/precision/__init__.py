"""Passes that make graphs compute in fewer bits, one per file, and what they share (`linear`)."""
