"""How other libraries behave: what they print, how many threads they use, what they download."""
