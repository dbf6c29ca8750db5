"""How the program ends: at once, but after all that was to be closed and said."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_what_is_not_written_is_no_success():
    script = [sys.executable, "-c", SCRIPT.format(end="sys.exit()")]
    kept_back = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            script, stdout=full, stderr=subprocess.PIPE, timeout=60, env=kept_back
        )
    assert (ended.returncode, ended.stderr) == (120, b"")


def test_nobody_has_to_listen():
    script = [sys.executable, "-m", "ablate", "--version"]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *script], stderr=subprocess.PIPE, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
