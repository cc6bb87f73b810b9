"""What the commands share.

help.py      how a command's help looks
output.py    results to stdout, progress and errors to stderr
tables.py    tables that fit the terminal
options.py   options that several commands have
named.py     options of the form NAME=VALUE: --column, --input
request.py   the request of one slate
extras.py    which of rexit's extras brings a missing module
"""
