"""Where requests come in: the command line, Python's rankers, HTTP and files of pairs, all over one pool of sessions.

May import every other room; no other room may import this one.
"""
