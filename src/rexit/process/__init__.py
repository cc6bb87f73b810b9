"""How a process ends: by a signal, or with one line about a user's mistake."""
