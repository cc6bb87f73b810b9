"""Linear layers of a graph: finds them, brings them into one form, rounds their weights. Used by the passes of every target."""
