"""What the engine says when it cannot go on."""

from __future__ import annotations

import errno

COMMAND_LINE = "command line"
"""The source of a mistake in a command's own words."""

LONGEST = 500
"""Characters of a message at the most."""
_LONGEST_KEY = 120


class ConfigError(Exception):
    """A configuration that cannot be used: one line that names the file, the key and the remedy.

    It has ``LONGEST`` characters at the most: of a longer one, the end is cut off.

    Args:
        source: the file (or ``COMMAND_LINE``) that holds the mistake.
        key: the dotted key inside it, or "" for the file as a whole.
        message: what is wrong and what would be right.
    """

    def __init__(self, source: str, key: str, message: str) -> None:
        file = source if len(source) <= LONGEST // 2 else f"…{source[-LONGEST // 2 :]}"
        place = f"{file}: {shortened(key, _LONGEST_KEY)}" if key else file
        super().__init__(shortened(printable(f"{place}: {' '.join(message.split())}"), LONGEST))


def shortened(text: str, length: int = 60) -> str:
    """A text without its end where it is long: of labels and names, which may be any text."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text: str) -> str:
    """A text on one line, with what cannot be seen as escapes: a name may hold any character."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class DataError(ConfigError):
    """Training data that cannot be prepared: its files are not there, or not what they should be.

    Apart from other mistakes, as a sweep can be planned without its data.
    """


class StoreError(ConfigError):
    """A store of runs or studies that cannot be reached, or refuses what is asked of it."""


class CellError(Exception):
    """A cell that cannot give a result (a non-finite loss, no supervised token): it fails alone."""


def reason(error: Exception) -> str:
    """What an exception says, with its kind where the words alone may not tell (``'depht'``)."""
    spoken = isinstance(error, ValueError | OSError)
    return str(error) if spoken else f"{type(error).__name__}: {error}"


_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")


def is_full(error: Exception) -> bool:
    """Whether a disk is full, or a user's share of it, as Python, Rust, Arrow or SQLite say it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(words in str(error) for words in _FULL)
