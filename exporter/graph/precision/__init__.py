"""Passes that compute in fewer bits, one per file, and what they share (`linear`)."""
