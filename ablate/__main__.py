"""``python -m ablate``: the command line."""

from ablate.cli.main import program

program()
