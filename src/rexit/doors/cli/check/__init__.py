"""The commands that check a bundle and what it does."""
