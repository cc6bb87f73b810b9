"""Prompts that come from outside: texts as token ids, and files of slates."""
