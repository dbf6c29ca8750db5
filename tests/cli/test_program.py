"""How the program ends: at once, but after all that was to be closed and said."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from ablate.cli import main as command_line

def main():
    atexit.register(print, "closed")
    print("said")
    {end}

command_line.main = main
command_line.program()
"""


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('why')", 1, "why\n"),
        ("raise ValueError('why')", 1, "ValueError: why\n"),
    ],
)
def test_the_end_of_the_program(end, code, error):
    script = [sys.executable, "-c", SCRIPT.format(end=end)]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (code, "said\nclosed\n")
    assert ended.stderr.endswith(error)
    assert bool(ended.stderr) is bool(error)
