"""The commands that use a bundle."""
