"""What is scored and learned from: slates of a catalog, files of slates, texts as tokens, and how rankings are judged.

May import `rexit.format` and the compiled library. The runtime asks it for a request's tokens.
"""
